//! How the engine is: each server by its own monitoring, and each stream by its leader.

use futures_util::future::join_all;

use crate::connection::Connection;
use crate::monitoring::{self, MonitoringFault, ServerState};
use crate::streams::{self, Description, StreamsFault};

/// How the engine is.
#[derive(Debug)]
pub struct Health {
    /// The monitoring addresses, and what each tells of its server.
    pub servers: Vec<(String, Result<ServerState, MonitoringFault>)>,
    /// The id of the server that we are connected to.
    pub connected_to: String,
    /// The cluster's streams.
    pub streams: Result<Description, StreamsFault>,
}

/// Looks at all of it at once; the slowest of them is waited for, as long as the limits say.
pub async fn look(connection: &Connection, monitoring: &[String]) -> Health {
    let servers = monitoring.iter().map(|url| async move { (url.clone(), monitoring::server(url).await) });
    let (servers, streams) = tokio::join!(join_all(servers), streams::describe(connection));
    Health { servers, connected_to: connection.client.server_info().server_id, streams }
}
