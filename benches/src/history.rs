//! History made on purpose: posted to a running server, or written as the files that a server would have left.

use std::io;

use clap::{Parser, Subcommand};

pub mod post;
pub mod shape;
pub mod write;

/// Makes history for the jobs that start on one.
#[derive(Debug, Parser)]
#[command(name = "make-history", version)]
pub struct Args {
    /// How it is made.
    #[command(subcommand)]
    pub way: Way,
}

/// How it is made.
#[derive(Debug, Subcommand)]
pub enum Way {
    /// Posts to a running server until its data folder has a size; for speed start that one with --durability written
    Post(post::Post),
    /// Writes a new data folder without a server, as one that ended in order leaves it: far more rooms in far less time
    Write(shape::Shape),
}

/// Makes it, prints what was made, and says whether that is what was asked for.
///
/// # Errors
/// When the disk has no room for it or fails, or the server refuses.
pub fn run(args: &Args) -> io::Result<bool> {
    match &args.way {
        Way::Post(args) => {
            let posted = post::make(args)?;
            crate::print(&posted, args.json)?;
            Ok(posted.is_whole)
        }
        Way::Write(shape) => {
            let written = write::make(shape)?;
            crate::print(&written, shape.json)?;
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests;
