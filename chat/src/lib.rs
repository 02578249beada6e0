//! What a core decides, pure: sessions, rooms, history, fan-out. No clock, socket, file, runtime or randomness.
//!
//! Start reading at [`shard`], the table of contents.

#![forbid(unsafe_code)]

pub mod access;
pub mod address;
mod asks;
pub mod audience;
pub mod backend;
mod catching;
pub mod clock;
mod closing;
pub mod commits;
pub mod counters;
pub mod dedupe;
mod draining;
pub mod epochs;
pub mod erasing;
pub mod fanout;
mod guests;
pub mod histogram;
pub mod history;
pub mod homes;
pub mod idle;
mod joining;
pub mod lanes;
pub mod latencies;
pub mod limits;
mod loading;
pub mod local_room;
pub mod logs;
pub mod orders;
pub mod pacing;
pub mod pages;
pub mod parcel;
pub mod people;
pub mod policy;
pub mod post_rates;
pub mod presence;
pub mod program;
pub mod programming;
pub mod programs;
mod proofs;
pub mod proving;
pub mod rates;
mod reconnect;
mod removing;
pub mod room;
pub mod room_program;
pub mod room_state;
mod room_tokens;
pub mod rooms;
pub mod run;
pub mod serving;
pub mod session;
pub mod sessions;
pub mod shard;
pub mod shares;
pub mod table;
pub mod telling;
pub mod timers;
pub mod turn;
pub mod walk;
