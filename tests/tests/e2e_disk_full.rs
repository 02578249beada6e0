//! End to end: a full disk refuses posts and nothing else, and posting goes on by itself once there is space.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use banter_tests::audit;
use banter_tests::disk_faults::{FREE_BYTES_MIN, wait_full, wait_resumed};
use banter_tests::loop_disk::LoopDisk;
use banter_tests::trial::{Setup, Trial};
use banter_tests::wire_client::Form;
use rustix::process::Signal;

const DISK_MIB: u64 = 32;
/// How soon a server has to end.
const STOP_MAX: Duration = Duration::from_secs(20);
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

/// Takes every byte that is free.
fn fill(path: &Path) {
    let mut ballast = File::create(path).expect("a name takes no block");
    for bytes in [1 << 20, 4_096, 1] {
        while ballast.write_all(&vec![1; bytes]).is_ok() && ballast.sync_data().is_ok() {}
    }
}

#[test]
fn with_no_byte_free_a_server_starts_reads_all_and_stops_in_order() {
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
    load.stop(&mut trial.ledger);
    server.kill();
    for round in 0..2 {
        fill(&disk.folder().join(format!("ballast-{round}")));
        // The first finds segments that it has no space to write the indexes of.
        let mut server = trial.start_only(&data);
        audit::audit(server.address(), Form::Json, &mut trial.ledger);
        server.signal(Signal::TERM);
        assert!(server.wait(STOP_MAX).success(), "round {round}");
    }
    (0..2).for_each(|round| fs::remove_file(disk.folder().join(format!("ballast-{round}"))).expect("it is there"));
    fs::remove_file(&ballast).expect("it is there");
    let server = trial.start(&data);
    trial.finish(&server).assert_clean();
}
