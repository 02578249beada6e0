//! What a check says: lines for people, and the same as JSON.

use std::fmt;
use std::path::PathBuf;

use banter_log::scan::Ending;
use banter_log::segment::file_name;
use serde::Serialize;

use super::beside::FileReport;
use super::chains::IndexState;
use super::folder::LogFolder;
use super::walk::Walk;

/// A whole log, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct LogReport<'a> {
    pub ok: bool,
    pub folder: PathBuf,
    #[serde(flatten)]
    pub totals: Totals,
    pub segments: Vec<SegmentReport>,
    /// The files beside them that there is something to say of.
    pub files: Vec<FileReport>,
    pub ignored: &'a [String],
}

/// What was found over all segments.
#[derive(Debug, Default, Serialize)]
pub(super) struct Totals {
    #[serde(rename = "segments_count")]
    pub segments: u64,
    pub blocks: u64,
    pub records: u64,
    /// Bytes of headers and blocks.
    pub bytes: u64,
    /// Segments that end with a commit that did not finish.
    pub torn: u64,
    /// Segments in which something is broken.
    pub damaged: u64,
    /// What is broken in them.
    pub damages: u64,
    /// Sequences between others of their rooms.
    pub missing: u64,
    /// Messages that were refused for want of space, and whose places were given again.
    pub refused: u64,
    /// Segments that are missing, and were when a start was told to go on.
    pub given_up: u64,
    /// Files beside the segments that are broken.
    pub files_damaged: u64,
}

impl Totals {
    /// Adds a segment.
    pub(super) fn add(&mut self, walk: &Walk) {
        self.segments += 1;
        self.blocks += walk.blocks;
        self.records += walk.records;
        self.bytes += walk.bytes();
        self.torn += u64::from(matches!(walk.ending, Some(Ending::Torn { .. })));
        self.damaged += u64::from(walk.damages.count > 0);
        self.damages += walk.damages.count;
    }

    /// Whether nothing is broken.
    pub(super) fn is_whole(&self) -> bool {
        self.damages == 0 && self.files_damaged == 0
    }

    fn damage(&self) -> String {
        let segments = || format!("{} in {}", counted(self.damages, "damage"), counted(self.damaged, "segment"));
        let files = || format!("damage in {}", counted(self.files_damaged, "other file"));
        let of_segments = (self.damages > 0).then(segments);
        let said = of_segments.into_iter().chain((self.files_damaged > 0).then(files));
        said.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.missing > 0 {
            let (are, rooms) =
                if self.missing == 1 { ("sequence is", "its room") } else { ("sequences are", "their rooms") };
            writeln!(out, "{} {are} missing between others of {rooms}", self.missing)?;
        }
        if self.refused > 0 {
            let (were, places) = if self.refused == 1 { ("was", "its place") } else { ("were", "their places") };
            let refused = counted(self.refused, "record");
            writeln!(out, "{refused} {were} refused by a full disk, and {places} given again, which is all right")?;
        }
        if self.given_up > 0 {
            let (given_up, are) = (counted(self.given_up, "segment"), if self.given_up == 1 { "is" } else { "are" });
            writeln!(out, "{given_up} {are} missing, and a start went on without, under new epochs")?;
        }
        let [segments, blocks, records] =
            [counted(self.segments, "segment"), counted(self.blocks, "block"), counted(self.records, "record")];
        write!(out, "{segments}, {blocks}, {records}, {} bytes: ", self.bytes)?;
        let torn = if self.torn == 0 { String::new() } else { format!(", {} with a torn tail", self.torn) };
        match self.is_whole() {
            true => writeln!(out, "all right{torn}"),
            false => writeln!(out, "{}, see above{torn}", self.damage()),
        }
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A segment.
#[derive(Debug, Serialize)]
pub(super) struct SegmentReport {
    file: String,
    id: u64,
    /// `None`, as `ending`, where there is no header.
    core: Option<u16>,
    blocks: u64,
    records: u64,
    bytes: u64,
    file_bytes: u64,
    ending: Option<&'static str>,
    /// Whether it has an index, and that checks.
    index: IndexState,
    torn_bytes: u64,
    damage_count: u64,
    /// The first of them.
    damage: Vec<DamageReport>,
    #[serde(skip)]
    path: PathBuf,
}

/// Something that is broken.
#[derive(Debug, Serialize)]
struct DamageReport {
    offset: u64,
    what: String,
    fix: &'static str,
}

impl SegmentReport {
    /// Of that segment of the folder.
    pub(super) fn new(folder: &LogFolder, id: u64, walk: &Walk, index: IndexState) -> Self {
        let (ending, torn_bytes) = match walk.ending {
            None => (None, 0),
            Some(Ending::Clean { .. }) => (Some("clean"), 0),
            Some(Ending::Torn { bytes, .. }) => (Some("torn"), bytes),
            Some(Ending::Corrupt { .. }) => (Some("corrupt"), 0),
        };
        let damage = walk.damages.listed.iter().map(|damage| DamageReport {
            offset: damage.offset,
            what: damage.what.to_string(),
            fix: damage.what.fix(),
        });
        SegmentReport {
            file: file_name(id),
            id,
            core: walk.header.map(|header| header.core),
            blocks: walk.blocks,
            records: walk.records,
            bytes: walk.bytes(),
            file_bytes: walk.file_bytes,
            ending,
            index,
            torn_bytes,
            damage_count: walk.damages.count,
            damage: damage.collect(),
            path: folder.path_of(id),
        }
    }

    fn write_damage(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (index, damage) in self.damage.iter().enumerate() {
            writeln!(out, "  damage: {path}, offset {}: {}", damage.offset, damage.what)?;
            // Damages of one kind in a row have one cure.
            if self.damage.get(index + 1).is_none_or(|next| next.fix != damage.fix) {
                writeln!(out, "    to mend it: {}", damage.fix)?;
            }
        }
        match self.damage_count - self.damage.len() as u64 {
            0 => Ok(()),
            more => writeln!(out, "  and {more} more in this segment"),
        }
    }
}

impl fmt::Display for SegmentReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}  id {}  ", self.file, self.id)?;
        match (self.core, self.ending) {
            (Some(core), Some(ending)) => {
                let (blocks, records, bytes) = (self.blocks, self.records, self.bytes);
                write!(out, "core {core}  blocks {blocks}  records {records}  bytes {bytes}  {ending}")?;
            }
            _ => write!(out, "not read")?,
        }
        if self.torn_bytes > 0 {
            let bytes = self.torn_bytes;
            write!(out, " ({bytes} bytes of a last commit that did not finish, which is all right)")?;
        }
        writeln!(out)?;
        if self.index == IndexState::Damaged {
            writeln!(out, "  its index does not check: the server makes it again")?;
        }
        self.write_damage(out)
    }
}

impl fmt::Display for FileReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileReport { file, is_damaged, what, fix } = self;
        if !is_damaged {
            return writeln!(out, "{}: {what}", file.display());
        }
        writeln!(out, "damage: {}: {what}\n  to mend it: {fix}", file.display())
    }
}
