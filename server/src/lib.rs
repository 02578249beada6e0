//! How Banter moves: a thin shell of glommio and io_uring around the machines of `banter-chat`.
//!
//! ```text
//!  main ─▶ args, config ─▶ host ─▶ runtime ─▶ a thread a core: pump ─▶ net (sockets), connections (bytes ↔ shard)
//!                                     ├────▶ control (signals, metrics, stop)        ├▶ mesh (lanes)
//!                                     └────▶ storage (the log's keeper)              └▶ storage (the log's disk)
//!           └▶ log_tool (checks, lists, writes out or copies a log)
//! ```
//!
//! `unsafe` is in `net.rs`, `net/buffers.rs` and `host/system.rs`.

pub mod args;
pub mod auth;
pub mod config;
pub mod connections;
pub mod control;
pub mod doorway;
pub mod host;
pub mod http;
pub mod log_tool;
pub mod mesh;
pub mod metrics;
pub mod net;
pub mod pump;
pub mod runtime;
pub mod storage;
pub mod suspended;
pub mod token_tool;
pub mod turn_clock;
pub mod wall_clock;
