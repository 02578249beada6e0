//! What is wrong with a cluster, each with its cure: of what was seen of it, and nothing else.

use banter_cluster::members::NodeState;
use banter_engine::streams::StreamState;

use super::bytes;
use super::look::{Heard, Seen};

/// From this share of what it may hold a stream is told of, in hundredths: posts are refused at a hundred.
const FULL_PERCENT: u64 = 80;
/// Nodes at least, so that one can take over.
const NODES_MIN: usize = 2;

/// What is wrong, the worst first, each with what to do.
pub(super) fn of(seen: &Seen) -> Vec<String> {
    let mut findings = Vec::new();
    of_owners(seen, &mut findings);
    of_partitions(seen, &mut findings);
    findings.extend(seen.faults.iter().map(ToString::to_string));
    of_room(seen, &mut findings);
    of_nodes(seen, &mut findings);
    findings
}

/// The name that nodes go by.
fn named(nodes: &[&Heard]) -> String {
    nodes.iter().map(|heard| heard.beat.node.as_str()).collect::<Vec<_>>().join(" and ")
}

fn of_owners(seen: &Seen, findings: &mut Vec<String>) {
    let in_state = |state| seen.nodes.iter().filter(move |heard| heard.beat.state == state).collect::<Vec<_>>();
    let (serving, claiming) = (in_state(NodeState::Serving), in_state(NodeState::Claiming));
    match (&*serving, &*claiming) {
        _ if seen.nodes.is_empty() => findings.push(
            "no node was heard: start `banter` with [cluster] on two machines; if they run, look at what they log: one that waits for the \
             engine tells nobody that it lives"
                .to_owned(),
        ),
        ([], []) => findings.push(format!(
            "no node serves, and none takes over: {} may do so within some seconds; if not, see what is wrong with the servers below, \
             and what the nodes log",
            named(&seen.nodes.iter().collect::<Vec<_>>())
        )),
        ([], [one]) => findings.push(format!(
            "no node serves yet: {} is taking over, {} partitions are open; that takes seconds. If it stays so, look at what it logs",
            one.beat.node, one.beat.open
        )),
        ([_], _) | ([], _) => {}
        (several, _) => findings.push(format!(
            "{} think themselves the owner: nothing is lost by it, and all but one find out within seconds; if it stays so, restart all but \
             the one with the largest term",
            named(several)
        )),
    }
}

fn of_partitions(seen: &Seen, findings: &mut Vec<String>) {
    for Heard { beat, .. } in &seen.nodes {
        if beat.broken > 0 {
            findings.push(format!(
                "{} does not serve {} partitions, whose streams are not what they should be: its log says which and why; look at the \
                 servers' disks, and restore those streams from a backup",
                beat.node, beat.broken
            ));
        }
        if beat.doubtful > 0 {
            findings.push(format!(
                "{} serves with {} doubtful partitions: the engine does not answer for them, their posts wait, and reading goes on; see what \
                 is wrong with the servers below. If nothing is and it stays so, restart the server that leads their streams",
                beat.node, beat.doubtful
            ));
        }
    }
}

fn of_room(seen: &Seen, findings: &mut Vec<String>) {
    let Ok(description) = &seen.streams else { return };
    let streams: Vec<&StreamState> = description.partitions.iter().flatten().collect();
    let full: Vec<&&StreamState> = streams.iter().filter(|stream| percent(stream) >= FULL_PERCENT).collect();
    if let Some(fullest) = full.iter().max_by_key(|stream| percent(stream)) {
        findings.push(format!(
            "{} of {} partitions hold {FULL_PERCENT} % or more of what they may, the fullest {} {} % of {}: at 100 % their posts are refused \
             (`log_full`). Let rooms keep less (retention_bytes or retention_hours), or give the streams more: `nats stream edit --max-bytes`",
            full.len(),
            streams.len(),
            fullest.config.name,
            percent(fullest),
            bytes::shown(u64::try_from(fullest.config.max_bytes).unwrap_or(0)),
        ));
    }
    if percent(&description.index) >= FULL_PERCENT {
        findings.push(format!(
            "the stream of indexes {} holds {} % of what it may: when it is full, taking over takes longer. Give it more: `nats stream edit \
             {} --max-bytes`",
            description.index.config.name,
            percent(&description.index),
            description.index.config.name
        ));
    }
}

/// How much of what it may hold a stream does, in hundredths.
pub(super) fn percent(stream: &StreamState) -> u64 {
    let max = u64::try_from(stream.config.max_bytes).unwrap_or(0);
    stream.bytes.saturating_mul(100).checked_div(max).unwrap_or(0)
}

fn of_nodes(seen: &Seen, findings: &mut Vec<String>) {
    let staying = || seen.nodes.iter().filter(|heard| heard.beat.state != NodeState::Draining);
    if !seen.nodes.is_empty() && staying().count() < NODES_MIN {
        let names = named(&staying().collect::<Vec<_>>());
        findings.push(match names.as_str() {
            "" => "every node is stopping: start one that stays".to_owned(),
            only => {
                format!("{only} is the only node: when it goes, nobody takes over; start `banter` on another machine")
            }
        });
    }
    for heard in seen.nodes.iter().filter(|heard| heard.is_double) {
        findings.push(format!(
            "two nodes go by the name {}: give each a name of its own (`node` in [cluster]), else they take each other for one",
            heard.beat.node
        ));
    }
    for Heard { beat, .. } in &seen.nodes {
        for address in beat.addresses.iter().filter(|address| is_nowhere(address)) {
            findings.push(format!(
                "{} has clients come back to {address}, where nobody gets: set `addresses` in its [cluster] to how clients reach it",
                beat.node
            ));
        }
    }
}

/// An address that means every address of a host, and none from outside.
fn is_nowhere(address: &str) -> bool {
    address.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_unspecified())
}
