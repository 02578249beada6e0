//! What bare appends to a cluster's engine take: what a clustered post is measured against.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use banter_cluster::engine::{Answer, Ask, Partition, Ticket};
use banter_engine::{Engine, EngineConfig, Founding, Shape, streams};
use clap::Parser;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Bytes of a stream that is made for this.
const STREAM_BYTES_MAX: u64 = 1 << 30;

/// Appends to one stream of its own, as many in flight as are asked for.
#[derive(Debug, Parser)]
#[command(name = "cluster-appends", version)]
pub struct Args {
    /// The NATS servers
    #[arg(long, value_name = "URL", num_args = 1.., required = true)]
    pub engine: Vec<String>,
    /// The cluster whose streams are made for it; it is not that of a server
    #[arg(long, default_value = "bench")]
    pub cluster: String,
    /// Bytes of an append
    #[arg(long, default_value_t = 65_536)]
    pub bytes: usize,
    /// Appends in flight
    #[arg(long, default_value_t = 1)]
    pub depth: usize,
    /// For so long
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Print the figures as JSON
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Bytes of an append.
    pub bytes: usize,
    /// Appends in flight.
    pub depth: usize,
    /// Appends a second.
    pub appends_per_second: f64,
    /// Megabytes a second.
    pub megabytes_per_second: f64,
    /// The median of an append, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 took no longer, in microseconds.
    pub p99_us: u64,
    /// Appends of which no answer came.
    pub silent: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { bytes, depth, appends_per_second, megabytes_per_second, p50_us, p99_us, silent } = self;
        write!(
            out,
            "{bytes} bytes, {depth} in flight: {appends_per_second:.0} appends/s, {megabytes_per_second:.1} MB/s, p50 {p50_us} µs, p99 \
             {p99_us} µs, {silent} silent"
        )
    }
}

/// Appends for the time that is asked for.
///
/// # Errors
/// The engine is not there, or does not take what is asked.
pub fn run(args: &Args) -> Result<Report, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(append(args))
}

async fn append(args: &Args) -> Result<Report, String> {
    let (to_me, answers) = flume::unbounded();
    let config = EngineConfig::new(args.cluster.clone(), args.engine.clone());
    let engine = Engine::connect(config, to_me).await.map_err(|fault| fault.to_string())?;
    let founding = Founding { cluster_id: 1, partitions: 16, blank_epoch: 1 };
    let shape = Shape { replicas: 3, stream_bytes_max: STREAM_BYTES_MAX, index_bytes_max: STREAM_BYTES_MAX };
    streams::init(engine.connection(), founding, shape, |_| {}).await.map_err(|fault| fault.to_string())?;
    let partition = Partition(0);
    engine.ask(Ask::Tail { partition, ticket: Ticket(0) });
    let Ok(Answer::Tail { tail: Some(tail), .. }) = answers.recv_async().await else {
        return Err("the stream has no leader".to_owned());
    };
    let (mut expected, mut tickets, mut asked) = (tail.last, 0_u64, BTreeMap::new());
    let bytes = bytes::Bytes::from(vec![7; args.bytes]);
    let mut took = Histogram::<u64>::new(3).map_err(|error| error.to_string())?;
    let (began, until, mut silent) = (Instant::now(), Instant::now() + Duration::from_secs(args.seconds), 0);
    while Instant::now() < until || !asked.is_empty() {
        while asked.len() < args.depth.max(1) && Instant::now() < until {
            tickets += 1;
            asked.insert(Ticket(tickets), Instant::now());
            engine.ask(Ask::Append { partition, ticket: Ticket(tickets), expected, bytes: bytes.clone() });
            expected += 1;
        }
        match answers.recv_async().await.map_err(|error| error.to_string())? {
            Answer::Appended { ticket, .. } => {
                if let Some(at) = asked.remove(&ticket) {
                    took.saturating_record(at.elapsed().as_micros() as u64);
                }
            }
            Answer::Full { .. } => return Err("the stream is full: run it for less, or on another cluster".to_owned()),
            Answer::Silent { .. } | Answer::Refused { .. } => {
                silent += 1;
                return Err(format!("{silent} appends had no answer, or another writes to the stream"));
            }
            _ => {}
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let appends_per_second = took.len() as f64 / seconds;
    Ok(Report {
        bytes: args.bytes,
        depth: args.depth,
        appends_per_second,
        megabytes_per_second: appends_per_second * args.bytes as f64 / 1e6,
        p50_us: took.value_at_quantile(0.5),
        p99_us: took.value_at_quantile(0.99),
        silent,
    })
}
