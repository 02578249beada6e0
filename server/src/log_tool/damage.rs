//! What can be broken in a log, and what to do about it.

use std::io;

use banter_log::record::RecordFault;
use banter_log::segment::SegmentFault;
use banter_protocol::fault::PeerFault;

/// Damages of one segment that are listed; beyond them they are counted.
const LISTED_MAX: usize = 16;

/// Something that is broken.
#[derive(Debug)]
pub(super) struct Damage {
    /// Where in the file.
    pub offset: u64,
    /// What.
    pub what: Broken,
}

/// What is broken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    #[error("it is named like a segment, and is no file")]
    NoFile,
    #[error("it has {bytes} bytes, and a segment has at most {bytes_max}")]
    TooLarge { bytes: u64, bytes_max: u64 },
    #[error("{0}")]
    Header(SegmentFault),
    #[error("its header says that it is segment {header}, and its name that it is {name}: it was renamed or copied")]
    Name { header: u64, name: u64 },
    #[error("it has {file_bytes} bytes, and was made with {made_bytes}: its end is gone")]
    CutShort { file_bytes: u64, made_bytes: u64 },
    #[error("the block here does not check, and a later one that does lies at offset {later}")]
    Block { later: u64 },
    #[error(
        "its index says that its blocks end at {said}, and they end here: messages that were acknowledged are gone"
    )]
    IndexEnd { said: u64 },
    #[error(
        "{rooms} of its rooms had messages in segment {missing}, which is not there, though older ones of its class are"
    )]
    Missing { missing: u64, rooms: u64 },
    #[error(
        "messages of {rooms} rooms are missing between segment {behind} and this one (of one of them {from} to {to})"
    )]
    Hole { behind: u64, rooms: u64, from: u64, to: u64 },
    #[error("{0}")]
    Record(#[from] RecordFault),
    #[error("the block here says that it has {said} records, and has {found}")]
    Count { said: u32, found: u32 },
    #[error("the message here does not check: {0}")]
    Message(PeerFault),
    #[error("room {room:?}, epoch {epoch}: sequence {sequence} comes behind {before}, which was acknowledged")]
    Order { room: Box<str>, epoch: u64, before: u64, sequence: u64 },
}

impl Broken {
    /// How to mend it.
    pub(super) fn fix(&self) -> &'static str {
        match self {
            Broken::Read(_) => {
                "see whether the disk is well (`dmesg`, `smartctl -a`), and go on with a copy of the folder"
            }
            Broken::Header(SegmentFault::Version(_)) => "read this folder with the Banter that wrote it",
            Broken::Missing { .. } | Broken::Hole { .. } => {
                "bring back the segment that is missing, from a backup; without it what these rooms have before it is out of \
                 reach, and a start may have to be told --accept-corruption"
            }
            Broken::NoFile | Broken::TooLarge { .. } | Broken::Header(_) | Broken::Name { .. } => {
                "if the server did not make this file, move it out of the folder; if it did, bring back a copy of it, or \
                 keep a copy of the folder and start the server once with --accept-corruption"
            }
            _ => {
                "bring back a copy of this file; or keep a copy of the folder and start the server once with \
                 --accept-corruption: it says what it drops, and new epochs begin"
            }
        }
    }
}

/// The damages of a segment, of which the first are listed.
#[derive(Debug, Default)]
pub(super) struct Damages {
    /// The first, in the order in which they were found.
    pub listed: Vec<Damage>,
    /// All of them.
    pub count: u64,
}

impl Damages {
    /// Adds one.
    pub(super) fn push(&mut self, offset: u64, what: Broken) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(Damage { offset, what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_damage_than_is_listed_is_counted() {
        let mut damages = Damages::default();
        (0..100).for_each(|offset| damages.push(offset, Broken::NoFile));
        assert_eq!((damages.listed.len(), damages.count), (LISTED_MAX, 100));
        assert_eq!(damages.listed[LISTED_MAX - 1].offset, 15);
    }

    #[test]
    fn a_foreign_file_is_moved_away_and_a_damaged_one_is_not() {
        assert!(Broken::Header(SegmentFault::Magic).fix().contains("move it out of the folder"));
        assert!(!Broken::Block { later: 1 }.fix().contains("move it"));
        assert!(!Broken::Header(SegmentFault::Version(2)).fix().contains("--accept-corruption"));
    }
}
