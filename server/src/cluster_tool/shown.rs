//! A cluster as it was seen, for people at a terminal and for programs.

use std::fmt::Write as _;

use banter_cluster::members::{Beat, NodeState};
use banter_engine::monitoring::{JetStreamState, MonitoringFault, ServerState};
use banter_engine::streams::{Description, StreamState};
use serde_json::{Value, json};

use super::look::Seen;
use super::{bytes, findings};

/// Partitions that are named by how full they are.
const FULLEST_MAX: usize = 3;
/// Streams that are named of those that nobody leads.
const NAMED_MAX: usize = 3;

/// For people: it fits a screen.
pub(super) fn text(cluster: &str, seen: &Seen, findings: &[String]) -> String {
    let mut out = match &seen.streams {
        Ok(Description { partitions, index, .. }) => format!(
            "cluster {cluster}: {} partitions, {} copies of each\n\n",
            partitions.len(),
            index.config.num_replicas
        ),
        Err(_) => format!("cluster {cluster}: its streams cannot be seen\n\n"),
    };
    out.push_str(&columns(&servers(seen)));
    out.push('\n');
    if !seen.nodes.is_empty() {
        out.push_str(&columns(&nodes(seen)));
        out.push('\n');
    }
    if let Ok(description) = &seen.streams {
        out.push_str(&partitions(description));
        out.push('\n');
    }
    match findings {
        [] => out.push_str("all is well\n"),
        findings => {
            out.push_str("what is wrong, and what to do:\n");
            findings.iter().for_each(|finding| {
                let _ = writeln!(out, "- {finding}");
            });
        }
    }
    out
}

/// Columns as wide as what stands in them.
fn columns(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|text| text.chars().count()).max();
    let mut out = String::new();
    for line in lines {
        let cell = |(column, text): (usize, &String)| format!("{text:<width$}", width = width(column).unwrap_or(0));
        let cells = line.iter().enumerate().map(cell);
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn servers(seen: &Seen) -> Vec<Vec<String>> {
    let mut lines = vec![words(["SERVER", "VERSION", "SYNC", "HOLDS", "SET ASIDE", "MONITORING"])];
    for (url, told) in &seen.servers {
        lines.push(match told {
            Err(_) => words(["?", "?", "?", "does not answer", "", url]),
            Ok(server) => {
                let (sync, holds, reserved) = match &server.jetstream {
                    None => ("?", "JetStream is off".to_owned(), String::new()),
                    Some(JetStreamState {
                        is_always_synced, stored_bytes, stored_bytes_max, reserved_bytes, ..
                    }) => (
                        if *is_always_synced { "always" } else { "NO" },
                        bytes::shown(*stored_bytes),
                        format!("{} of {}", bytes::shown(*reserved_bytes), bytes::shown(*stored_bytes_max)),
                    ),
                };
                vec![server.name.clone(), server.version.clone(), sync.to_owned(), holds, reserved, url.clone()]
            }
        });
    }
    lines
}

fn nodes(seen: &Seen) -> Vec<Vec<String>> {
    let mut lines = vec![words(["NODE", "STATE", "OPEN", "DOUBTFUL", "BROKEN", "TERM", "VERSION", "ADDRESSES"])];
    for Beat { node, state, open, doubtful, broken, term, version, addresses, .. } in
        seen.nodes.iter().map(|heard| &heard.beat)
    {
        let mut line = vec![node.clone(), state_name(*state).to_owned()];
        line.extend([u64::from(*open), u64::from(*doubtful), u64::from(*broken), *term].map(|count| count.to_string()));
        line.extend([version.clone(), addresses.join(" ")]);
        lines.push(line);
    }
    lines
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Standby => "standby",
        NodeState::Claiming => "claiming",
        NodeState::Serving => "serving",
        NodeState::Draining => "draining",
    }
}

/// The partitions in sum.
struct Sum<'a> {
    current: usize,
    without_leader: Vec<usize>,
    bytes: u64,
    bytes_max: u64,
    fullest: Vec<&'a StreamState>,
}

