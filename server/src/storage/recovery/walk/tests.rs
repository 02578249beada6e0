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
    let (index, end) = walk(&Disk, &file, (HEADER, bytes.len() as u64), &mut buffer);
    (index, end, buffer.capacity())
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
