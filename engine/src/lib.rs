//! Speaks to the engine of a cluster.

#![forbid(unsafe_code)]
