//! History made on purpose: posts to a running server until its data folder has a size.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banter_loadgen::args::{Target, Wire};
use banter_loadgen::fill::{self, Filling};
use banter_loadgen::opening;
use clap::Args as ClapArgs;
use serde::Serialize;

use crate::disk::block;
use crate::disk::doing;

/// How often the folder is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What the disk must have beyond the history: nobody wants a full one.
const FREE_BYTES_SPARE: u64 = 1 << 30;

/// What is posted, and until when.
#[derive(Debug, ClapArgs)]
pub struct Post {
    /// The server's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7878")]
    pub server: SocketAddr,
    /// The server's data folder
    #[arg(long, value_name = "DIR")]
    pub folder: PathBuf,
    /// Size that the folder shall have, in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub mib: u64,
    /// Rooms, all posted to
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rooms: u32,
    /// Bytes of a body
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(18..=60_000))]
    pub payload: u32,
    /// Posts of each room under way
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub outstanding: u64,
    /// Seconds that it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=7_200))]
    pub seconds_max: u64,
    /// Give each post a key
    #[arg(long)]
    pub keyed: bool,
    /// CPU to run on
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,
    /// Print one JSON object instead of a line for people
    #[arg(long)]
    pub json: bool,
}

/// What was posted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Posted {
    /// Posts that were acknowledged.
    pub posts: u64,
    /// Bytes of the folder's files now.
    pub folder_bytes: u64,
    /// Time on the wall.
    pub seconds: f64,
    /// Whether the folder has the size that was asked for.
    pub is_whole: bool,
}

/// Makes it.
///
/// # Errors
/// When the disk has no room for it, or the server refuses.
pub fn make(args: &Post) -> io::Result<Posted> {
    let wanted = args.mib << 20;
    check_free(&args.folder, wanted)?;
    opening::prepare(&target(args), args.rooms as usize).map_err(io::Error::other)?;
    let started = Instant::now();
    let rooms: Vec<String> = (0..args.rooms).map(|room| format!("history-{room}")).collect();
    let (payload_bytes, outstanding) = (args.payload as usize, args.outstanding);
    let filling = Filling { rooms: &rooms, messages: u64::MAX, payload_bytes, outstanding };
    let (mut posts, mut folder_bytes) = (0, bytes_of(&args.folder)?);
    let mut looked_at = started;
    let seconds_max = Duration::from_secs(args.seconds_max);
    let mut goes_on = |acknowledged| {
        posts = acknowledged;
        if looked_at.elapsed() >= LOOK_EVERY {
            looked_at = Instant::now();
            // A file that goes while it is looked at, as a segment made ahead does, is looked at the next time.
            folder_bytes = bytes_of(&args.folder).unwrap_or(folder_bytes);
        }
        folder_bytes < wanted && started.elapsed() < seconds_max
    };
    fill::fill(&target(args), filling, &mut goes_on).map_err(io::Error::other)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Posted { posts, folder_bytes, seconds, is_whole: folder_bytes >= wanted })
}

fn target(args: &Post) -> Target {
    let (room_prefix, keyed) = ("history".into(), args.keyed);
    Target { wire: Wire::Native, cpu: args.cpu, room_prefix, keyed, ..Target::of(args.server) }
}

impl fmt::Display for Posted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Posted { posts, folder_bytes, seconds, is_whole } = self;
        let end = if *is_whole { "" } else { "; that is not what was asked for" };
        write!(out, "{posts} posts in {seconds:.1} s; the folder has {} MiB{end}", folder_bytes >> 20)
    }
}

/// Bytes of a folder's files.
fn bytes_of(folder: &Path) -> io::Result<u64> {
    let sizes = block::files_of(folder)?.into_iter().map(|path| Ok(std::fs::metadata(path)?.len()));
    sizes.sum()
}

pub(super) fn check_free(folder: &Path, wanted: u64) -> io::Result<()> {
    let found = rustix::fs::statvfs(folder).map_err(doing("looking at the disk of", folder))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize).saturating_add(bytes_of(folder)?);
    if free < wanted.saturating_add(FREE_BYTES_SPARE) {
        let (free, wanted) = (free >> 20, wanted >> 20);
        let what = format!("{} has {free} MiB free: too few for {wanted} MiB and 1024 to spare", folder.display());
        return Err(io::Error::other(what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_told_before_anything_is_posted() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), [1; 100]).unwrap();
        assert_eq!(bytes_of(folder.path()).unwrap(), 100);
        assert!(check_free(folder.path(), u64::MAX / 2).unwrap_err().to_string().contains("too few"));
    }
}
