//! Logs with something missing, and what a check says of them.

use std::path::PathBuf;

use banter_log::catalog::Break;
use banter_log::index::Chain;
use banter_log::segment::{Class, file_name};
use banter_protocol::ids::{Epoch, RoomId};

use super::super::beside::Beside;
use super::super::made::{Made, Post};
use super::super::walk::{Found, walk};
use super::*;
use crate::host::TestFolder;
use crate::storage::ledger::{LastRun, Ledger, LedgerFile};
use crate::storage::recovery::{Opening, recover};

const SHORT: Class = Class { hours: 1, bytes: 0 };
const RUN: u64 = 3;

/// A log whose rooms are chained over its segments, as the server writes it.
struct Log {
    folder: TestFolder,
    before: BTreeMap<RoomId, Chain>,
}

impl Log {
    fn new(name: &str) -> Self {
        Self::with(name, Ledger::default())
    }

    fn with(name: &str, ledger: Ledger) -> Self {
        let log = Log { folder: TestFolder::new(name), before: BTreeMap::new() };
        fs::create_dir(log.path()).unwrap();
        let last = Some(LastRun { run: RUN, is_closed: true, boot: None });
        LedgerFile::make(&log.path(), Ledger { last, ..ledger }).unwrap();
        log
    }

    fn path(&self) -> PathBuf {
        self.folder.0.join("log")
    }

    /// A sealed segment of these posts, a block each.
    fn add(&mut self, id: u64, class: Class, posts: &[(&str, u64)]) {
        let header =
            SegmentHeader { id, nonce: 5 * id, core: 0, class, run: RUN, made_unix_ms: 5, file_bytes: 1 << 16 };
        let mut made = Made::of(header);
        for &(room, sequence) in posts {
            made.block(&[Post { room, ..Post::at(sequence) }]);
        }
        let mut file = made.file();
        file.resize(1 << 16, 0);
        let (mut index, _) = index_of(&file).unwrap();
        for room in posts.iter().map(|(room, _)| RoomId::of(room)).collect::<BTreeSet<_>>() {
            let before = self.before.get(&room).copied().unwrap_or_default();
            index.set_chain(room, before);
            self.before.insert(room, Chain { before: id, before_tag: class.tag(), depth: before.depth + 1, ..before });
        }
        fs::write(self.path().join(file_name(id)), file).unwrap();
        fs::write(index_path(&self.path(), id), index.encode(&header, made.end_offset(), true)).unwrap();
    }

    /// Three segments of "lobby", the second with all that there is of "hall" before the third; another class beside them.
    fn three(name: &str) -> Self {
        let mut log = Log::new(name);
        log.add(1, Class::SERVER, &[("lobby", 1), ("lobby", 2)]);
        log.add(2, Class::SERVER, &[("lobby", 3), ("hall", 1)]);
        log.add(3, SHORT, &[("game", 1)]);
        log.add(4, Class::SERVER, &[("lobby", 4), ("hall", 2)]);
        log
    }

    fn lose(&self, id: u64) {
        fs::remove_file(self.path().join(file_name(id))).unwrap();
        let _ = fs::remove_file(index_path(&self.path(), id));
    }

    /// What is broken, by segment; what was given up; and what the indexes are like.
    fn check(&self) -> (Vec<(u64, String)>, Vec<u64>, Vec<IndexState>) {
        let folder = LogFolder::open(&self.folder.0).unwrap();
        let mut chains = Chains::new(&folder, &Beside::read(&folder.path, true).ledger);
        let (mut broken, mut states, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
        for &id in &folder.segments {
            let mut walk = walk(&folder, id, &mut buffer, &mut |_: &Found<'_>| Ok(None)).unwrap();
            states.push(chains.see(&folder, &mut walk, &buffer));
            broken.extend(walk.damages.listed.iter().map(|damage| (id, damage.what.to_string())));
        }
        (broken, chains.given_up.into_iter().collect(), states)
    }

    /// Whether a server starts on it; that changes it.
    fn starts(&self) -> bool {
        let opening = Opening { folder: &self.path(), cores: 1, levels_hash: 1, accept_corruption: false };
        recover(&opening, &mut |seen| Ok(seen + 1)).is_ok()
    }
}

#[test]
fn a_whole_log_lacks_nothing_nor_does_one_whose_oldest_segments_are_gone() {
    let log = Log::three("chains-whole");
    assert_eq!(log.check(), (vec![], vec![], vec![IndexState::Whole; 4]));
    for id in [1, 2, 3] {
        log.lose(id);
        assert_eq!(log.check().0, [], "up to {id}");
    }
    assert!(log.starts());
}

#[test]
fn a_segment_that_is_missing_in_the_midst_is_damage_though_not_where_its_class_has_no_older_one() {
    let log = Log::three("chains-midst");
    log.lose(2);
    let (broken, ..) = log.check();
    let what = Broken::Missing { missing: 2, rooms: 2 }.to_string();
    assert_eq!(broken, [(4, what)]);
    assert!(!log.starts());
    let mut other = Log::new("chains-class");
    other.add(1, SHORT, &[("game", 1)]);
    other.add(2, Class::SERVER, &[("hall", 1)]);
    other.add(3, Class::SERVER, &[("hall", 2)]);
    other.lose(2);
    assert_eq!(other.check().0, []);
    assert!(other.starts());
}

#[test]
fn without_indexes_messages_that_are_missing_behind_the_oldest_segment_are_damage() {
    let log = Log::three("chains-copy");
    (1..=4).for_each(|id| fs::remove_file(index_path(&log.path(), id)).unwrap());
    assert_eq!(log.check(), (vec![], vec![], vec![IndexState::Missing; 4]));
    log.lose(2);
    let what = Broken::Hole { behind: 1, rooms: 1, from: 3, to: 3 }.to_string();
    assert_eq!(log.check().0, [(4, what)]);
    assert!(!log.starts());
}

#[test]
fn what_a_start_was_told_to_go_on_without_is_no_damage() {
    let given_up = Break { run: RUN, epoch: Epoch(9), every_level: true };
    for (name, run, is_given_up) in [("chains-up", RUN, true), ("chains-not-up", RUN - 1, false)] {
        let ledger = Ledger { all_break: Some(Break { run, ..given_up }), ..Ledger::default() };
        let mut log = Log::with(name, ledger);
        (1..=3).for_each(|id| log.add(id, Class::SERVER, &[("lobby", id)]));
        log.lose(2);
        let (broken, given_up, _) = log.check();
        assert_eq!((broken.is_empty(), given_up), (is_given_up, if is_given_up { vec![2] } else { vec![] }));
    }
}

#[test]
fn a_segment_that_ends_ahead_of_where_its_index_says_lost_messages() {
    let log = Log::three("chains-end");
    let path = log.path().join(file_name(1));
    let mut file = fs::read(&path).unwrap();
    // The last of two blocks, whole or a part of it.
    for from in [8_192 + 100, 8_192] {
        file[from..12_288].fill(0);
        fs::write(&path, &file).unwrap();
        let (broken, ..) = log.check();
        assert_eq!(broken, [(1, Broken::IndexEnd { said: 12_288 }.to_string())], "from {from}");
    }
}

#[test]
fn an_index_that_does_not_check_is_said_and_no_damage() {
    let log = Log::three("chains-index");
    let path = index_path(&log.path(), 2);
    let whole = fs::read(&path).unwrap();
    for at in [0, 70, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        let (broken, _, states) = log.check();
        assert_eq!((broken, states[1]), (vec![], IndexState::Damaged), "byte {at}");
    }
}
