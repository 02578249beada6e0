//! Runs the Luau program of a room, behind the boundary of [`banter_chat::program`].
//!
//! ```text
//!  text ─Compiled::new (once, control thread)─▶ bytecode, words, config ─LuauEngine::new (each core)─▶ a machine a program
//!  Call ─▶ engine ─▶ vm (unsafe, shim/) ─▶ Luau ─asks─▶ ask ─▶ json, path, words, random, the room's state and effects
//! ```
//!
//! Invariants:
//! - Nothing that a program makes outlives a call: behind its chunk everything that it reaches is frozen.
//! - What a call takes is counted by what it does, and not by a clock, nor by what was called before it: what it made is in no table of
//!   texts behind it. But a table whose keys are tables or functions is walked in the order of their addresses.
//! - A call that is out of its budget ends as a fault, whatever the program does about that.
//!
//! What is not here: which room has which program, what is done with a fault, and when a call is made at all: see `banter-chat`.

#![deny(unsafe_code)]

mod arguments;
mod ask;
mod compile;
mod engine;
mod json;
mod library;
mod path;
mod pattern;
mod random;
mod vm;
mod words;

pub use compile::{CompileFault, Compiled, LOAD_BYTES_MAX, LOAD_UNITS_MAX, Source, TEXT_BYTES_MAX};
pub use engine::{FAULT_BYTES_MAX, LuauEngine};
pub use library::GLOBALS;

/// The definitions of what a program is given, for the Luau language server.
pub fn type_definitions() -> &'static str {
    include_str!("../banter.d.luau")
}
