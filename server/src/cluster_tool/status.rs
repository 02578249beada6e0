//! `banter cluster status`: looks, says what is seen and what is wrong, and may wait until nothing is.

use std::time::{Duration, Instant};

use clap::Args;

use super::look::Looking;
use super::whom::Told;
use super::{ToolFault, findings, say, shown};
use crate::token_tool::parse_seconds;

/// Between two looks.
const AGAIN: Duration = Duration::from_millis(500);

/// How to look, and how to say it.
#[derive(Clone, Debug, Args)]
pub(super) struct StatusLine {
    /// Say it as one JSON object
    #[arg(long)]
    json: bool,
    /// Look again until all is well
    #[arg(long)]
    wait: bool,
    /// How long: 90s, 15m
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "60s", requires = "wait")]
    timeout: u64,
}

/// Whether all is well.
pub(super) async fn run(told: &Told, line: &StatusLine) -> Result<bool, ToolFault> {
    told.needs_monitoring()?;
    // What no clock can say is without an end.
    let until = Instant::now().checked_add(Duration::from_secs(if line.wait { line.timeout } else { 0 }));
    let may_wait = || until.is_none_or(|until| Instant::now() < until);
    let mut waited_for = String::new();
    let looking = loop {
        match Looking::open(told).await {
            Err(fault) if may_wait() => wait(&mut waited_for, &fault.to_string()).await,
            opened => break opened?,
        }
    };
    loop {
        let seen = looking.look().await;
        let findings = findings::of(&seen);
        if let Some(first) = findings.first().filter(|_| may_wait()) {
            wait(&mut waited_for, first).await;
            continue;
        }
        let cluster = &told.engine.cluster;
        say(&if line.json { shown::json(cluster, &seen, &findings) } else { shown::text(cluster, &seen, &findings) })?;
        return Ok(findings.is_empty());
    }
}

/// Says what is waited for, once.
async fn wait(waited_for: &mut String, what: &str) {
    if waited_for != what {
        eprintln!("waiting: {what}");
        what.clone_into(waited_for);
    }
    tokio::time::sleep(AGAIN).await;
}
