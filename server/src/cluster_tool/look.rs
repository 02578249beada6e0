//! What is seen of a cluster: its servers and streams, and the nodes that tell of themselves meanwhile.

use std::convert::Infallible;
use std::time::{Duration, Instant, UNIX_EPOCH};

use banter_cluster::engine::Answer;
use banter_cluster::members::{Beat, NODES_MAX};
use banter_engine::gate::{self, GateFault};
use banter_engine::monitoring::{MonitoringFault, ServerState};
use banter_engine::streams::{Description, StreamsFault};
use banter_engine::{Engine, EngineFault};

use super::whom::Told;

/// How long is listened for nodes: each tells twice a second that it lives, so two words of each are heard.
const LISTEN: Duration = Duration::from_millis(1_200);
/// What a node told longer ago is not believed: it may be dead, as the other nodes take it.
const FRESH: Duration = Duration::from_secs(2);
/// Beats that are kept while is looked: more than all nodes tell in the longest look.
const BEATS_MAX: usize = 4_096;

/// What is seen.
#[derive(Debug)]
pub(super) struct Seen {
    /// The servers' monitoring addresses, and what each tells.
    pub(super) servers: Vec<(String, Result<ServerState, MonitoringFault>)>,
    /// The cluster's streams.
    pub(super) streams: Result<Description, StreamsFault>,
    /// The nodes that were heard, by name.
    pub(super) nodes: Vec<Heard>,
    /// What keeps the engine from being proved.
    pub(super) faults: Vec<GateFault>,
}

/// A node that was heard.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// What it told last.
    pub(super) beat: Beat,
    /// How far its clock is ahead of this machine's, in milliseconds; none: it does not say.
    pub(super) ahead_ms: Option<i64>,
    /// Another one was heard by the same name, and both go on.
    pub(super) is_double: bool,
    /// Starts of it that were heard before this one.
    runs_before: Vec<u64>,
}

/// A connection to look through, over and over.
pub(super) struct Looking<'a> {
    told: &'a Told,
    engine: Engine,
    answers: flume::Receiver<Answer>,
}

impl<'a> Looking<'a> {
    /// Connects.
    pub(super) async fn open(told: &'a Told) -> Result<Self, EngineFault> {
        let (to_me, answers) = flume::unbounded();
        Ok(Looking { told, engine: Engine::connect(told.engine.clone(), to_me).await?, answers })
    }

    /// Looks once.
    pub(super) async fn look(&self) -> Seen {
        // What was told before is of a while ago.
        self.answers.drain();
        let mut beats = Vec::new();
        let proof = gate::prove(self.engine.connection(), &self.told.monitoring, self.told.append_bytes_max);
        let looked = async { tokio::join!(proof, tokio::time::sleep(LISTEN)).0 };
        let (health, faults) = tokio::select! {
            looked = looked => looked,
            never = self.listen(&mut beats) => match never {},
        };
        // Where the streams cannot be seen, nobody knows the cluster's id, and whoever speaks by its name is believed.
        let cluster = health.streams.as_ref().ok().map(|description| description.founding.cluster_id);
        let fresh = beats.into_iter().filter(|(heard_at, ..)| heard_at.elapsed() <= FRESH);
        let ours = fresh.filter(|(.., beat)| cluster.is_none_or(|cluster| beat.cluster == cluster));
        let nodes = heard(ours.map(|(_, unix_ms, beat)| (unix_ms, beat)));
        Seen { servers: health.servers, streams: health.streams, nodes, faults }
    }

    async fn listen(&self, beats: &mut Vec<(Instant, u64, Beat)>) -> Infallible {
        loop {
            match self.answers.recv_async().await {
                Ok(Answer::Beat { bytes }) if beats.len() < BEATS_MAX => {
                    let unix_ms = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
                    beats.extend(read(&bytes).map(|beat| (Instant::now(), unix_ms, beat)));
                }
                Ok(_) => {}
                Err(_) => std::future::pending().await,
            }
        }
    }
}

