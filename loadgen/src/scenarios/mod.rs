//! The scenarios whose figures are a sheet. `storm` and its like are beside a live load, which `watch` serves.

pub mod churn;
pub mod churners;
pub mod fetchers;
pub mod history;
pub mod posting;
pub mod saturate;
pub mod soak;
pub mod stalled;
pub mod storm;
