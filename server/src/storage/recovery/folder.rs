//! What lies in the log's folder: the segments by their ids, and what each shows by its header and its index's table.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use banter_log::PAGE_BYTES;
use banter_log::checkpoint::Covered;
use banter_log::index::{HEADER_BYTES as INDEX_HEADER_BYTES, IndexHeader, Part};
use banter_log::segment::{SegmentFault, SegmentHeader, file_name, id_of_file};

use super::hands::Hands;
use super::sealing::Unsealed;
use super::{KnownSegment, RecoveryFault, disk};
use crate::storage::files::DRAFT_SUFFIX;
use crate::storage::index_path;
use crate::storage::indexes::read_parts;
use crate::storage::slots::{READ_PAUSE, READS_MAX};

/// What a file named like a segment turns out to be.
pub(super) enum Inspected {
    /// One with an index, and the largest number in both.
    Sealed(KnownSegment, u64),
    /// One without.
    Unsealed(Unsealed),
    /// One that is shorter than its index says, or, without one, than it was made.
    Shorter(Unsealed),
    /// None.
    NoSegment(SegmentFault),
    /// Its header cannot be read.
    Unreadable(io::Error),
}

/// Makes the log's folder, and has the folders above it remember it: without that a power cut in the first run takes all.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for above in folder.ancestors().skip(1).take(2) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match File::open(above).and_then(|above| above.sync_all()) {
            // The folder around the data folder may be another user's; what could be known of it is.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The segments by id. Files that were not finished go.
pub(super) fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, RecoveryFault> {
    let mut segments = Vec::new();
    let fault = || disk("listing", folder);
    for entry in fs::read_dir(folder).map_err(fault())? {
        let path = entry.map_err(fault())?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        match id_of_file(name) {
            // A number has more than one way to be written, and only one is the name of its file.
            Some(id) if file_name(id) == name => segments.push((id, path)),
            Some(_) => tracing::warn!("{} is named much like a segment, and is left alone", path.display()),
            None if name.ends_with(DRAFT_SUFFIX) => {
                fs::remove_file(&path).map_err(disk("removing the draft", &path))?
            }
            None => {}
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Looks at a file that is named like a segment.
pub(super) fn inspect(
    folder: &Path,
    (id, path): &(u64, PathBuf),
    hands: &dyn Hands,
) -> Result<Inspected, RecoveryFault> {
    // Asked before it is opened: to open a pipe is to wait for its other end.
    if !fs::metadata(path).map_err(disk("opening", path))?.is_file() {
        return Err(RecoveryFault::NoFile { path: path.clone() });
    }
    let file = File::open(path).map_err(disk("opening", path))?;
    let file_bytes = file.metadata().map_err(disk("reading", path))?.len();
    let header = match read_header(hands, *id, &file) {
        Ok(Ok(header)) if header.id == *id => header,
        Ok(Ok(_)) => return Ok(Inspected::NoSegment(SegmentFault::Sum)),
        Ok(Err(fault)) => return Ok(Inspected::NoSegment(fault)),
        Err(error) => return Ok(Inspected::Unreadable(error)),
    };
    let unsealed = Unsealed { header, path: path.clone(), file_bytes, is_damaged: false };
    Ok(match read_parts(folder, &header) {
        // What lies behind the blocks of a sealed one is nobody's loss.
        Some((IndexHeader { end_offset, newest_ms, parts, is_chained }, all)) if end_offset <= file_bytes => {
            let known = KnownSegment { header, file_bytes, end_offset, newest_ms, parts, is_chained };
            Inspected::Sealed(known, largest_of(&header, all.iter()))
        }
        None if file_bytes >= header.file_bytes => Inspected::Unsealed(unsealed),
        _ => Inspected::Shorter(Unsealed { is_damaged: true, ..unsealed }),
    })
}

/// Looks at a segment that a checkpoint covers, and reads no more of it than shows that it is as it was; `None`: it is not.
pub(super) fn look(
    folder: &Path,
    (id, path): &(u64, PathBuf),
    covered: &Covered,
    hands: &dyn Hands,
) -> Option<KnownSegment> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let file = File::open(path).ok()?;
    let header = read_header(hands, *id, &file).ok()?.ok()?;
    let index = File::open(index_path(folder, *id)).ok()?;
    let mut bytes = [0; INDEX_HEADER_BYTES];
    index.read_exact_at(&mut bytes, 0).ok()?;
    let IndexHeader { end_offset, newest_ms, parts, is_chained } = IndexHeader::read(&bytes, &header)?;
    let file_bytes = file.metadata().ok()?.len();
    let is_as_it_was = (header.id, header.nonce, end_offset) == (*id, covered.nonce, covered.end_offset);
    let known = KnownSegment { header, file_bytes, end_offset, newest_ms, parts, is_chained };
    (is_as_it_was && is_chained && end_offset <= file_bytes && file_bytes >= header.file_bytes).then_some(known)
}

fn read_header(hands: &dyn Hands, id: u64, file: &File) -> io::Result<Result<SegmentHeader, SegmentFault>> {
    let mut page = vec![0; PAGE_BYTES];
    let (mut read, mut tries_left) = (0, READS_MAX);
    while read < PAGE_BYTES {
        match hands.read(id, file, &mut page[read..], read as u64) {
            Ok(0) => return Ok(Err(SegmentFault::Short)),
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What is given up for it is a whole file.
            Err(error) => {
                tries_left -= 1;
                if tries_left == 0 {
                    return Err(error);
                }
                std::thread::sleep(READ_PAUSE);
            }
        }
    }
    Ok(SegmentHeader::read(&page))
}

/// The largest number that the segments show, as far as they can be read: for a start that makes no use of them.
pub(super) fn largest_number(folder: &Path, hands: &dyn Hands) -> u64 {
    let Ok(segments) = list(folder) else { return 0 };
    let numbers = segments.iter().filter_map(|segment| match inspect(folder, segment, hands).ok()? {
        Inspected::Sealed(_, largest) => Some(largest),
        Inspected::Unsealed(unsealed) | Inspected::Shorter(unsealed) => Some(unsealed.header.run),
        Inspected::NoSegment(_) | Inspected::Unreadable(_) => None,
    });
    numbers.max().unwrap_or(0)
}

/// The largest number in a segment's header and parts.
pub(super) fn largest_of<'p>(header: &SegmentHeader, parts: impl Iterator<Item = &'p Part>) -> u64 {
    parts.map(|part| part.epoch.0).max().unwrap_or(0).max(header.run)
}
