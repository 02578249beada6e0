//! Gives the streams of a cluster more room, where they turn out too small.
//!
//! Of a stream's configuration its size alone is changed: whatever else an operator chose of it stays.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::connection::{ApiFault, Connection};
use crate::stream_config::Shape;
use crate::streams::{Description, Progress, StreamState, StreamsFault, refused};

/// A stream, with all that JetStream says of how it is configured.
#[derive(Deserialize)]
struct Whole {
    config: Map<String, Value>,
}

/// Gives each stream that is smaller that size, and tells of each; none is ever made smaller. It may be broken off and asked again.
///
/// # Errors
/// A stream is missing, the servers have no room, or JetStream does not do it.
pub async fn grow(
    connection: &Connection,
    description: &Description,
    shape: Shape,
    mut on_progress: impl FnMut(Progress),
) -> Result<(), StreamsFault> {
    let streams = description.partitions.len() + 1;
    let index = std::iter::once((Some(&description.index), shape.index_bytes_max));
    let partitions = description.partitions.iter().map(|stream| (stream.as_ref(), shape.stream_bytes_max));
    for (number, (stream, bytes_max)) in index.chain(partitions).enumerate() {
        // One that nobody tells of is made by `init`, or has no leader just now.
        let Some(stream) = stream else { continue };
        let is_new = bytes_max_of(stream) < bytes_max;
        if is_new {
            grow_one(connection, &stream.config.name, bytes_max).await?;
        }
        on_progress(Progress { stream: stream.config.name.clone(), is_new, ready: number + 1, streams });
    }
    Ok(())
}

/// What a stream may hold.
fn bytes_max_of(stream: &StreamState) -> u64 {
    // Below 0 it is without a limit.
    u64::try_from(stream.config.max_bytes).unwrap_or(u64::MAX)
}

async fn grow_one(connection: &Connection, stream: &str, bytes_max: u64) -> Result<(), StreamsFault> {
    let fault = |fault| refused(format!("giving stream {stream} {bytes_max} bytes"), stream, fault);
    let Whole { mut config } = connection.api(&format!("STREAM.INFO.{stream}"), Bytes::new()).await.map_err(fault)?;
    config.insert("max_bytes".to_owned(), bytes_max.into());
    let body = serde_json::to_vec(&config).map_err(|error| fault(ApiFault::Unread(error.to_string())))?;
    let changed: Whole = connection.api(&format!("STREAM.UPDATE.{stream}"), body.into()).await.map_err(fault)?;
    match changed.config.get("max_bytes").and_then(Value::as_u64) {
        Some(found) if found == bytes_max => Ok(()),
        found => Err(fault(ApiFault::Unread(format!("max_bytes is {found:?} and should be {bytes_max}")))),
    }
}
