//! The judges of the log find each mistake that a server makes on purpose, and none in one that makes none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use banter_tests::disk_faults::{self, ROUNDS_OF_ALL};
use banter_tests::ledger::Fault;
use banter_tests::report::Report;
use banter_tests::trial::Setup;
use banter_tests::trouble_disk::{FileSystem, TroubleDisk};
use banter_tests::{crash, failing_reads};

const TOY: &str = env!("CARGO_BIN_EXE_toy-server");

fn setup(mistake: &str) -> Setup {
    let mut setup = Setup::new("synced", 61);
    setup.flags.extend(["--mistake".to_owned(), mistake.to_owned()]);
    setup.program = Some(Path::new(TOY).to_owned());
    setup
}

fn crashes(mistake: &str) -> Report {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let run = crash::Run { cycles: 4, vary_cores: false, clock_years_max: 0, setup: setup(mistake) };
    run.run(&folder.path().join("data"), |_, _| {})
}

/// Runs the troubles; none where a machine cannot, and the panic's text where a wait or a check failed.
fn disk_troubles(mistake: &str, file_system: FileSystem, rounds: usize) -> Option<Result<Report, String>> {
    let mut disk = match TroubleDisk::make(file_system, rounds) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("SKIPPED: this machine cannot: {error}");
            return None;
        }
    };
    let run = || disk_faults::run(setup(mistake), rounds, &mut disk, |_, _| {});
    Some(catch_unwind(AssertUnwindSafe(run)).map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(_) => "another panic".to_owned(),
    }))
}

#[test]
fn a_right_log_is_found_right() {
    crashes("none").assert_clean();
    if let Some(report) = disk_troubles("none", FileSystem::Fuse, ROUNDS_OF_ALL) {
        report.expect("every trouble is gone through").assert_clean();
    }
}

#[test]
fn crash_finds_what_a_kill_shows() {
    assert!(crashes("loses-newest").faults.contains_key(&Fault::Lost));
    assert!(crashes("forgets-keys").faults.contains_key(&Fault::Repeated));
}

#[test]
fn disk_faults_finds_what_only_a_disk_shows() {
    let mistakes = [
        ("no-sync", Fault::Lost),
        ("ignores-sync-error", Fault::NotRefused),
        ("retries-sync", Fault::NotRefused),
        ("ignores-short-write", Fault::Lost),
        ("no-folder-sync", Fault::Lost),
        ("shows-early", Fault::ShownAndLost),
    ];
    for (mistake, fault) in mistakes {
        let Some(found) = disk_troubles(mistake, FileSystem::Fuse, ROUNDS_OF_ALL / 2) else { return };
        let report = found.expect("a mistake is counted, and stops no check");
        assert!(report.faults.contains_key(&fault), "{mistake}: {report:#?}");
    }
}

#[test]
fn disk_faults_finds_what_only_the_device_below_an_ext4_shows() {
    // The first trouble is the power cut; the others are aimed at another log's writes.
    let found = |mistake| disk_troubles(mistake, FileSystem::Ext4, 1);
    let (Some(right), Some(wrong)) = (found("none"), found("no-sync")) else { return };
    right.expect("the log is found again").assert_clean();
    let wrong = wrong.expect("a mistake is counted, and stops no check");
    assert!(wrong.faults.contains_key(&Fault::Lost), "{wrong:#?}");
}

/// The toy has no index, and a start of it that cannot read is no refusal: the first way in which reads fail is its only one.
#[test]
fn failing_reads_find_who_takes_what_cannot_be_read_for_gone() {
    let found = |mistake| {
        let mut disk = TroubleDisk::make(FileSystem::Fuse, 1).ok()?;
        Some(failing_reads::run(setup(mistake), 1, &mut disk, |_, _| {}))
    };
    let Some(right) = found("none") else { return eprintln!("SKIPPED: this machine cannot") };
    right.assert_clean();
    let refused = right.more.iter().find(|(name, _)| name == "readings refused").map(|(_, count)| *count);
    assert!(refused > Some(0), "a server that reads nothing proves nothing: {right:#?}");
    let wrong = found("gives-up-on-read").expect("this machine can");
    assert!(wrong.faults.contains_key(&Fault::FalseGap), "{wrong:#?}");
    assert!(wrong.faults.contains_key(&Fault::Lost), "they stay gone: {wrong:#?}");
}

#[test]
fn disk_faults_finds_a_log_that_stays_full() {
    if let Some(found) = disk_troubles("stays-full", FileSystem::Fuse, ROUNDS_OF_ALL / 2) {
        assert!(found.expect_err("a wait fails").contains("posts are accepted again"));
    }
}
