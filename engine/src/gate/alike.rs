//! Faults that many streams share, told as one.

use std::collections::BTreeMap;

use super::REPLICAS_MIN;
use super::fault::GateFault;
use crate::stream_config::{Difference, Shape, StreamConfig};
use crate::streams::{Peer, StreamState};

/// What is wrong with streams: of many that are alike, the first is named.
#[derive(Default)]
pub(super) struct Alike {
    absent: Vec<String>,
    replicas: BTreeMap<u8, Vec<String>>,
    differences: Vec<(Difference, Vec<String>)>,
}

impl Alike {
    /// One that nobody tells of.
    pub(super) fn on_absent(&mut self, stream: String) {
        self.absent.push(stream);
    }

    /// Looks at one that is there; `made` is how we would make it.
    pub(super) fn on_stream(
        &mut self,
        stream: &StreamState,
        behind: &mut Behind,
        made: impl FnOnce(Shape) -> StreamConfig,
    ) {
        let config = &stream.config;
        if config.num_replicas < REPLICAS_MIN {
            self.replicas.entry(config.num_replicas).or_default().push(config.name.clone());
        }
        // How large it is, and how many keep it, is chosen by whoever makes it; that it has an end at all is not.
        let bytes_max = u64::try_from(config.max_bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(1);
        let shape = Shape { replicas: config.num_replicas, stream_bytes_max: bytes_max, index_bytes_max: bytes_max };
        for difference in config.differences(&made(shape)) {
            self.on_difference(difference, &config.name);
        }
        let is_led = stream.leader.is_some() || config.num_replicas == 1;
        if !is_led || stream.peers.len() + 1 < usize::from(config.num_replicas) {
            self.absent.push(config.name.clone());
        }
        stream.peers.iter().for_each(|peer| behind.on_peer(peer, &config.name));
    }

    fn on_difference(&mut self, difference: Difference, stream: &str) {
        // The subjects differ from stream to stream, so theirs are named one by one.
        match self.differences.iter_mut().find(|(known, _)| *known == difference) {
            Some((_, streams)) => streams.push(stream.to_owned()),
            None => self.differences.push((difference, vec![stream.to_owned()])),
        }
    }

    /// What they make.
    pub(super) fn faults(self) -> Vec<GateFault> {
        let mut faults = Vec::new();
        if let Some(first) = self.absent.first() {
            faults.push(GateFault::NoStream { first: first.clone(), streams: self.absent.len() });
        }
        for (replicas, streams) in self.replicas {
            let first = streams.first().cloned().unwrap_or_default();
            faults.push(GateFault::Replicas { first, replicas, streams: streams.len() });
        }
        for (difference, streams) in self.differences {
            let first = streams.first().cloned().unwrap_or_default();
            faults.push(GateFault::Differs { first, difference, streams: streams.len() });
        }
        faults
    }
}

/// Servers that are gone or behind, and for what.
#[derive(Default)]
pub(super) struct Behind {
    servers: BTreeMap<(String, bool), Vec<String>>,
}

impl Behind {
    /// A server, as who leads `of` sees it.
    pub(super) fn on_peer(&mut self, peer: &Peer, of: &str) {
        if !peer.is_well() {
            let gone = peer.offline || peer.is_silent();
            self.servers.entry((peer.name.clone(), gone)).or_default().push(of.to_owned());
        }
    }

    /// What they make.
    pub(super) fn faults(self) -> impl Iterator<Item = GateFault> {
        self.servers.into_iter().map(|((server, is_offline), mut of)| {
            if of.len() > 3 {
                let more = of.len() - 2;
                of.truncate(2);
                of.push(format!("{more} more"));
            }
            GateFault::Peer { server, is_offline, of }
        })
    }
}
