//! What a core decides, pure: sessions, rooms, history, fan-out.
#![forbid(unsafe_code)]
pub mod limits;
