//! What the server's log is told of the cluster.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use banter_cluster::engine::Partition;
use banter_cluster::loading::LoadFault;
use banter_cluster::node::{Note, SteppedDown};

/// Lines of one kind that are written in a row; then they are counted, until it is quiet.
const LINES_MAX: u32 = 8;
/// Quiet behind which lines are written again.
const QUIET: Duration = Duration::from_secs(5);

/// Writes lines, and counts those of partitions that come in crowds.
#[derive(Debug, Default)]
pub struct Notes {
    lines: u32,
    left_out: u32,
    last: Option<Instant>,
    /// Partitions that are told as broken, and why: they are tried again and again, and told once.
    broken: BTreeMap<u16, LoadFault>,
    /// Partitions that are told as full.
    full: Vec<u16>,
}

impl Notes {
    /// Something is told.
    pub fn tell(&mut self, note: &Note) {
        match note {
            Note::Claims { from } => {
                self.broken.clear();
                match from {
                    Some(from) => tracing::info!(event = "cluster_claims", "taking over from {from}"),
                    None => tracing::info!(event = "cluster_claims", "no node serves: taking over"),
                }
            }
            Note::Waits { took_ms, open, claimed, read } => tracing::warn!(
                event = "cluster_waits",
                took_ms,
                "taking over takes long, {} s by now: {open} partitions are open, the streams of {claimed} take no claim, and {read} are being \
                 read; look at the engine's servers and streams (`banter cluster status`)",
                took_ms / 1_000
            ),
            Note::Serves { took_ms, read, missing } if missing.is_empty() => tracing::info!(
                event = "cluster_serves",
                took_ms,
                read,
                "this node serves: all partitions are its own, {took_ms} ms and {read} messages of the engine later"
            ),
            Note::Serves { took_ms, missing, .. } => tracing::warn!(
                event = "cluster_serves",
                took_ms,
                "this node serves, but for partitions {}: their rooms answer `unavailable` until they are open ({took_ms} ms)",
                listed(missing)
            ),
            Note::Opened { partition } => {
                self.broken.remove(&partition.0);
                tracing::info!(
                    event = "cluster_opened",
                    partition = partition.0,
                    "partition {} is served too",
                    partition.0
                );
            }
            Note::StepsDown { why } => self.steps_down(*why),
            Note::Broken { partition, fault } if self.broken.insert(partition.0, *fault) == Some(*fault) => {}
            Note::Broken { partition, fault } => tracing::error!(
                event = "cluster_broken",
                partition = partition.0,
                "partition {} is not served, and its rooms answer `unavailable`: {fault}; {}",
                partition.0,
                cure_of(fault)
            ),
            Note::Doubtful { partition } | Note::Trusted { partition } if self.broken.contains_key(&partition.0) => {}
            Note::Doubtful { partition } => self.crowd(|| {
                tracing::warn!(
                    event = "cluster_doubtful",
                    partition = partition.0,
                    "the engine does not answer for partition {}: its posts wait, and reading goes on",
                    partition.0
                );
            }),
            Note::Trusted { partition } => self.crowd(|| {
                tracing::info!(event = "cluster_trusted", partition = partition.0, "partition {} goes on", partition.0);
            }),
        }
    }

    /// Those partitions find no space now.
    pub fn full(&mut self, full: &[u16]) {
        if let Some(new) = full.iter().find(|partition| !self.full.contains(partition)) {
            tracing::warn!(
                event = "cluster_full",
                "{} partitions find no space in their streams, or for their indexes, as partition {new}: posts of their rooms are answered \
                 `log_full`. Let rooms keep less (`retention_bytes`, `retention_hours`), or give the streams more: `banter cluster init \
                 --stream-bytes-max`",
                full.len()
            );
        } else if full.is_empty() && !self.full.is_empty() {
            tracing::info!(event = "cluster_room", "all partitions have space again");
        }
        self.full = full.to_vec();
    }

    fn steps_down(&self, why: SteppedDown) {
        match why {
            SteppedDown::Lost { partition } => tracing::warn!(
                event = "cluster_steps_down",
                "another node has claimed partition {}: this one stands by, and its clients are sent there",
                partition.0
            ),
            SteppedDown::CutOff => tracing::error!(
                event = "cluster_steps_down",
                "the engine cannot be reached from here: this node stands by, and its clients are sent to the others"
            ),
            SteppedDown::Drains => {
                tracing::info!(event = "cluster_steps_down", "stopping: the partitions are given up")
            }
        }
    }

    fn crowd(&mut self, write: impl FnOnce()) {
        if self.last.replace(Instant::now()).is_none_or(|last| last.elapsed() >= QUIET) {
            if self.left_out > 0 {
                tracing::info!("{} more such lines of partitions were left out", self.left_out);
            }
            (self.lines, self.left_out) = (0, 0);
        }
        if self.lines < LINES_MAX {
            self.lines += 1;
            write();
        } else {
            self.left_out += 1;
        }
    }
}

/// Numbers of partitions, as far as a line holds them.
fn listed(partitions: &[Partition]) -> String {
    const SHOWN_MAX: usize = 16;
    let shown: Vec<String> = partitions.iter().take(SHOWN_MAX).map(|partition| partition.0.to_string()).collect();
    let more = partitions.len().saturating_sub(SHOWN_MAX);
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// What to do about a partition that cannot be served.
fn cure_of(fault: &LoadFault) -> &'static str {
    match fault {
        fault if fault.may_pass() => {
            "it is tried again every 10 s, since one server may only be late; where it stays so, look at the engine's servers (`banter cluster status`)"
        }
        LoadFault::Unfinished => "`banter cluster import` says how to begin anew",
        _ => {
            "the engine's stream is damaged, or somebody else wrote to it: look at its servers (`banter cluster status`), and restore the stream \
             from a backup (docs/cluster.md, \"A stream that is lost\")"
        }
    }
}
