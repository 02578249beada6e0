//! A cluster whose servers are killed, halted, stopped and cut off loses, repeats and reorders nothing, and comes back by itself.

use banter_tests::nemesis::faults::Kind;
use banter_tests::nemesis::{Length, Options, engine_servers, run};

/// One of each sort, so that it takes about a minute. Any others, in pairs and by chance, by `scripts/nemesis.sh`.
const FAULTS: [Kind; 6] =
    [Kind::NodeKill, Kind::NodeHalt, Kind::EngineKill, Kind::NodeStop, Kind::CutNode, Kind::EngineAllDown];

#[test]
fn a_cluster_that_is_broken_again_and_again_loses_nothing_acknowledged() {
    let binary = match engine_servers::binary() {
        Ok(binary) => binary,
        Err(why) => {
            eprintln!(
                "SKIPPED, nothing was tried: there is no nats-server, and scripts/nats.sh could not fetch it: {why}"
            );
            return;
        }
    };
    let options = Options {
        seed: 61,
        length: Length::EachOnce,
        faults: FAULTS.to_vec(),
        posts_per_second: 300,
        nodes: 2,
        binary,
        keeps: false,
        tells: true,
    };
    let mut outcome = run(options).unwrap_or_else(|why| panic!("nothing was tried: {why}"));
    outcome.assert_clean();
    assert!(outcome.report.acknowledged > 1_000, "a load that gets nothing done proves nothing");
}
