//! What an operator wants at a glance: one JSON object about the whole server.
//!
//! Invariants:
//! - The cores do nothing for it but what they do for the metrics: one report each.
//! - Whatever hangs (a core, a disk, a reload) is left out of the answer and told in it, and holds it for [`PART_MAX`] at most.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use banter_access::api_key::ApiRights;
use banter_access::limit::Limit;
use banter_log::journal::State as LogState;
use banter_protocol::error_code::{ErrorCode, Scope};
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::Plane;
use super::caller::Caller;
use super::fault::ApiFault;
use super::operate::ChangeTold;
use crate::cluster::ClusterSeen;
use crate::config::Changes;
use crate::control::auth::JudgeSlot;
use crate::control::jwks::{JwksDesk, JwksTold};
use crate::control::{STANDBY, Standing, Surveyed, ToControl};
use crate::log_lines::LogFilter;
use crate::metrics::CoreReport;
use crate::storage::files::disk_of;
use crate::wall_clock;

/// How long one part of the answer is waited for.
const PART_MAX: Duration = Duration::from_secs(2);

/// What is told beside what the control thread knows.
pub struct StatusParts {
    /// The configuration's file.
    pub config_file: Option<PathBuf>,
    /// The log's folder, where there is a log.
    pub log_folder: Option<PathBuf>,
    /// The level of rooms that no entry of `[[rooms]]` matches.
    pub durability: &'static str,
    /// Who judges tokens, where they are asked for.
    pub judge: Option<JudgeSlot>,
    /// The keys of an address.
    pub jwks: Option<JwksDesk>,
    /// What is logged.
    pub log: LogFilter,
}

/// The server at a glance. Numbers are those of the cores that answered.
#[derive(Serialize, ToSchema)]
pub struct StatusTold {
    /// Of the program.
    version: &'static str,
    /// What it was built from, where its build said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'static str>,
    /// `starting`, `serving` or `draining`.
    #[schema(value_type = String)]
    state: &'static str,
    /// When it was started, in seconds since 1970.
    started: u64,
    /// Seconds since then.
    uptime_seconds: u64,
    /// What to see to, for people; none: all is well.
    troubles: Vec<String>,
    /// Connections now.
    connections: u64,
    /// Rooms in memory now.
    rooms: u64,
    /// Readings of rooms now: a user with two connections in a room has two.
    subscriptions: u64,
    /// Posts that got a place since the start.
    posts: u64,
    /// Messages handed to readers since the start.
    deliveries: u64,
    /// Each core.
    cores: Vec<CoreTold>,
    /// The log of messages.
    log: LogTold,
    /// The cluster that it is a node of, as the node sees it; none: it is a server by itself.
    cluster: Option<ClusterTold>,
    /// Times since the start that a limit refused somebody, by whose share it was.
    limited: LimitedTold,
    /// What tokens are checked with; none: they are not asked for.
    tokens: Option<TokensTold>,
    /// How many revocations hold; none: their disk did not answer in time.
    revocations: Option<usize>,
    /// The configuration.
    config: ConfigTold,
}

/// A core.
#[derive(Serialize, ToSchema)]
pub struct CoreTold {
    core: u16,
    /// Whether it answered within two seconds; otherwise nothing else is known of it.
    answers: bool,
    /// Connections now.
    connections: u64,
    /// Rooms that it owns and has in memory.
    rooms: u64,
    /// Readings of rooms by its connections.
    subscriptions: u64,
    /// Its part of the log: `none`, `open`, `full` or `failed`.
    #[schema(value_type = String)]
    log: &'static str,
}

/// The log of messages.
#[derive(Serialize, ToSchema)]
pub struct LogTold {
    /// The level of rooms that `[[rooms]]` says nothing else of: `memory`, `written` or `synced`.
    #[schema(value_type = String)]
    durability: &'static str,
    /// The worst of the cores': `none`, `open`, `full` or `failed`.
    #[schema(value_type = String)]
    state: &'static str,
    /// Its files.
    segments: u64,
    /// Bytes of them.
    bytes: u64,
    /// Bytes that its disk has free; none where there is no log, or the disk did not answer in time.
    free_bytes: Option<u64>,
    /// Files that the check found damaged since the start.
    damaged_segments: u64,
    /// Erasures that are hidden, and on the disk still.
    erasures_pending: u64,
}

