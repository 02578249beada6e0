//! Every truncation, and thousands of flipped bits: what a start says to each is known beforehand.

use banter_log::block;
use banter_log::record::message_bytes;

use super::*;

/// Flipped bits that chance chooses, beside every bit of every header.
const FLIPS: u64 = 5_000;
const SEED: u64 = 7;

/// What a start says to the second segment.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It has that many whole commits.
    Commits(usize),
    Refused,
}

/// A segment's blocks: where each starts, its bytes without padding, and whether a later one proves that it was whole.
struct Blocks(Vec<(usize, usize, bool)>);

impl Blocks {
    fn of(id: u64) -> Self {
        let commits = COMMITS[id as usize - 1];
        let block = |(number, (_, posts)): (usize, &Commit)| {
            let records = posts.iter().map(|&(room, sequence)| message_bytes(frame(room, sequence).len()));
            // The machine did not go down since: nothing that was written before another was lost.
            let is_proven = number + 1 < commits.len();
            ((number + 1) * PAGE_BYTES, block::HEADER_BYTES + records.sum::<usize>(), is_proven)
        };
        Blocks(commits.iter().enumerate().map(block).collect())
    }

    /// What a changed byte there means, where the segment has no index.
    fn verdict(&self, at: usize) -> Verdict {
        let hit = self.0.iter().position(|&(start, bytes, _)| (start..start + bytes).contains(&at));
        match hit {
            _ if at < SEGMENT_SUM_AT + 4 => Verdict::Refused,
            Some(number) if self.0[number].2 => Verdict::Refused,
            Some(number) => Verdict::Commits(number),
            None => Verdict::Commits(self.0.len()),
        }
    }

    /// Every bit of every header, and some thousands of others.
    fn bits(&self, file_bytes: usize) -> impl Iterator<Item = usize> {
        let starts = [0].into_iter().chain(self.0.iter().map(|block| block.0)).collect::<Vec<_>>();
        let headers = starts.into_iter().flat_map(|start| start * 8..(start + block::HEADER_BYTES) * 8);
        // Half of them where there is something, and half anywhere.
        let full: Vec<(usize, usize)> = self.0.iter().map(|&(start, bytes, _)| (start, bytes)).collect();
        let mut state = SEED;
        let chosen = (0..FLIPS).map(move |number| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chance = (state >> 24) as usize;
            let (start, bytes) = full[chance % full.len()];
            let at = if number % 2 == 0 { start + chance / 8 % bytes } else { chance / 8 % file_bytes };
            at * 8 + chance % 8
        });
        headers.chain(chosen)
    }
}

#[test]
fn every_flipped_bit_of_a_segment_without_an_index_is_harmless_a_torn_tail_or_refused() {
    let (log, blocks) = (Log::new(), Blocks::of(2));
    let file = file_of(&segment(2));
    for (count, bit) in blocks.bits(file.len()).enumerate() {
        log.reset();
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(log.segment(2), flipped).unwrap();
        let found = log.found();
        match blocks.verdict(bit / 8) {
            Verdict::Commits(commits) => {
                assert_eq!(found.unwrap(), expected(commits, EPOCH, EPOCH), "bit {bit}");
            }
            Verdict::Refused => {
                assert!(is_refused(&found), "bit {bit}: {found:?}");
                if count % 7 == 0 {
                    check_accepted(&log, bit / 8);
                }
            }
        }
    }
}

#[test]
fn behind_a_power_cut_only_what_was_said_to_be_synced_is_damage_and_written_rooms_have_a_new_epoch() {
    let log = Log::new();
    let broken = BREAK_EPOCH + FINDER;
    for (commit, is_lost) in [(0, true), (1, true), (2, false), (3, false)] {
        let mut file = file_of(&segment(2));
        file[(1 + commit) * PAGE_BYTES + 100] ^= 1;
        for boot in [this_boot(), None] {
            log.reset();
            let last = Some(LastRun { run: WRITER, is_closed: false, boot });
            LedgerFile::make(&log.folder, Ledger { last, ..ledger() }).unwrap();
            fs::write(log.segment(2), &file).unwrap();
            let found = log.found();
            let (is_refused, epoch) = match boot {
                Some(_) => (commit < 3, EPOCH),
                None => (is_lost, broken),
            };
            match found {
                Ok(found) => {
                    assert_eq!((is_refused, found), (false, expected(commit, EPOCH, epoch)), "{commit} {boot:?}")
                }
                Err(fault) => assert!(is_refused, "{commit} {boot:?}: {fault}"),
            }
        }
    }
}

#[test]
fn a_segment_whose_first_block_does_not_check_is_kept_and_only_one_that_is_empty_goes() {
    let log = Log::new();
    for (is_torn, boot) in [(true, this_boot()), (true, None), (false, this_boot())] {
        log.reset();
        let mut made = Made::of(header(3, 5, WRITER));
        if is_torn {
            made.commit(Written, &[frame("game", 4)]);
        }
        let mut file = file_of(&made);
        if is_torn {
            file[PAGE_BYTES + 100] ^= 1;
        }
        fs::write(log.segment(3), &file).unwrap();
        let last = Some(LastRun { run: WRITER, is_closed: false, boot });
        LedgerFile::make(&log.folder, Ledger { last, ..ledger() }).unwrap();
        for start in [FINDER, FINDER + 1] {
            log.recover(false, start).unwrap();
            assert_eq!(fs::read(log.segment(3)).ok(), is_torn.then(|| file.clone()), "{is_torn} {boot:?}");
        }
    }
}

