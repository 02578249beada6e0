//! Files read from end to end, cold.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, OFlags};

use super::args::Read;
use super::block::{self, ALIGNMENT_BYTES, Block, Content, Scratch};
use super::doing;
use super::figures::{Rate, ReadReport};

/// Runs it.
///
/// # Errors
/// When a file cannot be read.
pub fn run(args: &Read) -> io::Result<ReadReport> {
    let found = block::files_of(&args.folder)?;
    let scratch =
        if found.is_empty() { Some(Scratch::new(&args.folder, args.file_mib << 20, Content::Noise)?) } else { None };
    let files = scratch.as_ref().map_or(found, |scratch| vec![scratch.path().to_owned()]);
    let cold = read_all(args, &files, false)?;
    let direct = read_all(args, &files, true)?;
    Ok(ReadReport::new(args, files.len(), cold, direct))
}

/// Reads the files one after another, until the time is over. They are forgotten before, which is not timed.
fn read_all(args: &Read, files: &[PathBuf], is_direct: bool) -> io::Result<Rate> {
    for path in files {
        block::forget(path)?;
    }
    let mut block = Block::new(args.block_bytes);
    let started = Instant::now();
    let mut bytes = 0;
    for path in files {
        bytes += read_one(args.seconds, started, path, &mut block, is_direct)?;
    }
    Ok(Rate::new(bytes, started.elapsed()))
}

fn read_one(time: Duration, started: Instant, path: &Path, block: &mut Block, is_direct: bool) -> io::Result<u64> {
    let file = block::open(path, OFlags::RDONLY, is_direct)?;
    rustix::fs::fadvise(&file, 0, None, Advice::Sequential).map_err(doing("advising on", path))?;
    let mut offset = 0;
    while started.elapsed() < time {
        let read = rustix::io::pread(&file, block.bytes_mut(), offset).map_err(doing("reading", path))?;
        offset += read as u64;
        // A part of a page is the end of the file, behind which O_DIRECT takes no offset.
        if read == 0 || read % ALIGNMENT_BYTES != 0 {
            break;
        }
    }
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::super::args::{Args, Question};
    use super::*;
    use clap::Parser;

    fn run_in(folder: &Path) -> ReadReport {
        let words = ["x", "read", "--file-mib", "3", "--folder"].map(Into::into);
        let words = words.into_iter().chain([folder.as_os_str().to_owned()]);
        let Question::Read(args) = Args::parse_from(words).question else { panic!() };
        run(&args).unwrap()
    }

    #[test]
    fn every_byte_of_every_file_is_read_both_ways_and_a_file_is_made_where_there_is_none() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let made = run_in(folder.path());
        assert_eq!((made.files, made.cold.bytes, made.direct.bytes), (1, 3 << 20, 3 << 20));
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("a"), vec![1; 5_000]).unwrap();
        std::fs::write(folder.path().join("below/b"), vec![1; 1 << 20]).unwrap();
        let found = run_in(folder.path());
        assert_eq!((found.files, found.cold.bytes, found.direct.bytes), (2, 1_053_576, 1_053_576));
    }
}