/// A node of a cluster.
#[derive(Serialize, ToSchema)]
pub struct ClusterTold {
    /// The cluster's name.
    name: String,
    /// The node's.
    node: String,
    /// `serves` or `stands_by`.
    #[schema(value_type = String)]
    state: &'static str,
    /// Partitions that the cluster has.
    partitions: u16,
    /// How many of them are open here.
    open: u16,
    /// Those of the open ones for which the engine does not answer: their posts wait.
    doubtful: Vec<u16>,
    /// Those of the open ones that find no space: their posts are refused.
    full: Vec<u16>,
    /// Those that are not served, since their streams are not what they should be.
    broken: Vec<u16>,
    /// Addresses of the nodes that live, the one that serves first.
    nodes: Vec<String>,
    /// What keeps the engine from being proved, each with its cure; looked at once a minute.
    unproved: Vec<String>,
}

/// Refusals by limits, by whose share was used up.
#[derive(Default, Serialize, ToSchema)]
pub struct LimitedTold {
    /// That of an address.
    ip: u64,
    /// That of a connection.
    connection: u64,
    /// That of a user.
    user: u64,
    /// That of a room.
    room: u64,
    /// The server's.
    server: u64,
    /// Times that a limit in `limits_dry_run` would have refused.
    only_counted: u64,
}

/// What tokens are checked with.
#[derive(Serialize, ToSchema)]
pub struct TokensTold {
    /// Keys, those of `jwks_url` among them.
    keys: usize,
    /// The keys of `jwks_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks: Option<JwksState>,
}