/// A start that accepts it keeps what is whole before it, under new epochs.
fn check_accepted(log: &Log, at: usize) {
    let commits = (at / PAGE_BYTES).saturating_sub(1);
    let epoch = BREAK_EPOCH + FINDER;
    assert_eq!(log.accepted(), expected(commits, epoch, epoch), "byte {at}");
}

#[test]
fn every_flipped_bit_of_a_sealed_segment_is_refused_or_told_as_lost_by_a_reader() {
    let (log, blocks) = (Log::new(), Blocks::of(1));
    let file = file_of(&segment(1));
    let mut lost = 0;
    for bit in blocks.bits(file.len()) {
        log.reset();
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(log.segment(1), flipped).unwrap();
        let found = log.found();
        if bit / 8 < SEGMENT_SUM_AT + 4 {
            assert!(is_refused(&found), "bit {bit}: {found:?}");
            continue;
        }
        for ((room, (epoch, read)), (_, (_, all))) in found.unwrap().into_iter().zip(whole()) {
            assert!(epoch == EPOCH && (read == all || read == Err(1)), "bit {bit}: {room} {read:?}");
            lost += usize::from(read.is_err());
        }
    }
    assert!(lost > 1_000, "{lost}");
}

#[test]
fn every_flipped_bit_of_an_index_has_it_made_again_and_loses_nothing() {
    let log = Log::new();
    let (path, own) = (index_path(&log.folder, 1), segment(1).index().0);
    for bit in 0..own.len() * 8 {
        log.reset();
        let mut flipped = own.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        let found = log.found().unwrap();
        let is_seen = bit / 8 < HEADER_BYTES + 2 * PART_BYTES;
        assert!(!is_seen || fs::read(&path).unwrap() == own, "bit {bit}");
        for ((room, (epoch, read)), (_, (_, all))) in found.into_iter().zip(whole()) {
            assert!(epoch == EPOCH && read == all, "bit {bit}: {room} {read:?}");
        }
    }
}

#[test]
fn every_truncation_of_a_segment_without_an_index_is_refused_and_accepted_once_leaves_its_whole_commits() {
    let (log, blocks) = (Log::new(), Blocks::of(2));
    let file = file_of(&segment(2));
    let epoch = BREAK_EPOCH + FINDER;
    for length in (0..file.len()).step_by(64) {
        log.reset();
        fs::write(log.segment(2), &file[..length]).unwrap();
        assert!(is_refused(&log.found()), "{length}");
        let commits = blocks.0.iter().filter(|&&(start, bytes, _)| start + bytes <= length).count();
        assert_eq!(log.accepted(), expected(commits, epoch, epoch), "{length}");
    }
}

#[test]
fn every_truncation_of_a_sealed_segment_that_takes_a_block_is_refused_and_accepted_once() {
    let log = Log::new();
    let (file, end) = (file_of(&segment(1)), segment(1).end_offset() as usize);
    for length in (0..=file.len()).step_by(64) {
        log.reset();
        fs::write(log.segment(1), &file[..length]).unwrap();
        let found = log.found();
        if length >= end {
            assert_eq!(found.unwrap(), whole(), "{length}");
            continue;
        }
        assert!(is_refused(&found), "{length}");
        for (room, (epoch, read)) in log.accepted() {
            let (read, all) = (read.unwrap(), whole()[room].1.clone().unwrap());
            assert!(epoch == BREAK_EPOCH + FINDER && all.ends_with(&read), "{length}: {room} {read:?}");
        }
        let kept = if length < PAGE_BYTES { log.segment(1).with_extension("log.damaged") } else { log.segment(1) };
        assert_eq!(fs::read(kept).unwrap(), file[..length], "the file is kept");
    }
}

#[test]
fn a_segment_without_an_index_that_was_cut_before_another_is_a_hole_and_refused() {
    let log = Log::new();
    fs::remove_file(index_path(&log.folder, 1)).unwrap();
    fs::write(log.segment(1), &file_of(&segment(1))[..2 * PAGE_BYTES]).unwrap();
    assert!(is_refused(&log.found()));
    let mut recovered = log.recover(true, FINDER).unwrap();
    assert_eq!(recovered.catalogs[0].take_released(), [0; 0], "no file goes that somebody may mend");
    let epoch = BREAK_EPOCH + FINDER;
    let found = log.read(recovered);
    assert_eq!(found["lobby"], (epoch, Ok(vec![4, 5, 6])));
    assert_eq!(found["game"], (epoch, Ok(vec![2, 3])));
}

#[test]
fn zeros_in_the_place_of_synced_blocks_at_the_end_are_not_told_from_an_unwritten_end() {
    let log = Log::new();
    let mut file = file_of(&segment(2));
    file[2 * PAGE_BYTES..].fill(0);
    fs::write(log.segment(2), file).unwrap();
    assert_eq!(log.found().unwrap(), expected(1, EPOCH, EPOCH), "no log can know: nothing is left that says otherwise");
}
