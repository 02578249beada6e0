//! End to end: a full disk refuses posts and nothing else, and posting goes on by itself once there is space.

use std::fs;

use banter_tests::disk_faults::{FREE_BYTES_MIN, wait_full, wait_resumed};
use banter_tests::loop_disk::LoopDisk;
use banter_tests::trial::{Setup, Trial};

const DISK_MIB: u64 = 32;
const BALLAST_BYTES: usize = 10 << 20;

fn small_setup() -> Setup {
    let mut setup = Setup::new("synced", 31);
    let sizes = ["--frame-bytes-max=4096", "--log-commit-bytes-max=65536", "--log-segment-bytes=2097152"];
    setup.flags = sizes.iter().chain([&FREE_BYTES_MIN]).map(|&flag| flag.to_owned()).collect();
    (setup.body_bytes_max, setup.plan.posts_max) = (3_000, usize::MAX);
    setup
}

#[test]
fn a_full_disk_refuses_posts_only_and_takes_them_again_by_itself() {
    let disk = match LoopDisk::make(DISK_MIB) {
        Ok(disk) => disk,
        Err(error) => return eprintln!("SKIPPED: no ext4 on a loop device here: {error}"),
    };
    let (data, ballast) = (disk.folder().join("data"), disk.folder().join("ballast"));
    fs::write(&ballast, vec![1; BALLAST_BYTES]).expect("the disk is empty");
    let mut trial = Trial::new(small_setup());
    let mut server = trial.start(&data);
    let load = trial.load(&server);
    wait_full(&server, &load, trial.setup.rooms);
    let resumed = wait_resumed(&load, || fs::remove_file(&ballast).expect("it is there"));
    println!("posting went on after {resumed:?}");
    load.stop(&mut trial.ledger);
    server.kill();
    let server = trial.start(&data);
    trial.finish(&server).assert_clean();
}