/// The keys of `jwks_url`.
#[derive(Serialize, ToSchema)]
pub struct JwksState {
    /// The address.
    url: String,
    /// Keys that hold.
    keys: usize,
    /// When they were fetched, in seconds since 1970; none: never.
    fetched: Option<u64>,
    /// Why the last fetch brought nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// The configuration.
#[derive(Serialize, ToSchema)]
pub struct ConfigTold {
    /// Its file; none: the server has only its command line.
    file: Option<String>,
    /// What is logged now.
    log: String,
    /// What a reload would change now, by the file.
    would_take_effect: Vec<ChangeTold>,
    /// What the file says and only a restart does.
    needs_restart: Vec<ChangeTold>,
    /// Why the file cannot be told: a reload would be refused for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

/// The server at a glance.
#[utoipa::path(get, path = "/v1/status", tag = "server", responses((status = 200, body = StatusTold)))]
pub async fn status(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<StatusTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    let (reply, surveyed) = oneshot::channel();
    // The control thread lives longer than this one.
    let _ = plane.control.send(ToControl::Surveyed(reply));
    let (surveyed, revocations, free_bytes, config) =
        tokio::join!(surveyed, revocations(&plane), free_bytes(plane.status.log_folder.clone()), config(&plane));
    let surveyed = surveyed.map_err(|_| ApiFault::new(ErrorCode::Draining, "the server is stopping"))?;
    Ok(Json(told(&surveyed, &plane.status, Parts { revocations, free_bytes, config })))
}

/// What was asked of others, as far as it came in time.
struct Parts {
    revocations: Option<usize>,
    free_bytes: Option<u64>,
    config: ConfigTold,
}

async fn within<T>(part: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(PART_MAX, part).await.ok()
}

async fn revocations(plane: &Plane) -> Option<usize> {
    within(plane.with_revocations(|file| file.all().len())).await?.ok()
}

async fn free_bytes(folder: Option<PathBuf>) -> Option<u64> {
    let folder = folder?;
    let asked = tokio::task::spawn_blocking(move || disk_of(&folder));
    Some(within(asked).await?.ok()?.ok()?.free_bytes)
}

async fn config(plane: &Plane) -> ConfigTold {
    let looked = async {
        let answer = plane.reload.look().map_err(|fault| fault.to_string())?;
        let pending = answer.recv_async().await.map_err(|_| "the server is stopping".to_owned())?;
        pending.map_err(|fault| fault.to_string())
    };
    let looked = within(looked).await.unwrap_or_else(|| Err("it is being reloaded just now".to_owned()));
    let (Changes { takes_effect, needs_restart }, fault) = match looked {
        Ok(changes) => (changes, None),
        Err(fault) => (Changes::default(), Some(fault)),
    };
    let told = |changes: &[crate::config::Change]| changes.iter().map(ChangeTold::from).collect();
    ConfigTold {
        file: plane.status.config_file.as_ref().map(|file| file.display().to_string()),
        log: plane.status.log.texts().now,
        would_take_effect: told(&takes_effect),
        needs_restart: told(&needs_restart),
        fault,
    }
}

fn told(surveyed: &Surveyed, status: &StatusParts, parts: Parts) -> StatusTold {
    let Surveyed { standing, cores, server, .. } = surveyed;
    let Parts { revocations, free_bytes, config } = parts;
    let known = || cores.iter().flatten();
    let sum = |read: fn(&CoreReport) -> u64| known().map(|core| read(core)).sum();
    let cores: Vec<CoreTold> = cores.iter().zip(0..).map(|(report, core)| core_told(core, report.as_deref())).collect();
    let keeper = &server.keeper;
    let log = LogTold {
        durability: status.durability,
        state: log_name(known().filter_map(|core| core.log_state).max_by_key(|state| badness(*state))),
        segments: keeper.segments.load(Ordering::Relaxed),
        bytes: keeper.log_bytes.load(Ordering::Relaxed),
        free_bytes,
        damaged_segments: keeper.scrub_faults.load(Ordering::Relaxed),
        erasures_pending: keeper.erasures_pending.load(Ordering::Relaxed),
    };
    let tokens = status.judge.as_ref().map(|judge| TokensTold {
        keys: judge.keys(),
        jwks: status.jwks.as_ref().map(|jwks| JwksState::from(jwks.told())),
    });
    let cluster = server.cluster.as_ref().map(|cluster| ClusterTold::from(cluster.seen()));
    let troubles = troubles(surveyed, &log, cluster.as_ref(), tokens.as_ref(), &config);
    StatusTold {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("BANTER_COMMIT"),
        state: standing.name(),
        started: server.started_unix_s,
        uptime_seconds: (wall_clock::unix_ms() / 1_000).saturating_sub(server.started_unix_s),
        troubles,
        connections: sum(|core| core.counters.connections),
        rooms: sum(|core| core.counters.rooms),
        subscriptions: sum(|core| core.counters.subscriptions),
        posts: sum(|core| core.counters.posts),
        deliveries: sum(|core| core.counters.deliveries),
        cores,
        log,
        cluster,
        limited: limited(known().map(|core| &**core)),
        tokens,
        revocations,
        config,
    }
}

fn core_told(core: u16, report: Option<&CoreReport>) -> CoreTold {
    let counted = report.map(|report| report.counters).unwrap_or_default();
    CoreTold {
        core,
        answers: report.is_some(),
        connections: counted.connections,
        rooms: counted.rooms,
        subscriptions: counted.subscriptions,
        log: log_name(report.and_then(|report| report.log_state)),
    }
}

fn log_name(state: Option<LogState>) -> &'static str {
    match state {
        None => "none",
        Some(LogState::Open) => "open",
        Some(LogState::Full) => "full",
        Some(LogState::Failed) => "failed",
    }
}

fn badness(state: LogState) -> u8 {
    match state {
        LogState::Open => 0,
        LogState::Full => 1,
        LogState::Failed => 2,
    }
}

fn limited<'a>(cores: impl Iterator<Item = &'a CoreReport>) -> LimitedTold {
    let mut told = LimitedTold::default();
    for core in cores {
        for &limit in Limit::ALL {
            let counts = [&core.counters.limits, &core.shell.limits];
            let place = match limit.scope() {
                Scope::Ip => &mut told.ip,
                Scope::Connection => &mut told.connection,
                Scope::User => &mut told.user,
                Scope::Room => &mut told.room,
                Scope::Server => &mut told.server,
            };
            *place += counts.iter().map(|counts| counts.refused(limit)).sum::<u64>();
            told.only_counted += counts.iter().map(|counts| counts.only_counted(limit)).sum::<u64>();
        }
    }
    told
}

