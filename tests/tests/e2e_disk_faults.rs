//! End to end: a disk that fails, fills up or loses power loses no post that was acknowledged, and stops no reader.

use banter_tests::disk_faults::{ROUNDS_OF_ALL, is_segment, run};
use banter_tests::fuse_disk::FuseDisk;
use banter_tests::trial::Setup;

#[test]
fn no_trouble_with_the_disk_loses_what_was_acknowledged() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let disk = match FuseDisk::mount(folder.path(), is_segment) {
        Ok(disk) => disk,
        Err(error) => return eprintln!("SKIPPED: no FUSE here: {error}"),
    };
    let setup = Setup::new("synced", 21);
    run(setup, ROUNDS_OF_ALL, &disk, |round, trouble| eprintln!("{round}: {trouble}")).assert_clean();
}
