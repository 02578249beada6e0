//! What is written is a log that the server takes: whole, chained, with every message.

use std::path::Path;

use banter_protocol::ids::RoomId;
use banter_server::storage::folder_of;
use banter_server::storage::recovery::{Opening, Recovered, recover};
use clap::{CommandFactory as _, Parser as _};

use super::{Args, Way, write};

fn written(folder: &Path, options: &str) -> write::Written {
    let folder = folder.join("data").display().to_string();
    let words = ["make-history", "write", "--folder", &folder].into_iter().chain(options.split(' '));
    let Way::Write(shape) = Args::try_parse_from(words).unwrap().way else { panic!() };
    write::make(&shape).unwrap()
}

fn recovered(folder: &Path) -> Recovered {
    let folder = folder_of(&folder.join("data"));
    let opening = Opening { folder: &folder, cores: 1, levels_hash: 0, accept_corruption: false };
    recover(&opening, &mut |seen| Ok(seen + 1)).unwrap()
}

#[test]
fn the_command_line_is_well_formed() {
    Args::command().debug_assert();
}

#[test]
fn each_room_lies_in_one_segment_and_a_start_reads_none_through() {
    let folder = tempfile::tempdir().unwrap();
    let made = written(folder.path(), "--rooms 1000 --segments 7 --messages 2 --keyed");
    let found = recovered(folder.path());
    assert_eq!((made.messages, found.segments.len(), found.walked), (2_000, 7, (0, 0)));
    assert_eq!(found.catalogs[0].len(), 1_000);
    let room = found.catalogs[0].room(RoomId::of("room-999")).unwrap();
    assert_eq!((room.first.0, room.head.0, room.newest_segment), (1, 2, 7));
    let ledger = found.ledger.ledger();
    assert!(ledger.all_break.is_none() && ledger.written_break.is_none(), "the last run ended in order: {ledger:?}");
}

#[test]
fn rooms_of_every_segment_are_chained_through_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), "--rooms 3 --segments 70 --every --messages 5");
    let found = recovered(folder.path());
    let id = RoomId::of("room-2");
    let room = found.catalogs[0].room(id).unwrap();
    assert_eq!((room.first.0, room.head.0, room.newest_segment), (1, 350, 70));
    let chain = found.catalogs[0].chain_of(id);
    assert_eq!((chain.before, chain.far, chain.depth), (70, 65, 70));
    assert!(found.segments.iter().all(|segment| segment.is_chained));
}

#[test]
fn a_restore_has_full_segments_without_indexes_and_a_start_reads_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let made = written(folder.path(), "--rooms 5 --segments 3 --every --segment-mib 1 --unsealed --payload 1024");
    assert!(made.block_bytes > 3 * ((1 << 20) - 40_000) && made.segment_bytes == 3 << 20, "{made:?}");
    let found = recovered(folder.path());
    assert_eq!(found.walked, (3, 3 << 20));
    let heads = (0..5).map(|room| found.catalogs[0].room(RoomId::of(&format!("room-{room}"))).unwrap().head.0);
    assert_eq!(heads.sum::<u64>(), made.messages);
}

#[test]
fn a_folder_that_is_there_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["make-history", "write", "--folder", folder.path().to_str().unwrap()];
    let Way::Write(shape) = Args::try_parse_from(words).unwrap().way else { panic!() };
    assert!(write::make(&shape).unwrap_err().to_string().contains("making"));
}