/// What to see to, the worst first.
fn troubles(
    surveyed: &Surveyed,
    log: &LogTold,
    cluster: Option<&ClusterTold>,
    tokens: Option<&TokensTold>,
    config: &ConfigTold,
) -> Vec<String> {
    let mut troubles: Vec<String> = surveyed.unreadiness.iter().filter(|why| *why != STANDBY).cloned().collect();
    troubles.extend(cluster.into_iter().flat_map(ClusterTold::troubles));
    if surveyed.standing == Standing::Serving && log.state == "full" {
        troubles.push("the log's disk is full: posts are refused (log_full)".to_owned());
    }
    if log.damaged_segments > 0 {
        troubles.push(format!("{} files of the log are damaged: banter log check", log.damaged_segments));
    }
    if let Some(jwks) = tokens.and_then(|tokens| tokens.jwks.as_ref())
        && let Some(failure) = &jwks.failure
    {
        troubles.push(format!("no keys came from {} the last time: {failure}", jwks.url));
    }
    if let Some(fault) = &config.fault {
        troubles.push(format!("the configuration cannot be reloaded: {fault}"));
    }
    let dropped = surveyed.server.log_lines.dropped_lines();
    if dropped > 0 {
        troubles.push(format!("{dropped} lines for stderr were lost, since it did not take them in time"));
    }
    troubles
}

impl ClusterTold {
    fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        if !self.broken.is_empty() {
            let which = numbers(&self.broken);
            troubles.push(format!("partitions {which} of the cluster are not served; the server's log says why"));
        }
        let closed = self.partitions.saturating_sub(self.open).saturating_sub(self.broken.len() as u16);
        if self.state == "serves" && closed > 0 {
            troubles.push(format!(
                "{closed} partitions of the cluster are not open yet, and their rooms not served: banter cluster status"
            ));
        }
        if !self.full.is_empty() {
            let which = numbers(&self.full);
            troubles.push(format!(
                "partitions {which} of the cluster are full, and their posts refused: banter cluster status"
            ));
        }
        if !self.doubtful.is_empty() {
            let which = numbers(&self.doubtful);
            troubles.push(format!("the engine does not answer for partitions {which}: banter cluster status"));
        }
        troubles.extend(self.unproved.iter().map(|fault| format!("the engine is not proved: {fault}")));
        troubles
    }
}

