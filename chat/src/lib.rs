//! What a core decides, pure: sessions, rooms, history, fan-out. No clock, socket, file, runtime or randomness.
//!
//! Start reading at [`shard`], the table of contents.

#![forbid(unsafe_code)]

pub mod address;
mod asks;
mod catching;
pub mod clock;
pub mod commits;
pub mod counters;
pub mod dedupe;
pub mod fanout;
pub mod history;
pub mod lanes;
pub mod limits;
mod loading;
pub mod local_room;
pub mod pages;
pub mod parcel;
pub mod policy;
pub mod room;
pub mod rooms;
pub mod run;
pub mod session;
pub mod sessions;
pub mod shard;
pub mod table;
pub mod timers;
pub mod turn;