impl<'a> Sum<'a> {
    fn of(description: &'a Description) -> Sum<'a> {
        let seen = || description.partitions.iter().flatten();
        let has_leader = |stream: &StreamState| stream.leader.is_some() || stream.config.num_replicas == 1;
        let without_leader = description.partitions.iter().enumerate();
        let without_leader = without_leader.filter(|(_, stream)| !stream.as_ref().is_some_and(has_leader));
        let mut fullest: Vec<&StreamState> = seen().filter(|stream| stream.bytes > 0).collect();
        fullest.sort_by_key(|stream| std::cmp::Reverse(stream.bytes));
        fullest.truncate(FULLEST_MAX);
        Sum {
            current: seen().filter(|stream| has_leader(stream) && is_current(stream)).count(),
            without_leader: without_leader.map(|(number, _)| number).collect(),
            bytes: seen().map(|stream| stream.bytes).sum(),
            bytes_max: seen().filter_map(|stream| u64::try_from(stream.config.max_bytes).ok()).sum(),
            fullest,
        }
    }
}

fn is_current(stream: &StreamState) -> bool {
    let current = stream.peers.iter().filter(|peer| peer.is_well()).count();
    current + 1 >= usize::from(stream.config.num_replicas)
}

fn partitions(description: &Description) -> String {
    let sum = Sum::of(description);
    let count = description.partitions.len();
    let mut out = format!(
        "partitions: {} of {count} have {} current copies; {} of {} held\n",
        sum.current,
        description.index.config.num_replicas,
        bytes::shown(sum.bytes),
        bytes::shown(sum.bytes_max)
    );
    if !sum.without_leader.is_empty() {
        let named: Vec<String> =
            sum.without_leader.iter().take(NAMED_MAX).map(|number| format!("{number:03}")).collect();
        let more = if sum.without_leader.len() > NAMED_MAX { " …" } else { "" };
        let _ = writeln!(out, "without a leader: {} ({}{more})", sum.without_leader.len(), named.join(", "));
    }
    if !sum.fullest.is_empty() {
        let shown = |stream: &&StreamState| {
            format!("{} {} ({} %)", stream.config.name, bytes::shown(stream.bytes), findings::percent(stream))
        };
        let _ = writeln!(out, "fullest: {}", sum.fullest.iter().map(shown).collect::<Vec<_>>().join(", "));
    }
    out
}

/// For programs.
pub(super) fn json(cluster: &str, seen: &Seen, findings: &[String]) -> String {
    let servers: Vec<Value> = seen.servers.iter().map(|(url, told)| json_server(url, told)).collect();
    let nodes: Vec<Value> = seen.nodes.iter().map(|heard| json_node(&heard.beat)).collect();
    let partitions = seen.streams.as_ref().ok().map(json_partitions);
    let all = json!({
        "well": findings.is_empty(),
        "cluster": cluster,
        "findings": findings,
        "servers": servers,
        "nodes": nodes,
        "partitions": partitions,
    });
    format!("{all}\n")
}

fn json_server(url: &str, told: &Result<ServerState, MonitoringFault>) -> Value {
    let server = match told {
        Ok(server) => server,
        Err(fault) => return json!({ "monitoring": url, "reachable": false, "fault": fault.to_string() }),
    };
    let jetstream = server.jetstream.as_ref().map(|jetstream| {
        json!({
            "synced": jetstream.is_always_synced,
            "stored_bytes": jetstream.stored_bytes,
            "stored_bytes_max": jetstream.stored_bytes_max,
            "reserved_bytes": jetstream.reserved_bytes,
        })
    });
    json!({
        "monitoring": url,
        "reachable": true,
        "name": server.name,
        "version": server.version,
        "jetstream": jetstream,
    })
}

fn json_node(beat: &Beat) -> Value {
    json!({
        "name": beat.node,
        // Above 2^53, which some readers of JSON lose.
        "run": format!("{:016x}", beat.run),
        "state": state_name(beat.state),
        "open": beat.open,
        "doubtful": beat.doubtful,
        "broken": beat.broken,
        "term": beat.term,
        "reaches_engine": beat.reaches_engine,
        "version": beat.version,
        "addresses": beat.addresses,
    })
}

fn json_partitions(description: &Description) -> Value {
    let sum = Sum::of(description);
    let fullest = sum.fullest.iter().map(|stream| {
        json!({ "stream": stream.config.name, "bytes": stream.bytes, "bytes_max": stream.config.max_bytes, "leader": stream.leader })
    });
    json!({
        "count": description.partitions.len(),
        "replicas": description.index.config.num_replicas,
        "current": sum.current,
        "without_leader": sum.without_leader,
        "bytes": sum.bytes,
        "bytes_max": sum.bytes_max,
        "fullest": fullest.collect::<Vec<_>>(),
    })
}
