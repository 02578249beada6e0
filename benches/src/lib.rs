//! What the bench programs in `src/bin` are made of: one module a question.

use std::fmt::Display;
use std::io;

use serde::Serialize;

pub mod api;
pub mod appending;
pub mod disk;
pub mod floor;
pub mod history;
pub mod hooking;
pub mod hot;
pub mod judging;
pub mod posting;
pub mod reading;
pub mod revoking;

/// Prints an answer: a line for people, or one JSON object.
///
/// # Errors
/// When it is none that JSON has.
pub fn print(report: &(impl Display + Serialize), as_json: bool) -> io::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}
