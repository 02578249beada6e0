//! What the bench programs in `src/bin` are made of: one module a question.

pub mod disk;
pub mod floor;
pub mod history;
