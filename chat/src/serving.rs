//! Whether this machine of a cluster serves: while it does not, everybody is sent to others, those who are there and those who come.
//!
//! Invariants:
//! - Who is sent away is told which nodes there are, then `unavailable`, and is closed with 1013. Nothing that was asked is done.
//! - Those who are there go in slices, and whoever asks something goes at once.
//! - A server of its own always serves, and tells of no nodes.

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::{Event, NODE_BYTES_MAX, NODES_MAX};
use banter_protocol::ids::RequestId;

use crate::parcel::Refusal;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Connections that one turn sends away: each leaves its rooms with that, which takes some 15 µs.
const SENT_AWAY_A_TURN: usize = 64;
/// Places of the table that one turn looks at for them.
const PLACES_A_TURN: usize = 1_024;
/// WebSocket close code: try again later.
const CLOSE_CODE: u16 = 1_013;
/// When to try the same machine again, in milliseconds.
const RETRY_AFTER_MS: u64 = 1_000;

/// Whether a machine serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It does.
    Yes,
    /// Others do.
    No {
        /// The addresses of such, as clients reach them. More than [`NODES_MAX`], and longer ones than [`NODE_BYTES_MAX`], are not
        /// told.
        nodes: Vec<String>,
    },
}

/// What connections are told of this machine and others.
#[derive(Debug, Default)]
pub(crate) struct Service {
    /// Nodes that those are told of who come in.
    nodes: String,
    /// Nodes that those are told of who are sent away; none: nobody is.
    elsewhere: Option<String>,
    /// Connections from here on are still to be sent away.
    unsent_from: Option<usize>,
}

impl Service {
    /// Whether connections are still to be sent away.
    pub(crate) fn is_busy(&self) -> bool {
        self.unsent_from.is_some()
    }
}

impl Sessions {
    /// This machine serves from here on, or does not.
    pub(crate) fn set_serving(&mut self, serving: Serving) {
        (self.service.elsewhere, self.service.unsent_from) = match serving {
            Serving::Yes => (None, None),
            Serving::No { nodes } => (Some(lines_of(&nodes)), Some(0)),
        };
    }

    /// Who comes in is told of these nodes.
    pub(crate) fn set_nodes(&mut self, nodes: &[String]) {
        self.service.nodes = lines_of(nodes);
    }

    /// Behind `welcome`: which nodes there are.
    pub(crate) fn tell_nodes(&mut self, slot: usize) {
        if !self.service.nodes.is_empty() {
            self.connections[slot].write(&Event::Nodes { nodes: &self.service.nodes });
        }
    }

    /// Whether a connection that asks something is sent away instead; then it was.
    pub(crate) fn is_sent_away(&mut self, slot: usize, request: RequestId, turn: &mut Turn<'_>) -> bool {
        let Some(nodes) = &self.service.elsewhere else { return false };
        if !self.connections[slot].is_open() {
            return true;
        }
        if !nodes.is_empty() {
            self.connections[slot].write(&Event::Nodes { nodes });
        }
        self.refuse(slot, request, &elsewhere(), turn);
        self.close(self.id_of(slot), None, CLOSE_CODE, ErrorCode::Unavailable.as_str(), turn);
        true
    }

    /// Sends some of those away who are there.
    pub(crate) fn send_away_some(&mut self, turn: &mut Turn<'_>) {
        let Some(from) = self.service.unsent_from.take() else { return };
        let end = self.connections.len().min(from + PLACES_A_TURN);
        let mut sent = 0;
        for slot in from..end {
            turn.counters.steps += 1;
            if sent == SENT_AWAY_A_TURN {
                self.service.unsent_from = Some(slot);
                return;
            }
            if self.connections[slot].is_open() {
                self.is_sent_away(slot, None, turn);
                sent += 1;
            }
        }
        self.service.unsent_from = (end < self.connections.len()).then_some(end);
    }
}

fn elsewhere() -> Refusal {
    Refusal {
        code: ErrorCode::Unavailable,
        message: "this node of the cluster does not serve now: come to another one".into(),
        retry_after_ms: Some(RETRY_AFTER_MS),
        scope: None,
        reason: None,
    }
}

/// Addresses as an event has them: as many as may be, each ended by a line feed.
fn lines_of(nodes: &[String]) -> String {
    // A line feed in one would make two of it.
    let is_one_line = |node: &&String| !node.is_empty() && !node.chars().any(char::is_control);
    let told = nodes.iter().filter(is_one_line).filter(|node| node.len() <= NODE_BYTES_MAX).take(NODES_MAX);
    told.flat_map(|node| [node.as_str(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_nodes_are_told_as_may_be_and_none_that_is_two() {
        let nodes: Vec<String> = (0..20).map(|number| format!("10.0.0.{number}:7001")).collect();
        assert_eq!(lines_of(&nodes).lines().count(), NODES_MAX);
        let bad = ["", "a\nb", &"x".repeat(NODE_BYTES_MAX + 1), "c"].map(String::from);
        assert_eq!(lines_of(&bad), "c\n");
        assert_eq!(lines_of(&[]), "");
    }
}
