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
//! - a post is sent again under the same key until the server acknowledges it, so it is stored once, and its room gets at
//!   most `posts_in_flight_max` of them at a time, so that a link that breaks has little to carry again;
//! - a post that the server's log could not take is kept and tried again, and you are told once ([`Event::Postponed`]);
//! - your own message is known by its key: [`Session::key_of`] its ticket, [`Message::key`], [`Posted::key`];
//! - what only a later server says is passed over, and a code that is unknown refuses one request and nothing else;
//! - a token that is given with [`Session::renew`] holds for this connection and the next ones; [`Event::Expiring`] says
//!   when it is time, and [`Event::Removed`] which rooms it does not let you read any more;
//! - reconnecting waits longer each time, at random, and never sooner than the server advised.
//!
//! **In a cluster** one node serves and others stand by. Give the session some of their addresses ([`Options::addresses`]); it
//! goes on with the next where one is gone, stands by ([`ErrorCode::Unavailable`]) or sends it away, first with those that the
//! cluster itself told of ([`Session::nodes`]), and finds a new owner about a second after it serves. Nothing else changes: rooms
//! go on behind their cursors, each with one [`Event::Joined`] a connection as after any cut. What nobody can answer while a
//! room has no owner is asked again in its time and not told: joins, pages, members, and posts. Every post of a session has a
//! key, so one whose outcome was unknown is stored once. Who speaks the protocol by hand and posts without a key is told
//! `unavailable`, and has to look into the history. A token goes to those addresses alone that you gave, and to those told by
//! a server that has the token.
//!
//! What it does not keep: an ask for a page or for members ([`Session::fetch`], [`Session::members`]) goes out on this connection
//! or not at all, and is told as [`Event::Unanswered`] when the connection is lost before its answer; [`Client::fetch`] and
//! [`Client::members`] ask again in their time.

#![forbid(unsafe_code)]

mod addresses;
mod asks;
mod backoff;
pub mod blocking;
pub mod event;
pub mod options;
mod posts;
mod room;
pub mod session;

pub use asks::{AskId, AskRefusal};
pub use banter_protocol::error_code::ErrorCode;
pub use banter_protocol::event::PresenceState;
pub use banter_protocol::ids::{Cursor, Epoch, FeatureName, RoomName, Sequence, UserName};
pub use banter_protocol::request::{Body, BodyFormat, FetchFrom, JoinFrom};
pub use blocking::{Client, ClientError};
pub use event::{Event, Members, Message, OwnedBody, Page, Posted, Refused, Why};
pub use options::{Join, Options, WhenLost};
pub use posts::{PostRefusal, Ticket};
pub use session::{Link, Session};
