//! Mounts the disk that fails on command, and takes the commands from standard input, a line each.

use std::path::PathBuf;

use banter_tests::fuse_disk::{Aim, FuseDisk, LogFiles, ReadFault};
use banter_tests::seeded::{Seeded, any_seed};
use clap::Parser;

const COMMANDS: &str = "write-eio | fsync-eio | short-write | read-eio segments|indexes|ledger|epoch [OFFSET] | reads-well \
                        | full-after BYTES | never-full | cut | cut-torn | on | quit";

/// A disk in memory that fails on command; unmounted at the end of standard input.
#[derive(Parser)]
struct Args {
    /// The folder to mount it over
    folder: PathBuf,
}

fn main() {
    let args = Args::parse();
    let disk = FuseDisk::mount(&args.folder, Aim::Files(|_| true)).expect("FUSE is here and may be used");
    println!("mounted on {}; {COMMANDS}", disk.folder().display());
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["write-eio"] => disk.fail_next_write_eio(),
            ["fsync-eio"] => disk.fail_next_fsync_eio(),
            ["short-write"] => disk.short_next_write(),
            ["read-eio", files] => disk.fail_reads(ReadFault::of(files_of(files))),
            ["read-eio", files, offset] if offset.parse::<usize>().is_ok() => {
                disk.fail_reads(ReadFault { offset: offset.parse().ok(), ..ReadFault::of(files_of(files)) });
            }
            ["reads-well"] => disk.mend_reads(),
            ["full-after", bytes] if bytes.parse::<u64>().is_ok() => disk.full_after(bytes.parse().unwrap_or(0)),
            ["never-full"] => disk.never_full(),
            ["cut"] => disk.power_cut(),
            ["cut-torn"] => disk.power_cut_torn(&mut Seeded::new(any_seed())),
            ["on"] => disk.power_on(),
            ["quit"] => return,
            _ => println!("{COMMANDS}"),
        }
    }
}

fn files_of(name: &str) -> LogFiles {
    match name {
        "indexes" => LogFiles::Indexes,
        "ledger" => LogFiles::Ledger,
        "epoch" => LogFiles::Epoch,
        _ => LogFiles::Segments,
    }
}
