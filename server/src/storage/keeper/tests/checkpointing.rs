//! The checkpoint: a start with it knows what one without knows, whatever came in between.

use banter_log::catalog::{Catalog, RoomLog};
use banter_log::checkpoint::{Covered, FILE_NAME, Head};
use banter_log::index::Chain;

use super::super::super::checkpoint::Checkpoint;
use super::super::super::recovery::{Opening, RecoveryFault, recover};
use super::classes::{CORES, DAY, GAMES, House, LOBBIES, game, lobby};
use super::*;

/// What a start knows of a room.
type Known = (Option<RoomLog>, Chain, [Epoch; 2]);

fn known(catalogs: &[Catalog], room: &str) -> Known {
    let (id, catalog) = (RoomId::of(room), &catalogs[core_of(RoomId::of(room), CORES).index()]);
    let epoch_of = |class| catalog.epoch_of(id, Level::Synced, class);
    (catalog.room(id), catalog.chain_of(id), [epoch_of(DAY), epoch_of(Class::SERVER)])
}

/// What a start on a copy of the folder knows of every room, and how many segments it walked.
fn start(folder: &Path, has_checkpoint: bool) -> Result<(Vec<Known>, usize), RecoveryFault> {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    if !has_checkpoint {
        fs::remove_file(copy.path().join(FILE_NAME)).unwrap();
    }
    let opening = Opening { folder: copy.path(), cores: CORES, levels_hash: 1, accept_corruption: false };
    let found = recover(&opening, &mut |seen| Ok(seen + 1))?;
    assert_eq!(copy.path().join(FILE_NAME).exists(), has_checkpoint, "one that is not used goes");
    let rooms = (0..GAMES).map(game).chain((0..LOBBIES).map(lobby));
    Ok((rooms.map(|room| known(&found.catalogs, &room)).collect(), found.walked.0))
}

/// Says of how many rooms it is not known what was dropped: whoever reads there finds where they begin.
fn assert_known(folder: &Path) -> usize {
    let (mut with, without) = (start(folder, true).unwrap(), start(folder, false).unwrap());
    let mut begin_later = 0;
    for ((with, ..), (without, ..)) in with.0.iter_mut().zip(&without.0) {
        if let (Some(with), Some(without)) = (with, without)
            && with.first < without.first
        {
            begin_later += 1;
            with.first = without.first;
        }
    }
    let differs = with.0.iter().zip(&without.0).find(|(with, without)| with != without);
    assert!(differs.is_none() && with.1 == without.1, "{differs:?}");
    assert!(with.0.iter().any(|(room, ..)| room.is_some()));
    begin_later
}

fn make_checkpoint(house: &mut House) -> Head {
    house.keeper.checkpointing.set_parts_min(1);
    while house.keeper.checkpoint_step() {}
    Checkpoint::open(&house.keeper.folder).unwrap().head().clone()
}

#[test]
fn a_start_knows_the_same_with_it_over_posts_kills_retention_and_one_made_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::start(folder.path(), unix_ms() - 48 * HOUR_MS);
    house.play();
    let first = make_checkpoint(&mut house);
    assert!(first.covered.len() > 20 && first.rooms > 9_000, "{first:?}");
    assert_eq!(assert_known(folder.path()), 0);
    (0..40).for_each(|number| house.post(DAY, &[game(number), game(number + 5_000)]));
    drop(house);
    // Killed: what was written is walked.
    assert_eq!(assert_known(folder.path()), 0);

    let mut house = House::start(folder.path(), unix_ms());
    (0..9).for_each(|_| house.play());
    let second = make_checkpoint(&mut house);
    assert!(second.covered.len() > 2 * first.covered.len() && second.rooms == (GAMES + LOBBIES) as u64);
    assert_known(folder.path());
    house.believe_clock();
    let gone = |it: &&Covered| !segment_path(folder.path(), it.id).exists();
    assert!(second.covered.iter().filter(gone).count() > 5);
    assert!(Checkpoint::open(folder.path()).unwrap().head() == &second, "what is dropped changes nothing of it");
    house.stop();
    assert!(assert_known(folder.path()) > 9_000);
}

#[test]
fn one_that_is_damaged_or_of_another_log_is_not_used_and_a_missing_segment_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::start(folder.path(), unix_ms());
    house.play();
    let covered = make_checkpoint(&mut house).covered;
    house.stop();
    let (path, middle) = (folder.path().join(FILE_NAME), covered[covered.len() / 2].id);
    let (whole, rooms) = (fs::read(&path).unwrap(), start(folder.path(), true).unwrap().0);

    // It is used: a table that it covers is not looked at.
    let (index, segment) = (index_path(folder.path(), middle), segment_path(folder.path(), middle));
    let there = fs::read(&index).unwrap();
    let mut damaged = there.clone();
    damaged[banter_log::index::HEADER_BYTES] ^= 1;
    fs::write(&index, damaged).unwrap();
    assert_eq!(start(folder.path(), true).unwrap(), (rooms.clone(), 0));
    assert_eq!(start(folder.path(), false).unwrap(), (rooms.clone(), 1));
    fs::write(&index, there).unwrap();

    for at in (0..whole.len()).step_by(whole.len() / 50).chain([whole.len() - 1]) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert!(Checkpoint::open(folder.path()).is_none(), "byte {at}");
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(Checkpoint::open(folder.path()).is_none());
    fs::write(&path, &whole).unwrap();

    let bytes = fs::read(&segment).unwrap();
    fs::remove_file(&segment).unwrap();
    let opening = Opening { folder: folder.path(), cores: CORES, levels_hash: 1, accept_corruption: false };
    let fault = recover(&opening, &mut |seen| Ok(seen + 1)).unwrap_err();
    assert!(matches!(fault, RecoveryFault::Corrupt { .. }), "{fault}");
    fs::write(&segment, bytes).unwrap();
    assert_eq!((start_without(folder.path()), path.exists()), (rooms, false), "it was of another folder than this");
}

fn start_without(folder: &Path) -> Vec<Known> {
    fs::write(folder.join(FILE_NAME), b"").unwrap();
    let known = start(folder, false).unwrap().0;
    fs::remove_file(folder.join(FILE_NAME)).unwrap();
    known
}

#[test]
fn a_segment_that_goes_ends_the_one_in_the_making_and_the_next_is_made_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::start(folder.path(), unix_ms());
    house.play();
    house.keeper.checkpointing.set_parts_min(1);
    assert!(house.keeper.checkpoint_step() && house.keeper.checkpoint_step());
    let draft = folder.path().join(format!("{FILE_NAME}.new"));
    assert!(draft.exists());
    house.at_hour(25);
    assert!(!draft.exists() && Checkpoint::open(folder.path()).is_none());
    house.keeper.checkpointing.look_now();
    let head = make_checkpoint(&mut house);
    assert_eq!(head.rooms, LOBBIES as u64);
    house.stop();
    assert_known(folder.path());
}
