//! Kill -9 under load: what was acknowledged or shown is there after the restart, once, in its place.

use std::sync::atomic::Ordering::Relaxed;

use banter_tests::audit;
use banter_tests::crash::Run;
use banter_tests::ledger::Fault;
use banter_tests::server_process::{core_counts, wait_until};
use banter_tests::trial::{Setup, Trial};
use banter_tests::wire_client::Form;

/// Any number more by the program `crash`.
const CYCLES: usize = 18;
/// The same with a clock that jumps.
const WRONG_CLOCKS: usize = 10;

#[test]
fn nothing_acknowledged_or_shown_is_lost_by_kills_under_load() {
    for &cores in core_counts() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let seed = 40 + cores as u64;
        let setup = Setup { cores, ..Setup::new("synced", seed) };
        let report = Run { cycles: CYCLES, vary_cores: false, clock_years_max: 0, setup }
            .run(&folder.path().join("data"), |_, _| {});
        report.assert_clean();
        assert!(report.acknowledged > CYCLES, "a load that gets nothing done proves nothing");
    }
}

#[test]
fn a_clock_that_is_years_wrong_at_each_start_ages_nothing() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let cores = core_counts().last().copied().unwrap_or(1);
    let setup = Setup { cores, ..Setup::new("synced", 47) };
    let run = Run { cycles: WRONG_CLOCKS, vary_cores: true, clock_years_max: 20, setup };
    let report = run.run(&folder.path().join("data"), |_, _| {});
    report.assert_clean();
    assert!(report.acknowledged > WRONG_CLOCKS, "a load that gets nothing done proves nothing");
}

/// The judge has to be able to find something: `memory` does lose everything.
#[test]
fn a_kill_that_does_lose_everything_is_noticed() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let mut trial = Trial::new(Setup::new("memory", 5));
    let mut server = trial.start(folder.path());
    let load = trial.load(&server);
    wait_until("posts are acknowledged and shown", || {
        [&load.progress.posted, &load.progress.shown].iter().all(|count| count.load(Relaxed) >= 20)
    });
    server.kill();
    load.end(&mut trial.ledger);
    let server = trial.start_only(folder.path());
    audit::audit(server.address(), Form::Json, &mut trial.ledger);
    let report = trial.report();
    assert_eq!(trial.ledger.count(Fault::Lost), report.acknowledged);
    assert_eq!(trial.ledger.count(Fault::ShownAndLost), report.shown);
    assert!(report.acknowledged > 0 && report.shown > 0);
}
