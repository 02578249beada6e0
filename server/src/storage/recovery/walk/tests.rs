use banter_log::record::Level;
use banter_log::segment::Class;

use super::*;
use crate::log_tool::made::{Made, Post};
use crate::storage::recovery::hands::Disk;

const HEADER: SegmentHeader =
    SegmentHeader { id: 1, nonce: 99, core: 1, class: Class::SERVER, run: 3, made_unix_ms: 5, file_bytes: 1 };

/// A segment of blocks with so many bytes of text each, none, some, or more than a piece.
fn made(bodies: &[usize]) -> Made {
    let mut made = Made::of(HEADER);
    for (sequence, bytes) in (1..).zip(bodies) {
        let body = format!("\"{}\"", "x".repeat(*bytes));
        made.commit(Level::Synced, &[Post { body: body.as_bytes(), ..Post::at(sequence) }.frame()]);
    }
    made
}

fn walk_bytes(bytes: &[u8]) -> (IndexBuilder, End, usize) {
    let path = tempfile::NamedTempFile::new_in("/dev/shm").or_else(|_| tempfile::NamedTempFile::new()).unwrap();
    std::fs::write(path.path(), bytes).unwrap();
    let mut buffer = Vec::new();
    let file = File::open(path.path()).unwrap();
    let (index, end) = walk(&Disk, &file, walk_of(bytes, Proof::Synced), &mut buffer);
    (index, end, buffer.capacity())
}

fn walk_of(bytes: &[u8], proof: Proof) -> Walk {
    Walk { header: HEADER, file_bytes: bytes.len() as u64, proof }
}

/// A disk that gives what it should not until the kernel has forgotten the file.
struct WrongOnce {
    /// The byte that is another one, or the error that it says.
    wrong: Result<u64, i32>,
    is_forgotten: std::sync::atomic::AtomicBool,
}

impl Hands for WrongOnce {
    fn read(&self, _segment: u64, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(file, bytes, offset)?;
        if self.is_forgotten.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(read);
        }
        let at = self.wrong.map_err(io::Error::from_raw_os_error)?;
        if let Some(byte) = at.checked_sub(offset).and_then(|at| bytes[..read].get_mut(at as usize)) {
            *byte ^= 1;
        }
        Ok(read)
    }

    fn forget(&self, _file: &File) {
        self.is_forgotten.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn what_does_not_check_or_cannot_be_read_is_read_from_the_disk_once_more_before_it_is_judged() {
    let made = made(&[100, 5_000, 10]);
    let bytes = made.file();
    let path = tempfile::NamedTempFile::new_in("/dev/shm").or_else(|_| tempfile::NamedTempFile::new()).unwrap();
    std::fs::write(path.path(), &bytes).unwrap();
    let file = File::open(path.path()).unwrap();
    let at = PAGE_BYTES as u64;
    // The first block, which a later one proves; the last; and bytes behind it.
    for wrong in [Ok(at + 70), Ok(made.end_offset() - at + 70), Ok(made.end_offset() + 9), Err(libc::EIO)] {
        let disk = WrongOnce { wrong, is_forgotten: false.into() };
        let (index, end) = walk(&disk, &file, walk_of(&bytes, Proof::Synced), &mut Vec::new());
        assert_eq!(end, End::Clean { offset: made.end_offset() }, "{wrong:?}");
        assert_eq!(index.parts().map(|part| part.last.0).collect::<Vec<_>>(), [3], "{wrong:?}");
    }
}

/// In pieces it is what it is as a whole.
fn check(bytes: &[u8]) {
    let (index, end, _) = walk_bytes(bytes);
    let (whole, ending) = index_of(bytes).unwrap();
    assert_eq!(index.encode(&HEADER, 7, false), whole.encode(&HEADER, 7, false));
    match (end, ending) {
        (End::Clean { offset }, Ending::Clean { offset: as_whole }) => assert_eq!(offset, as_whole),
        (End::Torn { offset, bytes }, Ending::Torn { offset: at, bytes: as_whole }) => {
            assert_eq!((offset, bytes), (at, as_whole));
        }
        (End::Damaged { offset, what }, Ending::Corrupt { offset: as_whole, later }) => {
            assert_eq!(offset, as_whole);
            assert!(what.contains(&later.to_string()) || what.contains("no message"), "{what}");
        }
        (end, ending) => panic!("{end:?} and {ending:?}"),
    }
}

#[test]
fn a_segment_that_is_walked_in_pieces_is_what_it_is_as_a_whole() {
    let sizes = [100, 5_000, 400_000, 900_000, 10, 1_100_000, 3_000_000, 60_000, 50];
    for bodies in [&sizes[..], &sizes[..3], &[], &[2_000_000]] {
        let made = made(bodies);
        let (file, end) = (made.file(), made.end_offset() as usize);
        check(&file);
        check(&file[..end]);
        let cuts = [end - 1, end - 500, end - PAGE_BYTES, end / 2, end / 3, PAGE_BYTES + 70, PAGE_BYTES];
        cuts.into_iter().filter(|&cut| (PAGE_BYTES..=file.len()).contains(&cut)).for_each(|cut| check(&file[..cut]));
        for at in (PAGE_BYTES..end).step_by(97 * 1_024 + 13) {
            let mut flipped = file.clone();
            flipped[at] ^= 4;
            check(&flipped);
            flipped[at..end].fill(0);
            check(&flipped);
        }
    }
}

#[test]
fn no_more_of_a_segment_is_in_memory_than_a_piece_or_its_longest_block() {
    let mut file = made(&[300_000; 20]).file();
    file.resize(30 << 20, 0);
    let (_, end, held) = walk_bytes(&file);
    assert!(matches!(end, End::Clean { .. }) && held <= 2 * PIECE_BYTES, "{held}");
    file[(20 << 20) + 5] = 1;
    let (_, end, held) = walk_bytes(&file);
    assert!(matches!(end, End::Torn { .. }) && held <= 2 * PIECE_BYTES, "{held}");
}

#[test]
fn a_block_that_holds_no_message_of_this_format_is_damage() {
    let mut made = made(&[10]);
    let good = Post::at(2).frame();
    made.commit(Level::Synced, &[vec![7; good.len()]]);
    let (index, end, _) = walk_bytes(&made.file());
    assert!(matches!(end, End::Damaged { offset, .. } if offset == 2 * PAGE_BYTES as u64), "{end:?}");
    assert_eq!(index.parts().map(|part| part.last.0).collect::<Vec<_>>(), [1]);
}