fn read(bytes: &[u8]) -> Option<Beat> {
    #[derive(serde::Deserialize)]
    struct OfCluster {
        cluster: u64,
    }
    let of: OfCluster = serde_json::from_slice(bytes).ok()?;
    Beat::read(bytes, of.cluster)
}

/// The nodes of these beats, which are in the order in which they were told, each with the time at which it was heard.
fn heard(beats: impl Iterator<Item = (u64, Beat)>) -> Vec<Heard> {
    let mut nodes: Vec<Heard> = Vec::new();
    for (unix_ms, beat) in beats {
        let ahead_ms = (beat.unix_ms != 0).then(|| beat.unix_ms.cast_signed().wrapping_sub(unix_ms.cast_signed()));
        match nodes.iter().position(|heard| heard.beat.node == beat.node) {
            Some(index) => nodes[index].on_beat(ahead_ms, beat),
            None if nodes.len() < NODES_MAX => {
                nodes.push(Heard { beat, ahead_ms, is_double: false, runs_before: Vec::new() });
            }
            None => {}
        }
    }
    nodes.sort_by(|a, b| a.beat.node.cmp(&b.beat.node));
    nodes
}

impl Heard {
    /// One that was started again has left its former run behind; two that share a name speak by turns.
    fn on_beat(&mut self, ahead_ms: Option<i64>, beat: Beat) {
        if beat.run != self.beat.run {
            self.is_double |= self.runs_before.contains(&beat.run);
            self.runs_before.push(self.beat.run);
        }
        (self.beat, self.ahead_ms) = (beat, ahead_ms);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use banter_cluster::members::NodeState;

    use super::*;

    pub(in super::super) fn beat(node: &str, run: u64, state: NodeState) -> Beat {
        Beat {
            cluster: 7,
            node: node.to_owned(),
            run,
            state,
            addresses: vec![format!("{node}.example.com:7878")],
            open: if state == NodeState::Serving { 16 } else { 0 },
            doubtful: 0,
            broken: 0,
            term: 3,
            reaches_engine: true,
            levels: 0,
            unix_ms: 0,
            version: "0.1.0".to_owned(),
        }
    }

    pub(in super::super) fn heard_one(beat: Beat) -> Heard {
        Heard { beat, ahead_ms: None, is_double: false, runs_before: Vec::new() }
    }

    #[test]
    fn one_that_started_again_is_one_node_and_two_of_a_name_are_told_apart() {
        let spoken = |runs: &[u64]| heard(runs.iter().map(|run| (0, beat("ann", *run, NodeState::Standby))));
        assert!(!spoken(&[1, 1, 2, 2])[0].is_double && spoken(&[1, 1, 2, 2])[0].beat.run == 2);
        assert!(spoken(&[1, 2, 1])[0].is_double);
        let several = heard(["bob", "ann", "bob"].map(|node| (0, beat(node, 1, NodeState::Standby))).into_iter());
        assert_eq!(several.iter().map(|heard| &*heard.beat.node).collect::<Vec<_>>(), ["ann", "bob"]);
    }

    #[test]
    fn a_nodes_clock_is_what_it_told_last_beside_ours() {
        let told = |unix_ms| Beat { unix_ms, ..beat("ann", 1, NodeState::Standby) };
        let ahead = |beats: &[(u64, u64)]| heard(beats.iter().map(|&(at, unix_ms)| (at, told(unix_ms))))[0].ahead_ms;
        assert_eq!(ahead(&[(1_000, 500), (1_500, 4_500)]), Some(3_000));
        assert_eq!(ahead(&[(1_000, 400)]), Some(-600));
        assert_eq!(ahead(&[(1_000, 0)]), None, "an older one says no time");
    }

    #[test]
    fn only_a_beat_is_read() {
        assert_eq!(read(&beat("ann", 1, NodeState::Serving).write()).map(|beat| beat.cluster), Some(7));
        for bytes in [&b""[..], b"{}", br#"{"cluster":7}"#, &[b'['; 70_000]] {
            assert!(read(bytes).is_none());
        }
    }
}
