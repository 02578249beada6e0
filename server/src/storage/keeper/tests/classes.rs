//! Classes that keep a day or all: the keeper with the journals of two cores, over starts, and time that is told.

use std::fs::File;

use banter_log::index::Entry;
use banter_log::journal::{Ask, Done, Journal, JournalParts, Reach};
use banter_log::record::{Author, Record};
use banter_protocol::event::Message;
use banter_protocol::ids::Sequence;
use banter_protocol::native::write_message;
use banter_protocol::request::{Body, BodyFormat};

use super::super::super::recovery::{Opening, recover};
use super::*;

pub(super) const DAY: Class = Class { hours: 24, bytes: 0 };
pub(super) const CORES: u16 = 2;
pub(super) const GAMES: usize = 10_000;
pub(super) const LOBBIES: usize = 10;
/// Rooms of a commit.
const COMMIT_ROOMS: usize = 100;
const AUTHOR: Author = Author { core: 0, slot: 1, generation: 1 };

/// A server's log: all but what waits for a clock.
pub(super) struct House {
    pub keeper: Keeper,
    cores: Vec<Receiver<ToCore>>,
    journals: Vec<Journal>,
    start_ms: u64,
}

pub(super) fn game(number: usize) -> String {
    format!("game-{number:05}")
}

pub(super) fn lobby(number: usize) -> String {
    format!("lobby-{number}")
}

impl House {
    /// A start at that time.
    pub fn start(folder: &Path, unix_ms: u64) -> Self {
        let opening = Opening { folder, cores: CORES, levels_hash: 1, accept_corruption: false };
        let mut recovered = recover(&opening, &mut |seen| Ok(seen + 1)).unwrap();
        let (run, start_ms) = (recovered.run, recovered.begin(unix_ms));
        let parts = |catalog| JournalParts {
            run,
            commit_bytes_max: 1 << 20,
            reads_max: 1,
            work_steps_max: 1_000,
            cache_bytes_max: 0,
            catalog,
            indexes: recovered.unwritten.clone(),
        };
        let journals = std::mem::take(&mut recovered.catalogs).into_iter().map(|it| Journal::new(parts(it))).collect();
        let (links, cores): (Vec<_>, Vec<_>) = (0..CORES)
            .map(|_| {
                let (messages, inbox) = flume::unbounded();
                (CoreLink { messages, bell: Bell::new().unwrap() }, inbox)
            })
            .unzip();
        let keeper = Keeper::new(KeeperParts {
            folder: folder.to_owned(),
            limits: Limits { log_segment_bytes: 64 * 1_024, ..limits() },
            classes: 2,
            run,
            start_ms,
            cores: links,
            segments: recovered.segments,
            unwritten: recovered.unwritten,
            ledger: recovered.ledger,
            inbox: flume::unbounded().1,
            state: Arc::default(),
        });
        let mut house = House { keeper, cores, journals, start_ms };
        house.settle();
        house
    }

    /// Does what is asked and takes what is answered, until there is neither. Whether there was anything.
    pub fn settle(&mut self) -> bool {
        let mut worked = false;
        while (0..self.journals.len()).any(|core| self.step(core)) {
            worked = true;
        }
        worked
    }

    fn step(&mut self, core: usize) -> bool {
        let told: Vec<ToCore> = self.cores[core].drain().collect();
        let journal = &mut self.journals[core];
        let mut worked = !told.is_empty() || journal.has_work();
        for message in told {
            let answer = match message {
                ToCore::LogSegment(header, _) => Answer::Segment(header),
                ToCore::Log(answer) => answer,
                other => panic!("{other:?}"),
            };
            journal.handle(answer, &mut Vec::new());
        }
        while journal.has_work() {
            journal.work();
        }
        let asks = std::mem::take(journal.asks_mut());
        worked |= !asks.is_empty();
        asks.into_iter().for_each(|ask| self.perform(Core(core as u16), ask));
        worked
    }

    fn perform(&mut self, core: Core, ask: Ask) {
        let to_keeper = match ask {
            Ask::Prepare { class, is_urgent } => ToKeeper::Prepare { core, class, is_urgent },
            Ask::Seal { end, is_provable, index, newest_ms } => ToKeeper::Seal { end, is_provable, index, newest_ms },
            Ask::Release { segment } => ToKeeper::Release { core, segment },
            Ask::LetGo { index } => ToKeeper::LetGo { index },
            Ask::MendIndex { segment } => ToKeeper::MendIndex { core, segment },
            Ask::Append { segment, offset, block, .. } => return self.append(core, segment.id, offset, &block),
            Ask::Read(range) => panic!("nobody reads: {range:?}"),
            Ask::Prove => panic!("nobody else has the folder"),
        };
        self.keeper.take(to_keeper);
    }

    fn append(&mut self, core: Core, segment: u64, offset: u64, block: &[u8]) {
        let path = segment_path(&self.keeper.folder, segment);
        File::options().write(true).open(path).unwrap().write_all_at(block, offset).unwrap();
        let (journal, mut done) = (&mut self.journals[core.index()], Vec::new());
        journal.handle(Answer::Written, &mut done);
        journal.handle(Answer::Synced, &mut done);
        assert!(matches!(done.last(), Some(Done::Committed { is_last: true, .. })), "{done:?}");
    }

