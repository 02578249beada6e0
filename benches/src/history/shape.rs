//! The shape of a history that is written: which rooms lie in which segments, and with how much.

use std::ops::Range;
use std::path::PathBuf;

use banter_log::PAGE_BYTES;
use clap::Args as ClapArgs;

/// The bytes that a segment has beside its blocks of messages: its header, and the proof at its end.
pub const SEGMENT_BYTES_BESIDE: u64 = 2 * PAGE_BYTES as u64;

/// The shape. Rooms are divided over the segments, so that each room lies in one, unless --every is given.
#[derive(Clone, Debug, ClapArgs)]
pub struct Shape {
    /// The data folder, which must not be there yet
    #[arg(long, value_name = "DIR")]
    pub folder: PathBuf,
    /// Rooms in all
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rooms: u32,
    /// Segments
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub segments: u32,
    /// Every room has a part in every segment
    #[arg(long)]
    pub every: bool,
    /// Messages of a room in each segment that holds it [default: as many as the segment has room for, with
    /// --segment-mib, and else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Length of a segment [default: as long as what is in it]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=4_095))]
    pub segment_mib: Option<u64>,
    /// Bytes of a body
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=60_000))]
    pub payload: u32,
    /// Messages that share a commit, and so a block
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub commit: u32,
    /// Give each post a key
    #[arg(long)]
    pub keyed: bool,
    /// Users who post, in turn
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub users: u32,
    /// Write no index, as after a restore from a copy: the next start reads every segment through
    #[arg(long)]
    pub unsealed: bool,
    /// Print one JSON object instead of a line for people
    #[arg(long)]
    pub json: bool,
}

impl Shape {
    /// The rooms of a segment, by number; segments are counted from 0.
    pub fn rooms_of(&self, segment: u32) -> Range<u32> {
        let behind = |segments: u32| (u64::from(self.rooms) * u64::from(segments) / u64::from(self.segments)) as u32;
        if self.every { 0..self.rooms } else { behind(segment)..behind(segment + 1) }
    }

    /// Messages of a room in a segment at most.
    pub fn messages_max(&self) -> u64 {
        let as_many_as_fit = if self.segment_mib.is_some() { u64::MAX } else { 1 };
        self.messages.unwrap_or(as_many_as_fit)
    }

    /// Bytes of a segment's file; `None`: as long as what is in it.
    pub fn segment_bytes(&self) -> Option<u64> {
        self.segment_mib.map(|mib| mib << 20)
    }

    /// Bytes that are to be free for it, roughly.
    pub fn bytes(&self) -> u64 {
        // A frame's fields, a record's prefix, and a key with its share of the index.
        const MESSAGE_BYTES_BESIDE: u64 = 200;
        let parts = if self.every { u64::from(self.rooms) * u64::from(self.segments) } else { self.rooms.into() };
        let message_bytes = u64::from(self.payload) + MESSAGE_BYTES_BESIDE;
        let messages = self.messages.unwrap_or(1).saturating_mul(parts).saturating_mul(message_bytes);
        let files = self.segment_bytes().unwrap_or(SEGMENT_BYTES_BESIDE).saturating_mul(self.segments.into());
        // A commit takes whole pages.
        let blocks = messages / message_bytes / u64::from(self.commit) * PAGE_BYTES as u64;
        files.max(messages.saturating_add(blocks)).saturating_add(parts * MESSAGE_BYTES_BESIDE)
    }
}
