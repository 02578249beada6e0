//! The Rust client of Banter: a session without input and output of its own, and a blocking adapter over TCP.
//!
//! ```text
//!  your code ─ join, post ─▶ ┌─────────┐ ─ poll_transmit ─▶ bytes ─▶ ┌──────────────────┐
//!                            │ Session │                             │ adapter: blocking │ ◀─▶ socket, clock
//!  your code ◀─ poll_event ─ └─────────┘ ◀─ handle_bytes ── bytes ── └──────────────────┘
//! ```
//!
//! What the session keeps for you while connections come and go:
//! - a message of a joined room is handed to you once and in order, and a hole is told as [`Event::Gap`];
//! - a post is sent again under the same key until the server acknowledges it, so it is stored once;
//! - reconnecting waits longer each time, at random, and never sooner than the server advised.

#![forbid(unsafe_code)]

mod backoff;
pub mod blocking;
pub mod event;
pub mod options;
mod posts;
mod room;
pub mod session;

pub use banter_protocol::error_code::ErrorCode;
pub use banter_protocol::event::PresenceState;
pub use banter_protocol::ids::{Cursor, Epoch, RoomName, Sequence, UserName};
pub use banter_protocol::request::{Body, BodyFormat, JoinFrom};
pub use blocking::{Client, ClientError};
pub use event::{Event, Message, OwnedBody, Posted, Refused, Why};
pub use options::{Join, Options, WhenLost};
pub use posts::{PostRefusal, Ticket};
pub use session::{Link, Session};