    fn journal(&self, room: &str) -> &Journal {
        &self.journals[core_of(RoomId::of(room), CORES).index()]
    }

    fn epoch_of(&self, room: &str, class: Class) -> Epoch {
        self.journal(room).catalog().epoch_of(RoomId::of(room), Level::Synced, class)
    }

    /// The places that a room has in the log.
    fn places(&self, room: &str) -> Option<(u64, u64)> {
        self.journal(room).catalog().room(RoomId::of(room)).map(|it| (it.first.0, it.head.0))
    }

    /// Rooms in the log.
    fn rooms(&self) -> usize {
        self.journals.iter().map(|journal| journal.catalog().len()).sum()
    }

    /// A post to each of these rooms, a commit for each core.
    pub fn post(&mut self, class: Class, rooms: &[String]) {
        for core in 0..CORES {
            let of_core = rooms.iter().filter(|room| core_of(RoomId::of(room), CORES) == Core(core));
            let frames: Vec<_> = of_core.map(|room| (room.as_str(), self.next_frame(room, class))).collect();
            if !frames.is_empty() {
                self.commit(core.into(), class, &frames);
            }
        }
    }

    fn next_frame(&self, room: &str, class: Class) -> Vec<u8> {
        let sequence = Sequence(self.places(room).map_or(1, |(_, head)| head + 1));
        let (epoch, time_ms, user, key) = (self.epoch_of(room, class), self.start_ms, "ann", None);
        let body = Body { format: BodyFormat::Json, bytes: b"\"well played\"" };
        let mut frame = Vec::new();
        write_message(&Message { epoch, sequence, time_ms, room, user, key, body }, &mut frame);
        frame
    }

    fn commit(&mut self, core: usize, class: Class, frames: &[(&str, Vec<u8>)]) {
        let records = frames.iter().map(|(room, frame)| {
            let record = Record::message(RoomId::of(room), Level::Synced, AUTHOR, frame);
            (record, Entry::read(&record, RoomId::of).unwrap().0, *room)
        });
        let bytes = records.clone().map(|(record, ..)| record.bytes()).sum();
        while !self.journals[core].make_room(class, bytes) {
            assert!(self.settle(), "no segment comes");
        }
        assert!(self.journals[core].commit(class, records, Reach::WrittenThenSynced));
        self.settle();
    }

    /// Every game ends with its one message, and the lobbies have one each for every hundred of them.
    pub fn play(&mut self) {
        let (games, lobbies): (Vec<_>, Vec<_>) = ((0..GAMES).map(game).collect(), (0..LOBBIES).map(lobby).collect());
        for games in games.chunks(COMMIT_ROOMS) {
            self.post(DAY, games);
            self.post(Class::SERVER, &lobbies);
        }
    }

    /// It is that many hours behind the start, by every clock.
    pub fn at_hour(&mut self, hours: u64) {
        self.keeper.ages.advance(hours * HOUR_MS, unix_ms() + hours * HOUR_MS);
        self.look();
    }

    /// Retention is due some times: a segment that is written is left in one, and goes in the next.
    pub fn look(&mut self) {
        for _ in 0..5 {
            self.keeper.retention_at = Instant::now();
            self.keeper.do_due();
            self.settle();
        }
    }

    /// The wall clock has stood for as long as it takes to be believed.
    pub fn believe_clock(&mut self) {
        self.keeper.ages.advance(BELIEVED_BEHIND_MS, unix_ms() + BELIEVED_BEHIND_MS);
        self.look();
    }

    pub fn stop(mut self) {
        assert!(self.journals.iter_mut().all(Journal::end));
        self.settle();
        self.keeper.accept(ToKeeper::Stop { is_whole: true });
        self.keeper.stop();
    }
}

/// Segments of the folder that hold something of rooms with such names.
fn segments_with(folder: &Path, name: &str) -> usize {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let segments = paths.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
    let holds = |bytes: Vec<u8>| bytes.windows(name.len()).any(|there| there == name.as_bytes());
    segments.filter(|path| holds(fs::read(path).unwrap())).count()
}

fn assert_lobbies_are_whole(house: &House) {
    let places = Some((1, (GAMES / COMMIT_ROOMS) as u64));
    assert!((0..LOBBIES).all(|number| house.places(&lobby(number)) == places));
}

