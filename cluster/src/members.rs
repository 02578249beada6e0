//! Which nodes of the cluster live, and which of them is to own the partitions: by what they tell each other over the engine, and by
//! nothing else. A wrong suspicion costs a move, and never a message.
//!
//! Who is cut off from the engine cannot be heard and cannot own anything: that both go the same way is meant so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::entry::NodeId;

/// Bytes of a beat at most: above them it is none.
pub const BEAT_BYTES_MAX: usize = 8 * 1_024;
/// Nodes that are remembered at most.
pub const NODES_MAX: usize = 64;
/// Addresses of a node at most.
pub const ADDRESSES_MAX: usize = 8;

/// What a node tells the others, twice a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The cluster, by chance.
    pub cluster: u64,
    /// Its name.
    pub node: String,
    /// Which start of it, by chance.
    pub run: u64,
    /// What it does.
    pub state: NodeState,
    /// Where clients reach it.
    pub addresses: Vec<String>,
    /// Partitions that it serves.
    pub open: u16,
    /// Of them, those of which it does not know whether they are still its own.
    pub doubtful: u16,
    /// Partitions whose stream is not what it should be.
    pub broken: u16,
    /// The largest term that it owns a partition by.
    pub term: u64,
    /// Whether the engine told it of a partition lately, as its leader does: who stands by looks.
    #[serde(default)]
    pub reaches_engine: bool,
    /// Which rooms have which level and class by its file, as a hash; 0: it did not say.
    #[serde(default)]
    pub levels: u64,
    /// Its clock, in milliseconds since 1970, for people; 0: it did not say.
    #[serde(default)]
    pub unix_ms: u64,
    /// The version of the server.
    pub version: String,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It is ready to take the partitions over.
    Standby,
    /// It takes them over.
    Claiming,
    /// It serves.
    Serving,
    /// It is stopping, and will own nothing any more.
    Draining,
}

impl Beat {
    /// The beat as bytes.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a beat of that cluster; `None`: it is none.
    pub fn read(bytes: &[u8], cluster: u64) -> Option<Self> {
        let beat: Beat = serde_json::from_slice(bytes.get(..BEAT_BYTES_MAX).unwrap_or(bytes)).ok()?;
        (beat.cluster == cluster && beat.addresses.len() <= ADDRESSES_MAX).then_some(beat)
    }

    /// Whether it has the partitions, or takes them. One that stops has them until it has given them up.
    fn is_owner(&self) -> bool {
        match self.state {
            NodeState::Claiming | NodeState::Serving => true,
            NodeState::Draining => self.open > 0,
            NodeState::Standby => false,
        }
    }

    /// Whose it is.
    pub fn id(&self) -> NodeId {
        NodeId { name: name_hash(&self.node), run: self.run }
    }
}

