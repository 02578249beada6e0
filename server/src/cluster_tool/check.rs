//! `banter cluster check`: the gate, as a node meets it when it starts.

use banter_engine::{Connection, gate};
use serde_json::json;

use super::whom::Told;
use super::{ToolFault, say};

/// Says what keeps the engine from being proved, a line each; whether it is proved.
pub(super) async fn run(told: &Told, is_json: bool) -> Result<bool, ToolFault> {
    told.needs_monitoring()?;
    let connection = Connection::open(&told.engine).await?;
    let (health, faults) = gate::prove(&connection, &told.monitoring, told.append_bytes_max).await;
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let is_proved = faults.is_empty();
    if is_json {
        say(&format!("{}\n", json!({ "proved": is_proved, "faults": faults })))?;
    } else if is_proved {
        let streams = health.streams.map_or(0, |description| description.partitions.len() + 1);
        let servers = health.servers.len();
        say(&format!(
            "proved: {servers} servers sync each message before they acknowledge it, and keep 3 or more copies of {streams} streams\n"
        ))?;
    } else {
        say(&faults.iter().map(|fault| format!("- {fault}\n")).collect::<String>())?;
    }
    Ok(is_proved)
}
