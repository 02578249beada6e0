//! What of the partitions is too old: the same judgement as of a server's own log, of each partition by itself.
//!
//! A limit of bytes is that of all partitions together, so each has its share of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use banter_cluster::engine::Partition;
use banter_cluster::node::{Input, Node};
use banter_cluster::store::Stage;
use banter_log::journal::JournalParts;
use banter_log::segment::{Class, SegmentHeader};

use crate::config::Config;
use crate::storage::ages::Ages;
use crate::storage::retention::{Held, Leave, Rules, plan};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Segments of a partition that are forgotten at a time.
const FORGOTTEN_MAX: usize = 256;

/// Judges the partitions of a node.
pub struct Retention {
    rules: Rules,
    partitions: u64,
    look_at: Instant,
    open: BTreeMap<u16, (Ages, Instant)>,
}

impl Retention {
    /// By the limits of the configuration.
    pub fn new(config: &Config, partitions: u16) -> Self {
        let partitions = u64::from(partitions);
        let server =
            share_of(Class { hours: config.limits.retention_hours, bytes: config.limits.retention_bytes }, partitions);
        let rules = Rules { server, window_ms: config.limits.dedupe_window_ms };
        Retention { rules, partitions, look_at: Instant::now() + LOOK_EVERY, open: BTreeMap::new() }
    }

    /// A partition is this node's; what it has was written by earlier owners.
    pub fn opened(&mut self, partition: u16, parts: &JournalParts, node: &Node, unix_ms: u64) {
        let earlier: Vec<(SegmentHeader, u64)> =
            node.segments(Partition(partition)).map(|segment| (segment.header, segment.newest_ms)).collect();
        let start_ms = parts.catalog.runs().start_ms().unwrap_or(unix_ms);
        self.open.insert(partition, (Ages::new(parts.run, start_ms, unix_ms, &earlier), Instant::now()));
    }

    /// A partition is this node's no more.
    pub fn closed(&mut self, partition: u16) {
        self.open.remove(&partition);
    }

    /// When it is looked next.
    pub fn look_at(&self) -> Instant {
        self.look_at
    }

    /// What is to be forgotten, and what is to be left for the next segment.
    pub fn look(&mut self, node: &Node, unix_ms: u64) -> Vec<Input> {
        self.look_at = Instant::now() + LOOK_EVERY;
        let mut inputs = Vec::new();
        for (&number, (ages, opened)) in &mut self.open {
            ages.advance(opened.elapsed().as_millis() as u64, unix_ms);
            let partition = Partition(number);
            let partitions = self.partitions;
            let held = node.segments(partition).filter(|segment| !segment.is_forgotten).map(|segment| Held {
                header: SegmentHeader { class: share_of(segment.header.class, partitions), ..segment.header },
                file_bytes: segment.end_offset,
                newest_ms: (segment.stage == Stage::Kept).then_some(segment.newest_ms),
            });
            let mut plan = plan(held, self.rules, ages);
            plan.cut.truncate(FORGOTTEN_MAX);
            if !plan.cut.is_empty() {
                inputs.push(Input::Forget(partition, plan.cut));
            }
            let retire =
                |Leave { segment, first_ms, newest_ms }| Input::Retire { partition, segment, first_ms, newest_ms };
            inputs.extend(plan.leave.into_iter().map(retire));
        }
        inputs
    }
}

/// What a partition has of it; 0 stays no limit.
fn share_of(class: Class, partitions: u64) -> Class {
    Class { bytes: if class.bytes == 0 { 0 } else { (class.bytes / partitions).max(1) }, ..class }
}
