//! How Banter moves: a thin shell of glommio and io_uring around the machines of `banter-chat`.
//!
//! ```text
//!  main ─▶ args, config ─▶ host ─▶ runtime ─▶ core/     the data plane, a thread a core: sockets, lanes, turns
//!                                     ├────▶ control/  the control plane: signals, tokens, reloads, questions about the whole server
//!                                     └────▶ storage/  the log's disk (on each core) and its keeper (a thread)
//!           └▶ log_tool/ (checks, lists, writes out or copies a log), token_tool (makes tokens and
//!              looks at them), key_tool, init_tool (make keys, and a folder for a start), ctl_tool (speaks to a running
//!              server), program_tool (checks and tries a program, has a server read it again), cluster_tool (makes a
//!              cluster's streams, and says how a cluster is)
//! ```
//!
//! `unsafe` is in `core/net.rs`, `core/net/buffers.rs` and `host/system.rs`.

pub mod args;
pub mod cluster;
#[cfg(feature = "cluster")]
pub mod cluster_tool;
pub mod config;
pub mod control;
pub mod core;
pub mod ctl_tool;
pub mod host;
pub mod init_tool;
pub mod key_tool;
pub mod listening;
pub mod log_lines;
pub mod log_tool;
pub mod metrics;
pub mod program_tool;
pub mod programs;
pub mod runtime;
pub mod storage;
pub mod token_tool;
pub mod wall_clock;