fn numbers(numbers: &[u16]) -> String {
    numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

impl From<ClusterSeen> for ClusterTold {
    fn from(seen: ClusterSeen) -> Self {
        let ClusterSeen { cluster: name, node, is_serving, partitions, open, doubtful, full, broken, nodes, unproved } =
            seen;
        let state = if is_serving { "serves" } else { "stands_by" };
        ClusterTold { name, node, state, partitions, open, doubtful, full, broken, nodes, unproved }
    }
}

impl From<JwksTold> for JwksState {
    fn from(JwksTold { url, keys, fetched_unix_s, failure }: JwksTold) -> Self {
        JwksState { url, keys, fetched: fetched_unix_s, failure }
    }
}

#[cfg(test)]
mod tests {
    use tracing_appender::non_blocking::NonBlockingBuilder;

    use super::*;
    use crate::cluster::ClusterView;
    use crate::metrics::ServerState;

    fn surveyed(cores: Vec<Option<Box<CoreReport>>>) -> Surveyed {
        let log_lines = NonBlockingBuilder::default().finish(std::io::sink()).0.error_counter();
        let keeper = Arc::default();
        let feeds = Arc::default();
        let server = ServerState { keeper, feeds, log_lines, started_unix_s: 1_000, jwks_awaited: None, cluster: None };
        Surveyed { standing: Standing::Serving, unreadiness: None, cores, server }
    }

    fn status_of(surveyed: &Surveyed) -> StatusTold {
        let parts = StatusParts {
            config_file: None,
            log_folder: None,
            durability: "synced",
            judge: Some(JudgeSlot::new(crate::control::auth::OwnKeys::default(), None)),
            jwks: None,
            log: LogFilter::idle(),
        };
        let config = ConfigTold {
            file: None,
            log: String::new(),
            would_take_effect: Vec::new(),
            needs_restart: Vec::new(),
            fault: None,
        };
        told(surveyed, &parts, Parts { revocations: Some(2), free_bytes: Some(7), config })
    }

    fn core(connections: u64, log_state: LogState) -> Option<Box<CoreReport>> {
        let mut report = CoreReport { log_state: Some(log_state), ..CoreReport::default() };
        report.counters.connections = connections;
        Some(Box::new(report))
    }

    #[test]
    fn cores_are_added_up_and_the_worst_log_is_the_servers() {
        let told = status_of(&surveyed(vec![core(3, LogState::Open), core(4, LogState::Full)]));
        assert_eq!((told.connections, told.log.state, told.cores[0].log), (7, "full", "open"));
        assert_eq!(told.troubles, ["the log's disk is full: posts are refused (log_full)"]);
        let told = status_of(&surveyed(vec![core(3, LogState::Failed), core(4, LogState::Full)]));
        assert_eq!((told.log.state, told.tokens.unwrap().keys), ("failed", 0));
        assert!(status_of(&surveyed(vec![core(1, LogState::Open)])).troubles.is_empty());
    }

    #[test]
    fn a_core_that_does_not_answer_is_told_and_hides_no_other() {
        let mut surveyed = surveyed(vec![None, core(4, LogState::Open)]);
        surveyed.unreadiness = Some("core 0 does not answer".to_owned());
        let told = status_of(&surveyed);
        assert_eq!((told.connections, told.cores[0].answers, told.cores[1].answers), (4, false, true));
        assert_eq!(told.troubles, ["core 0 does not answer"]);
    }

    #[test]
    fn a_node_that_stands_by_has_no_trouble_and_one_whose_engine_fails_tells_each() {
        let mut surveyed = surveyed(vec![core(4, LogState::Open)]);
        let cluster = ClusterView::new("chat", "n1", 16);
        (surveyed.unreadiness, surveyed.server.cluster) = (Some(STANDBY.to_owned()), Some(cluster.clone()));
        let told = status_of(&surveyed);
        assert_eq!((told.cluster.unwrap().state, told.troubles), ("stands_by", vec![]));
        surveyed.unreadiness = None;
        cluster.say(|seen| {
            (seen.is_serving, seen.doubtful, seen.broken) = (true, vec![2, 5], vec![7]);
            (seen.open, seen.full) = (12, vec![9]);
            seen.unproved = vec!["server s1 does not sync".to_owned()];
        });
        let told = status_of(&surveyed);
        assert_eq!(told.cluster.unwrap().state, "serves");
        let troubles = told.troubles.join("\n");
        for trouble in [
            "partitions 7 of",
            "3 partitions of the cluster are not open yet",
            "partitions 9 of the cluster are full",
            "for partitions 2, 5: banter cluster status",
            "not proved: server s1",
        ] {
            assert!(troubles.contains(trouble), "{trouble}: {troubles}");
        }
    }

    #[test]
    fn refusals_of_every_limit_are_told_by_whose_share_it_was() {
        let mut report = CoreReport::default();
        for &limit in Limit::ALL {
            let counts =
                if limit.scope() == Scope::Ip { &mut report.shell.limits } else { &mut report.counters.limits };
            let _ = counts.refuses(limit, banter_access::limit::DryRun::default());
        }
        let of = |scope| Limit::ALL.iter().filter(|limit| limit.scope() == scope).count() as u64;
        let told = status_of(&surveyed(vec![Some(Box::new(report.clone())), Some(Box::new(report))])).limited;
        assert_eq!((told.ip, told.connection), (2 * of(Scope::Ip), 2 * of(Scope::Connection)));
        assert_eq!((told.room, told.server), (2 * of(Scope::Room), 2 * of(Scope::Server)));
    }
}
