//! What is wrong with a cluster, each with its cure: of what was seen of it, and nothing else.

use banter_cluster::members::{Beat, NodeState};
use banter_cluster::store::RESERVED_BYTES;
use banter_engine::gate::GateFault;
use banter_engine::streams::{StreamState, StreamsFault};

use super::bytes;
use super::look::{Heard, Seen};

/// From this share of what it may hold a stream is told of, in hundredths: posts are refused at a hundred.
const FULL_PERCENT: u64 = 80;
/// Clocks of nodes may be so far apart, in milliseconds: more than a beat takes to be heard.
const CLOCKS_APART_MS_MAX: i64 = 1_000;
/// Nodes at least, so that one can take over.
const NODES_MIN: usize = 2;

/// What is wrong, the worst first, each with what to do.
pub(super) fn of(seen: &Seen) -> Vec<String> {
    let mut findings = Vec::new();
    let is_engine_down = of_servers(seen, &mut findings);
    // Before there is a cluster, no node can be of it.
    if !matches!(seen.streams, Err(StreamsFault::Missing { .. })) {
        of_owners(seen, &mut findings);
    }
    of_partitions(seen, &mut findings);
    // That nobody tells of the streams then is no fault of its own.
    let follows =
        |fault: &GateFault| matches!(fault, GateFault::Streams(_) | GateFault::NoStream { .. } | GateFault::NoLeader);
    findings.extend(seen.faults.iter().filter(|fault| !(is_engine_down && follows(fault))).map(ToString::to_string));
    of_room(seen, &mut findings);
    of_nodes(seen, is_engine_down, &mut findings);
    of_clocks(seen, &mut findings);
    of_levels(seen, &mut findings);
    findings
}

