//! A cluster in memory: nodes with their journals, and an engine, by seed.

pub mod chance;
pub mod engine;