/// What a node's name is known by in a stream.
pub fn name_hash(name: &str) -> u64 {
    // FNV-1a: it need not be hard to meet, only the same everywhere.
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A node that was heard.
#[derive(Clone, Debug)]
pub struct Member {
    /// What it told last.
    pub beat: Beat,
    /// When, in the node's milliseconds.
    pub heard_ms: u64,
}

/// The nodes that were heard.
#[derive(Debug)]
pub struct Members {
    cluster: u64,
    dead_after_ms: u64,
    members: BTreeMap<u64, Member>,
}

impl Members {
    /// Nobody was heard yet.
    pub fn new(cluster: u64, dead_after_ms: u64) -> Self {
        Members { cluster, dead_after_ms, members: BTreeMap::new() }
    }

    /// Something was told.
    pub fn heard(&mut self, bytes: &[u8], now_ms: u64) -> Option<&Beat> {
        let beat = Beat::read(bytes, self.cluster)?;
        let name = beat.id().name;
        if self.members.len() >= NODES_MAX && !self.members.contains_key(&name) {
            let oldest = self.members.iter().min_by_key(|(_, member)| member.heard_ms).map(|(&name, _)| name)?;
            self.members.remove(&oldest);
        }
        self.members.insert(name, Member { beat, heard_ms: now_ms });
        self.members.get(&name).map(|member| &member.beat)
    }

    /// Every node that was heard.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    fn is_alive(&self, member: &Member, now_ms: u64) -> bool {
        now_ms.saturating_sub(member.heard_ms) < self.dead_after_ms
    }

    /// Those that live.
    pub fn alive(&self, now_ms: u64) -> impl Iterator<Item = &Beat> {
        self.members.values().filter(move |member| self.is_alive(member, now_ms)).map(|member| &member.beat)
    }

    /// How long ago a node was heard, in milliseconds.
    pub fn silent_ms(&self, id: NodeId, now_ms: u64) -> Option<u64> {
        let member = self.members.get(&id.name).filter(|member| member.beat.run == id.run)?;
        Some(now_ms.saturating_sub(member.heard_ms))
    }

    /// The living node, but for that one, which has the partitions or takes them.
    pub fn other_owner(&self, own: NodeId, now_ms: u64) -> Option<&Beat> {
        self.alive(now_ms).find(|beat| beat.id() != own && beat.is_owner())
    }

    /// Whether a living node stands by that the engine answers.
    pub fn has_heir(&self, own: NodeId, now_ms: u64) -> bool {
        self.alive(now_ms).any(|beat| beat.id() != own && beat.state == NodeState::Standby && beat.reaches_engine)
    }

    /// How many living nodes are before that one when an owner is wanted. The order is the same at every node that hears the same.
    pub fn rank(&self, own: NodeId, now_ms: u64) -> usize {
        let weight = |name: u64| name_hash(&format!("{} {name}", self.cluster));
        let is_ready = |beat: &&Beat| beat.id().name != own.name && beat.state != NodeState::Draining;
        let others = self.alive(now_ms).filter(is_ready);
        others.filter(|beat| weight(beat.id().name) > weight(own.name)).count()
    }

    /// Where clients may go: to the owner first.
    pub fn addresses(&self, now_ms: u64) -> Vec<String> {
        let alive = || self.alive(now_ms).filter(|beat| beat.state != NodeState::Draining);
        let owners = alive().filter(|beat| beat.state == NodeState::Serving);
        let others = alive().filter(|beat| beat.state != NodeState::Serving);
        owners.chain(others).flat_map(|beat| beat.addresses.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(node: &str, run: u64, state: NodeState) -> Beat {
        Beat {
            cluster: 7,
            node: node.to_owned(),
            run,
            state,
            addresses: vec![format!("{node}:7171")],
            open: 0,
            doubtful: 0,
            broken: 0,
            term: 0,
            reaches_engine: false,
            levels: 0,
            unix_ms: 0,
            version: "0.1.0".to_owned(),
        }
    }

    fn members(beats: &[(Beat, u64)]) -> Members {
        let mut members = Members::new(7, 2_000);
        for (beat, now_ms) in beats {
            assert!(members.heard(&beat.write(), *now_ms).is_some());
        }
        members
    }

    #[test]
    fn a_node_that_was_not_heard_for_so_long_is_dead_and_owns_nothing() {
        let ann = beat("ann", 1, NodeState::Serving);
        let members = members(&[(ann.clone(), 1_000), (beat("bob", 1, NodeState::Standby), 1_500)]);
        let bob = beat("bob", 1, NodeState::Standby).id();
        assert_eq!(members.other_owner(bob, 2_999).map(|beat| &*beat.node), Some("ann"));
        assert_eq!(members.other_owner(bob, 3_000), None);
        assert_eq!(members.other_owner(ann.id(), 1_500), None, "it is no other to itself");
        assert_eq!(members.silent_ms(ann.id(), 1_700), Some(700));
        assert_eq!(members.silent_ms(NodeId { run: 2, ..ann.id() }, 1_700), None, "it was another start of it");
    }

    #[test]
    fn nodes_agree_who_is_first_and_one_that_stops_is_none() {
        let names = ["ann", "bob", "cid"];
        let beats: Vec<(Beat, u64)> = names.map(|name| (beat(name, 1, NodeState::Standby), 0)).into();
        let there = members(&beats);
        let mut ranks: Vec<usize> = beats.iter().map(|(beat, _)| there.rank(beat.id(), 100)).collect();
        let first = names[ranks.iter().position(|&rank| rank == 0).unwrap()];
        ranks.sort_unstable();
        assert_eq!(ranks, [0, 1, 2]);
        let mut stopping = beats.clone();
        stopping.push((beat(first, 1, NodeState::Draining), 50));
        let there = members(&stopping);
        let others = names.iter().filter(|name| **name != first);
        let mut ranks: Vec<usize> =
            others.map(|name| there.rank(beat(name, 1, NodeState::Standby).id(), 100)).collect();
        ranks.sort_unstable();
        assert_eq!(ranks, [0, 1]);
        assert!(!there.addresses(100).contains(&format!("{first}:7171")));
    }

    #[test]
    fn clients_are_sent_to_the_owner_first() {
        let beats = [("ann", NodeState::Standby), ("bob", NodeState::Serving), ("cid", NodeState::Standby)];
        let there = members(&beats.map(|(name, state)| (beat(name, 1, state), 0)));
        assert_eq!(there.addresses(100)[0], "bob:7171");
        assert_eq!(there.addresses(100).len(), 3);
    }

    #[test]
    fn what_is_no_beat_of_this_cluster_is_not_heard_and_the_nodes_are_bounded() {
        let mut there = Members::new(7, 2_000);
        let other = Beat { cluster: 8, ..beat("ann", 1, NodeState::Serving) };
        let many = Beat { addresses: vec![String::new(); ADDRESSES_MAX + 1], ..beat("ann", 1, NodeState::Serving) };
        for bytes in [b"".to_vec(), b"{}".to_vec(), other.write(), many.write(), vec![b'['; 1 << 16]] {
            assert!(there.heard(&bytes, 0).is_none());
        }
        for number in 0..2 * NODES_MAX as u64 {
            there.heard(&beat(&format!("node-{number}"), 1, NodeState::Standby).write(), number);
        }
        assert_eq!(there.all().count(), NODES_MAX);
        assert!(there.all().any(|member| member.beat.node == format!("node-{}", 2 * NODES_MAX - 1)));
    }
}