/// Whether too few servers run for anything to be kept.
fn of_servers(seen: &Seen, findings: &mut Vec<String>) -> bool {
    let keep =
        seen.servers.iter().filter(|(_, told)| told.as_ref().is_ok_and(|server| server.jetstream.is_some())).count();
    let is_down = keep * 2 <= seen.servers.len() && !seen.servers.is_empty();
    if is_down {
        findings.push(format!(
            "{keep} of {} NATS servers keep messages, and more than half have to: until then no room takes a post, nobody is closed, and \
             nothing is lost. Start them again, each with the disk that it had",
            seen.servers.len()
        ));
    }
    is_down
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

fn partitions(count: u16, kind: &str) -> String {
    format!("{count} {kind}partition{}", if count == 1 { "" } else { "s" })
}

fn of_partitions(seen: &Seen, findings: &mut Vec<String>) {
    for Heard { beat, .. } in &seen.nodes {
        if beat.broken > 0 {
            findings.push(format!(
                "{} does not serve {}, whose streams are not what they should be: its log says which and why; look at the \
                 servers' disks, and restore those streams from a backup",
                beat.node,
                partitions(beat.broken, "")
            ));
        }
        if beat.doubtful > 0 {
            findings.push(format!(
                "{} serves with {}: the engine does not answer for them, their posts wait, and reading goes on; see what \
                 is wrong with the servers below. If nothing is and it stays so, restart the server that leads their streams",
                beat.node,
                partitions(beat.doubtful, "doubtful ")
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
             (`log_full`). Let rooms keep less (retention_bytes or retention_hours), or give the streams more: `banter cluster init --stream-bytes-max`",
            full.len(),
            streams.len(),
            fullest.config.name,
            percent(fullest),
            bytes::shown(u64::try_from(fullest.config.max_bytes).unwrap_or(0)),
        ));
    }
    if percent(&description.index) >= FULL_PERCENT {
        findings.push(format!(
            "the stream of indexes {} holds {} % of what it may: when it is full, the streams of \
             partitions are not purged any more and fill up, too. Give it more, by a larger `banter cluster init --stream-bytes-max`",
            description.index.config.name,
            percent(&description.index),
        ));
    }
}

/// How much of what posts may fill of it a stream holds, in hundredths.
pub(super) fn percent(stream: &StreamState) -> u64 {
    let max = u64::try_from(stream.config.max_bytes).unwrap_or(0).saturating_sub(RESERVED_BYTES);
    stream.bytes.saturating_mul(100).checked_div(max).unwrap_or(0)
}

fn of_nodes(seen: &Seen, is_engine_down: bool, findings: &mut Vec<String>) {
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
    let stands_cut_off = |beat: &&Beat| beat.state == NodeState::Standby && !beat.reaches_engine;
    for beat in seen.nodes.iter().map(|heard| &heard.beat).filter(stands_cut_off).filter(|_| !is_engine_down) {
        findings.push(format!(
            "{} stands by, and the engine's answers do not reach it, so it would not take over: if it was not started just now, look at the \
             network between it and the NATS servers, and at what it logs",
            beat.node
        ));
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

/// A room that comes to a node which has another level or class for it goes on under another epoch, or is lost with that node.
fn of_levels(seen: &Seen, findings: &mut Vec<String>) {
    let mut told = seen.nodes.iter().map(|heard| &heard.beat).filter(|beat| beat.levels != 0);
    let Some(first) = told.next() else { return };
    if let Some(other) = told.find(|beat| beat.levels != first.levels) {
        findings.push(format!(
            "{} and {} have other rooms: `durability`, and `durability` and retention of [[rooms]], must be the same in the file of each node; \
             start the one that is wrong again once they are",
            first.node, other.node
        ));
    }
}

/// Times of messages never go back, so behind a node whose clock is ahead all of a room has that time until the others' are there too.
fn of_clocks(seen: &Seen, findings: &mut Vec<String>) {
    let clocks = || seen.nodes.iter().filter_map(|heard| Some((heard.ahead_ms?, heard)));
    let first = clocks().max_by_key(|(ahead_ms, _)| *ahead_ms);
    let last = clocks().min_by_key(|(ahead_ms, _)| *ahead_ms);
    let (Some((first_ms, first)), Some((last_ms, last))) = (first, last) else { return };
    let apart_ms = first_ms.saturating_sub(last_ms);
    if apart_ms > CLOCKS_APART_MS_MAX {
        findings.push(format!(
            "the clock of {} is {}.{} s ahead of that of {}: nothing is lost by it, but times of messages and what is too old go by whichever \
             serves; set both by NTP (`timedatectl`)",
            first.beat.node,
            apart_ms / 1_000,
            apart_ms % 1_000 / 100,
            last.beat.node
        ));
    }
}

/// An address that means every address of a host, and none from outside.
fn is_nowhere(address: &str) -> bool {
    address.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use banter_cluster::engine::Partition;
    use banter_engine::monitoring::MonitoringFault;
    use banter_engine::streams::Description;
    use banter_engine::{ClusterName, Founding, Names, Shape, StreamConfig};

    use super::super::look::tests::{beat, heard_one};
    use super::*;

    const SHAPE: Shape = Shape { replicas: 3, stream_bytes_max: 1_000 + RESERVED_BYTES, index_bytes_max: 1 << 21 };
    const FOUNDING: Founding = Founding { cluster_id: 7, partitions: 16, blank_epoch: 1 };

    fn stream(config: StreamConfig) -> StreamState {
        StreamState { config, messages: 0, bytes: 0, last: 0, leader: Some("s0".to_owned()), peers: Vec::new() }
    }

    /// A cluster that is well, with nodes that say that.
    fn seen(beats: Vec<Beat>) -> Seen {
        let names = Names::new(ClusterName::new("chat").unwrap());
        let partitions = (0..FOUNDING.partitions)
            .map(|number| Some(stream(StreamConfig::partition(&names, Partition(number), FOUNDING, SHAPE))));
        let description = Description {
            founding: FOUNDING,
            index: stream(StreamConfig::index(&names, FOUNDING, SHAPE)),
            partitions: partitions.collect(),
        };
        let nodes = beats.into_iter().map(heard_one).collect();
        Seen { servers: Vec::new(), streams: Ok(description), nodes, faults: Vec::new() }
    }

    fn told(beats: Vec<Beat>, change: impl FnOnce(&mut Seen)) -> String {
        let mut seen = seen(beats);
        change(&mut seen);
        of(&seen).join("\n")
    }

    fn two() -> Vec<Beat> {
        vec![beat("ann", 1, NodeState::Serving), beat("bob", 1, NodeState::Standby)]
    }

    #[test]
    fn a_cluster_that_is_well_has_no_finding() {
        assert_eq!(told(two(), |_| ()), "");
    }

    #[test]
    fn whoever_should_serve_is_told_of() {
        for (states, says) in [
            (&[][..], "no node was heard: start `banter`"),
            (&[NodeState::Standby, NodeState::Standby], "no node serves, and none takes over: n0 and n1 may"),
            (&[NodeState::Claiming, NodeState::Standby], "n0 is taking over"),
            (&[NodeState::Serving, NodeState::Serving], "n0 and n1 think themselves the owner"),
            (&[NodeState::Serving], "n0 is the only node"),
            (&[NodeState::Serving, NodeState::Draining], "n0 is the only node"),
            (&[NodeState::Draining], "every node is stopping"),
        ] {
            let beats = states.iter().enumerate().map(|(number, state)| beat(&format!("n{number}"), 1, *state));
            let told = told(beats.collect(), |_| ());
            assert!(told.contains(says), "{says}: {told}");
        }
    }

    #[test]
    fn what_a_node_says_of_its_partitions_comes_ahead_of_what_the_servers_say() {
        let mut beats = two();
        (beats[0].doubtful, beats[0].broken) = (2, 1);
        beats[1].addresses = vec!["0.0.0.0:7878".to_owned(), "[::]:1".to_owned(), "b:7878".to_owned()];
        let told = told(beats, |seen| {
            seen.faults.push(GateFault::JetStreamOff { server: "s2".to_owned() });
            seen.nodes[1].is_double = true;
        });
        let lines: Vec<&str> = told.lines().collect();
        for (line, says) in lines.iter().zip([
            "ann does not serve 1 partition, whose",
            "ann serves with 2 doubtful partitions",
            "server s2 has JetStream turned off",
            "two nodes go by the name bob",
            "bob has clients come back to 0.0.0.0:7878",
            "bob has clients come back to [::]:1",
        ]) {
            assert!(line.starts_with(says), "{says}: {line}");
        }
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn nodes_whose_files_give_rooms_other_levels_are_told_of() {
        let levels = |levels: [u64; 2]| {
            told(two(), |seen| seen.nodes.iter_mut().zip(levels).for_each(|(heard, levels)| heard.beat.levels = levels))
        };
        assert_eq!((levels([7, 7]), levels([0, 7])), (String::new(), String::new()));
        assert!(levels([7, 8]).starts_with("ann and bob have other rooms"));
    }

    #[test]
    fn clocks_that_are_apart_are_told_of() {
        let clocks = |ahead_ms: [Option<i64>; 2]| {
            told(two(), |seen| seen.nodes.iter_mut().zip(ahead_ms).for_each(|(heard, ahead)| heard.ahead_ms = ahead))
        };
        assert_eq!(clocks([Some(-500), Some(500)]), "");
        assert_eq!(clocks([None, Some(90_000)]), "", "an older one says no time");
        let apart = clocks([Some(-500), Some(2_750)]);
        assert!(apart.starts_with("the clock of bob is 3.2 s ahead of that of ann"), "{apart}");
    }

    #[test]
    fn one_that_stands_by_in_vain_is_told_of() {
        let mut beats = two();
        beats[1].reaches_engine = false;
        assert!(told(beats.clone(), |_| ()).starts_with("bob stands by, and the engine's answers do not reach it"));
        // Where the engine is down that is said once.
        let fault = MonitoringFault::Silent { url: "http://a:1".to_owned(), why: "refused".to_owned() };
        let down = told(beats, |seen| seen.servers.push(("http://a:1".to_owned(), Err(fault))));
        assert!(down.starts_with("0 of 1 NATS servers") && !down.contains("bob"), "{down}");
    }

    #[test]
    fn a_stream_is_told_of_before_it_is_full_and_streams_that_cannot_be_seen_are_a_fault_alone() {
        let full = told(two(), |seen| {
            let streams = &mut seen.streams.as_mut().unwrap().partitions;
            streams[3].as_mut().unwrap().bytes = 799;
            streams[4].as_mut().unwrap().bytes = 800;
            streams[5].as_mut().unwrap().bytes = 950;
        });
        assert!(full.starts_with("2 of 16 partitions hold 80 % or more"), "{full}");
        assert!(full.contains("the fullest BANTER_chat_005 95 %") && full.contains("retention_bytes"), "{full}");
        let unseen = told(two(), |seen| {
            let fault = StreamsFault::Missing { cluster: "chat".to_owned() };
            seen.faults.push(GateFault::Streams(fault.to_string()));
            seen.streams = Err(fault);
        });
        assert_eq!(unseen.lines().count(), 1, "{unseen}");
    }
    #[test]
    fn of_an_engine_with_too_few_servers_that_is_said_first_and_what_follows_from_it_is_not() {
        let told = told(two(), |seen| {
            for url in ["http://a:1", "http://b:1"] {
                let fault = MonitoringFault::Silent { url: url.to_owned(), why: "refused".to_owned() };
                seen.faults.push(fault.clone().into());
                seen.servers.push((url.to_owned(), Err(fault)));
            }
            seen.faults.push(GateFault::Streams("JetStream does not answer".to_owned()));
        });
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[0].starts_with("0 of 2 NATS servers keep messages"), "{told}");
        assert_eq!(lines.len(), 3, "{told}");
    }
}
