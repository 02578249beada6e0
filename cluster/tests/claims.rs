//! Nodes that find nobody owns the partitions, all in the same moment: one claims, and the others leave it to that one.

use banter_cluster::engine::{Answer, Ask};
use banter_cluster::entry::{NodeId, StreamEpochs};
use banter_cluster::members::{NodeState, name_hash};
use banter_cluster::node::{Input, Node, NodeConfig, Now, Out};
use banter_cluster::partition::{JournalLimits, PartitionConfig};
use banter_cluster::store::StoreConfig;

const STEP_MS: u64 = 10;
const DEAD_AFTER_MS: u64 = 2_000;

fn node(number: u64) -> Node {
    let name = format!("n{number}");
    let journal =
        JournalLimits { commit_bytes_max: 32 << 10, reads_max: 4, work_steps_max: 64, cache_bytes_max: 64 << 10 };
    let partition = PartitionConfig {
        by: NodeId { name: name_hash(&name), run: number + 1 },
        appends_in_flight_max: 4,
        store: StoreConfig { segment_bytes: 64 << 10, stream_bytes_max: 64 << 20, seed: number },
        epochs: StreamEpochs { blank: 1_000_000, ..StreamEpochs::default() },
        levels: 7,
        journal,
    };
    let (addresses, version) = (vec![format!("{name}:7171")], "test".to_owned());
    let config = NodeConfig {
        cluster: 9,
        addresses,
        name,
        version,
        partitions: 4,
        partition,
        dead_after_ms: DEAD_AFTER_MS,
        engine_cache_bytes: 256 << 10,
        unkept_bytes_max: 256 << 10,
    };
    Node::new(config, Now::default())
}

/// Lets them beat for a while on an engine that answers nothing else, and says how many claim in the end. Nothing is heard of
/// what is told while it is away.
fn claiming(nodes: &mut [Node], from_ms: u64, to_ms: u64, is_away: bool) -> usize {
    let mut told: Vec<bytes::Bytes> = Vec::new();
    for now_ms in (from_ms..to_ms).step_by(STEP_MS as usize) {
        let now = Now { monotonic_ms: now_ms, unix_ms: now_ms };
        let heard = std::mem::take(&mut told);
        for node in nodes.iter_mut() {
            let mut out = Vec::new();
            heard
                .iter()
                .for_each(|bytes| node.handle(Input::Engine(Answer::Beat { bytes: bytes.clone() }), now, &mut out));
            if node.next_due() <= now_ms {
                node.handle(Input::Tick, now, &mut out);
            }
            told.extend(out.into_iter().filter_map(|out| match out {
                Out::Ask(Ask::Beat { bytes }) if !is_away => Some(bytes),
                _ => None,
            }));
        }
    }
    nodes.iter().filter(|node| node.state() == NodeState::Claiming).count()
}

#[test]
fn of_nodes_that_start_together_one_claims() {
    let mut nodes: Vec<Node> = (0..3).map(node).collect();
    assert_eq!(claiming(&mut nodes, 0, 2 * DEAD_AFTER_MS, false), 1);
}

#[test]
fn of_nodes_that_hear_the_engine_again_together_one_claims() {
    let mut nodes: Vec<Node> = (0..3).map(node).collect();
    assert_eq!(claiming(&mut nodes, 0, DEAD_AFTER_MS / 2, false), 0, "they listen");
    assert_eq!(claiming(&mut nodes, DEAD_AFTER_MS / 2, 10 * DEAD_AFTER_MS, true), 0, "nothing is heard");
    assert_eq!(claiming(&mut nodes, 10 * DEAD_AFTER_MS, 12 * DEAD_AFTER_MS, false), 1);
}
