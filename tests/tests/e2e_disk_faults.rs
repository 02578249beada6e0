//! End to end: a disk that fails, fills up or loses power loses no post that was acknowledged, and stops no reader.

use banter_tests::disk_faults::{ROUNDS_OF_ALL, ROUNDS_OF_ALL_BELOW, run};
use banter_tests::failing_reads;
use banter_tests::trial::Setup;
use banter_tests::trouble_disk::{FileSystem, TroubleDisk};

fn troubles_lose_nothing(file_system: FileSystem, rounds: usize) {
    let mut disk = match TroubleDisk::make(file_system, rounds) {
        Ok(disk) => disk,
        Err(error) => return eprintln!("SKIPPED: this machine cannot: {error}"),
    };
    run(Setup::new("synced", 21), rounds, &mut disk, |round, trouble| eprintln!("{round}: {trouble}")).assert_clean();
}

#[test]
fn no_trouble_with_the_disk_loses_what_was_acknowledged() {
    troubles_lose_nothing(FileSystem::Fuse, ROUNDS_OF_ALL);
}

#[test]
fn no_trouble_below_an_ext4_loses_what_was_acknowledged() {
    troubles_lose_nothing(FileSystem::Ext4, ROUNDS_OF_ALL_BELOW);
}

#[test]
fn no_read_that_fails_takes_anything_away() {
    let rounds = failing_reads::ROUNDS_OF_ALL;
    let mut disk = match TroubleDisk::make(FileSystem::Fuse, rounds) {
        Ok(disk) => disk,
        Err(error) => return eprintln!("SKIPPED: this machine cannot: {error}"),
    };
    let tell = |round, way: &str| eprintln!("{round}: {way}");
    failing_reads::run(Setup::new("synced", 23), rounds, &mut disk, tell).assert_clean();
}