#[test]
fn ten_thousand_finished_games_of_a_day_are_off_the_disk_a_day_later_and_the_lobbies_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::start(folder.path(), unix_ms());
    house.play();
    let (epoch, of_lobbies) = (house.epoch_of(&game(0), DAY), segments_with(folder.path(), "lobby-"));
    assert!(segments_with(folder.path(), "game-") > 20 && of_lobbies > 2);
    house.at_hour(23);
    assert_eq!(house.rooms(), GAMES + LOBBIES, "not within the day");
    house.at_hour(25);
    assert_eq!((house.rooms(), segments_with(folder.path(), "game-")), (LOBBIES, 0), "also what was being written");
    assert_eq!(segments_with(folder.path(), "lobby-"), of_lobbies);
    assert_lobbies_are_whole(&house);
    let anew = house.epoch_of(&game(0), DAY);
    assert!(anew > epoch);
    house.stop();
    let house = House::start(folder.path(), unix_ms());
    assert_eq!((house.rooms(), house.epoch_of(&game(0), DAY)), (LOBBIES, anew), "nothing of it comes back");
    assert_lobbies_are_whole(&house);
}

#[test]
fn games_that_no_later_start_touches_go_once_its_clock_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::start(folder.path(), unix_ms() - 48 * HOUR_MS);
    house.play();
    let epoch = house.epoch_of(&game(0), DAY);
    house.stop();
    let mut house = House::start(folder.path(), unix_ms());
    house.look();
    let there = (house.rooms(), house.epoch_of(&game(0), DAY));
    assert_eq!(there, (GAMES + LOBBIES, epoch), "not within minutes of a start");
    house.believe_clock();
    assert_eq!((house.rooms(), segments_with(folder.path(), "game-")), (LOBBIES, 0));
    assert_lobbies_are_whole(&house);
    let anew = house.epoch_of(&game(0), DAY);
    assert!(anew > epoch);
    house.stop();
    assert_eq!(House::start(folder.path(), unix_ms()).epoch_of(&game(0), DAY), anew, "kept without a message");
}

#[test]
fn a_room_that_came_to_a_class_without_end_keeps_what_it_has_there_when_the_day_of_the_rest_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let room = [game(1)];
    let mut house = House::start(folder.path(), unix_ms() - 48 * HOUR_MS);
    (0..3).for_each(|_| house.post(DAY, &room));
    house.stop();
    let mut house = House::start(folder.path(), unix_ms() - 47 * HOUR_MS);
    assert_eq!(house.places(&room[0]), Some((1, 3)));
    (0..3).for_each(|_| house.post(Class::SERVER, &room));
    house.stop();
    let mut house = House::start(folder.path(), unix_ms());
    assert_eq!(house.places(&room[0]), Some((1, 6)));
    house.believe_clock();
    assert_eq!(house.places(&room[0]), Some((4, 6)), "what the day had is gone, and nothing else");
    let epochs = |house: &House| [DAY, Class::SERVER].map(|class| house.epoch_of(&room[0], class));
    let [day, server] = epochs(&house);
    assert_eq!(day, server, "what went in this run lay before it");
    house.stop();
    let house = House::start(folder.path(), unix_ms());
    assert_eq!(house.places(&room[0]), Some((4, 6)));
    let [day, of_server] = epochs(&house);
    assert!(of_server == server && day > server, "newer ones may have gone with the day, as far as a start knows");
}

#[test]
fn a_full_disk_is_relieved_where_a_quiet_core_has_the_oldest_segments() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::start(folder.path(), unix_ms());
    let of_core = |core| {
        let mut names = (0..).map(lobby).filter(move |name| core_of(RoomId::of(name), CORES) == Core(core));
        names.next().unwrap()
    };
    let (quiet, busy) = ([of_core(0)], [of_core(1)]);
    house.post(Class::SERVER, &quiet);
    (0..200).for_each(|_| house.post(Class::SERVER, &busy));
    let of = |house: &House, core| house.keeper.segments.all().filter(|kept| kept.header.core == core).count();
    assert!(of(&house, 1) > 8 && of(&house, 0) == 2, "one that is written, and one ahead");
    let written = house.keeper.segments.all().find(|kept| kept.header.core == 0).map(|kept| kept.header.id);
    // Another program takes the rest of the disk.
    house.keeper.sizing = Sizing::new(&Limits { log_free_bytes_min: 1 << 60, ..limits() }, CORES.into(), 1);
    house.keeper.limits.retention_bytes = 4 * 64 * 1_024;
    house.at_hour(1);
    assert!(of(&house, 1) <= 4 && of(&house, 0) == 0, "{} and {}", of(&house, 1), of(&house, 0));
    assert_eq!(house.places(&quiet[0]), None);
    let state = &house.keeper.state;
    let dropped = state.dropped.lock().unwrap().get(&(0, Class::SERVER)).copied();
    assert_eq!(dropped, written.map(|id| (house.keeper.run, id)), "feeds lost nothing with the one that was ahead");
    assert_eq!(
        state.blank.load(Ordering::Relaxed),
        house.keeper.ledger.ledger().blank.0,
        "it says that something went"
    );
    // Some of it is free again.
    house.keeper.sizing = Sizing::new(&Limits { log_segment_bytes: 64 * 1_024, ..limits() }, CORES.into(), 1);
    house.keeper.retry_at = Some(Instant::now());
    house.look();
    house.post(Class::SERVER, &quiet);
    assert_eq!(house.places(&quiet[0]), Some((1, 1)));
}
