//! The floor: the least CPU that the kernel takes to send one payload to each of many loopback sockets.
//!
//! ```text
//!  sender process, --cpu                          drain process, --drain-cpu
//!  round: one send a socket ──N sockets, TCP────▶ epoll, one read a ready socket, discard
//!  wait until it was read   ◀──control socket──── 8 bytes: rounds read so far
//! ```
//!
//! A server's CPU a delivery is published as a ratio to this figure, measured in the same interleaved run. The sender
//! does nothing that a chat server must do beyond the send: no parsing, no rooms, no choice of whom to send to.
//!
//! Invariants:
//! - Every send of a round has completed, whole, before the next round begins.
//! - With `--rounds-outstanding R` at most R rounds are sent and unread; at 1 (the default) all receivers are idle
//!   when a round begins, as with one outstanding post a room. The drain is one process, so the first send of a round
//!   wakes it and it is still reading at the last: small rounds pay for the wake-up, large ones share it.
//! - The CPU charged is the whole process's, so work that the kernel moved to another of its threads is counted.

pub mod args;
pub mod drain;
pub mod figures;
pub mod sender;
pub mod sys;

use std::io;

/// Adds what we were doing to an error of the host, for `map_err`.
fn doing(what: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}
