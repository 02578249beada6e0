//! Ahead of a clustered start: the engine is reached, proves itself, and says what the cluster is.

use std::time::{Duration, Instant};

use banter_cluster::engine::Answer;
use banter_engine::gate::{self, GateFault};
use banter_engine::{Engine, EngineConfig, EngineFault, Founding, streams};
use banter_log::PAGE_BYTES;
use banter_log::state::STATE_BYTES_MAX;
use flume::Sender;

use super::ClusterFault;
use crate::config::{Cluster, Config};

/// How often it is said that the engine is waited for.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// How long until it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long an engine that has just been started has to become what it should be, before a start is refused.
const PROOF_WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes of an append around its block's records: headers of entry and block.
const APPEND_HEADER_BYTES: u64 = 4 << 10;

/// The engine's side of the configuration.
pub fn engine_config(cluster: &Cluster) -> EngineConfig {
    EngineConfig {
        credentials: cluster.engine_credentials.clone(),
        certificate_authority: cluster.engine_certificate_authority.clone(),
        append_timeout_ms: cluster.append_timeout_ms.into(),
        ..EngineConfig::new(cluster.name.clone(), cluster.engine.clone())
    }
}

/// Bytes of the longest message that is ever appended: a commit, or one record that is longer than any may be, with a room's state.
pub fn append_bytes_max(frame_bytes_max: u32, cluster: &Cluster) -> u64 {
    let record = u64::from(frame_bytes_max) + STATE_BYTES_MAX as u64;
    u64::from(cluster.append_bytes_max).max(record) + APPEND_HEADER_BYTES
}

/// Bytes of a segment: never fewer than the longest append and what lies beside it, or a room whose message is so long could never
/// be posted to.
pub fn segment_bytes(wanted: u64, append_bytes_max: u64) -> u64 {
    const PAGE: u64 = PAGE_BYTES as u64;
    // Its header, and the proof behind the last block.
    wanted.max(append_bytes_max.next_multiple_of(PAGE) + 2 * PAGE)
}

/// Reaches the engine, waiting for it as long as nobody says stop.
pub async fn reach(
    cluster: &Cluster,
    answers: Sender<Answer>,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Engine, ClusterFault> {
    let mut said: Option<Instant> = None;
    loop {
        match Engine::connect(engine_config(cluster), answers.clone()).await {
            Ok(engine) => return Ok(engine),
            Err(fault @ (EngineFault::Unreachable { .. } | EngineFault::Closed)) => {
                if said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
                    tracing::warn!("waiting for the engine of the cluster: {fault}");
                    said = Some(Instant::now());
                }
                tokio::time::sleep(RETRY).await;
                if is_stopped() {
                    return Err(ClusterFault::Stopped);
                }
            }
            Err(fault) => return Err(ClusterFault::Engine(fault.to_string())),
        }
    }
}

/// Has the engine prove itself. One that has just been started may need a while.
pub async fn prove(
    engine: &Engine,
    config: &Config,
    cluster: &Cluster,
    is_stopped: &dyn Fn() -> bool,
) -> Result<(), ClusterFault> {
    let began = Instant::now();
    let mut is_said = false;
    loop {
        let bytes_max = append_bytes_max(config.limits.frame_bytes_max, cluster);
        let (_, faults) = gate::prove(engine.connection(), &cluster.engine_monitoring, bytes_max).await;
        if faults.is_empty() {
            return Ok(());
        }
        if cluster.unproved_engine {
            for fault in &faults {
                tracing::error!("the engine is unproved, and used all the same (unproved_engine = true): {fault}");
            }
            return Ok(());
        }
        if began.elapsed() >= PROOF_WAIT_MAX || !faults.iter().all(may_pass) {
            return Err(ClusterFault::Unproved { faults: listed(&faults) });
        }
        if !std::mem::replace(&mut is_said, true) {
            tracing::warn!("waiting for the engine of the cluster to prove itself:\n{}", listed(&faults));
        }
        tokio::time::sleep(RETRY).await;
        if is_stopped() {
            return Err(ClusterFault::Stopped);
        }
    }
}

/// Whether a fault goes by itself while an engine starts.
fn may_pass(fault: &GateFault) -> bool {
    matches!(
        fault,
        GateFault::Monitoring(_)
            | GateFault::NoLeader
            | GateFault::Peer { .. }
            | GateFault::Streams(_)
            | GateFault::NoStream { .. }
    )
}

/// The faults, a line each.
pub fn listed(faults: &[GateFault]) -> String {
    faults.iter().map(|fault| format!("- {fault}")).collect::<Vec<_>>().join("\n")
}

/// What the cluster is, as `banter cluster init` made it, and bytes of each stream at most.
pub async fn founding(engine: &Engine) -> Result<(Founding, u64), ClusterFault> {
    let described =
        streams::describe(engine.connection()).await.map_err(|fault| ClusterFault::Streams(fault.to_string()))?;
    let bytes_max = described.partitions.iter().flatten().map(|stream| stream.config.max_bytes).min();
    Ok((described.founding, bytes_max.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_holds_the_longest_append() {
        assert_eq!(segment_bytes(4 << 20, 300_000), 4 << 20);
        let least = segment_bytes(64 << 10, 300_000);
        assert!(least >= 300_000 + 2 * PAGE_BYTES as u64 && least.is_multiple_of(PAGE_BYTES as u64), "{least}");
    }
}
