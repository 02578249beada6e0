//! Several machines: the rooms are shared out to partitions, each partition is a stream of an engine that keeps every message on a
//! majority's disks, and each partition has one owner at a time.
//!
//! No engine, socket, file, clock or runtime in here: asks and answers are values.

#![forbid(unsafe_code)]

pub mod appends;
pub mod cache;
pub mod checkpoint;
pub mod engine;
pub mod entry;
pub mod fetch;
pub mod keeping;
pub mod loading;
pub mod looking;
pub mod members;
pub mod node;
pub mod object;
pub mod partition;
pub mod store;
pub mod terms;
