//! A partition's segment as a folder has it: the same records, in blocks of the folder's id, and a proof behind the last.

use banter_log::PAGE_BYTES;
use banter_log::block::{BlockPlace, BlockWriter};
use banter_log::record::RecordKind;
use banter_log::scan::Scan;

use super::plan::Planned;

/// Bytes of a segment's file at most, as a reader takes it.
const FILE_BYTES_MAX: usize = 1 << 30;

/// A segment's file.
pub(super) struct Rewritten {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Messages in it.
    pub messages: u64,
}

/// Of the bytes of a segment up to where its blocks end; `None`: they do not check.
pub(super) fn of(bytes: &[u8], planned: &Planned) -> Option<Rewritten> {
    let mut header = planned.header;
    let mut place = BlockPlace::first_of(header);
    let (mut file, mut messages) = (vec![0; PAGE_BYTES], 0);
    let mut scan = Scan::new(bytes).ok()?;
    for block in scan.by_ref() {
        let mut writer = BlockWriter::of(&header);
        for record in block.records() {
            let record = record.ok()?;
            messages += u64::from(matches!(record.kind, RecordKind::Message | RecordKind::Viewed));
            writer.push(&record);
        }
        place = append(writer, place, &mut file);
    }
    if scan.place().offset != planned.end_offset {
        return None;
    }
    if file.len() + PAGE_BYTES <= FILE_BYTES_MAX {
        append(BlockWriter::of(&header), place, &mut file);
    }
    header.file_bytes = file.len() as u64;
    file[..PAGE_BYTES].copy_from_slice(&header.write());
    Some(Rewritten { bytes: file, messages })
}

/// Appends a block, ahead of which all are on the disk: the file is synced before anybody is told of it.
fn append(writer: BlockWriter, place: BlockPlace, file: &mut Vec<u8>) -> BlockPlace {
    let (bytes, behind) = writer.finish(&BlockPlace { synced: place.number, ..place });
    file.extend_from_slice(&bytes);
    behind
}

#[cfg(test)]
mod tests {
    use banter_log::record::{Author, Level, Record};
    use banter_log::scan::Ending;
    use banter_log::segment::{Class, SegmentHeader};
    use banter_protocol::event::Message;
    use banter_protocol::ids::{Epoch, RoomId, Sequence};
    use banter_protocol::native::write_message;
    use banter_protocol::request::{Body, BodyFormat};

    use super::*;

    const SOURCE: SegmentHeader = SegmentHeader {
        id: 3,
        nonce: 99,
        core: 0,
        class: Class { hours: 5, bytes: 6 },
        run: 8,
        made_unix_ms: 7,
        file_bytes: 1 << 20,
    };

    fn source() -> (Vec<u8>, Planned) {
        let (mut file, mut place) = (SOURCE.write(), BlockPlace::first_of(SOURCE));
        for sequence in 1..=3 {
            let mut frame = Vec::new();
            let body = Body { format: BodyFormat::Json, bytes: b"1" };
            let (epoch, sequence) = (Epoch(1), Sequence(sequence));
            write_message(
                &Message { epoch, sequence, time_ms: 5, room: "r", user: "u", key: Some("k"), body },
                &mut frame,
            );
            let mut writer = BlockWriter::of(&SOURCE);
            let author = Author { core: 1, slot: 2, generation: 3 };
            let record = Record::message(RoomId::of("r"), Level::Written, author, &frame);
            writer.push(&Record { sent_body_hash: Some(4), ..record });
            place = append(writer, place, &mut file);
        }
        let header = SegmentHeader { id: 40, run: 1_000, ..SOURCE };
        (file, Planned { partition: 0, source: 3, end_offset: place.offset, header })
    }

    fn records(file: &[u8]) -> Vec<Vec<u8>> {
        let write = |record: Record<'_>| {
            let mut bytes = Vec::new();
            record.write(SOURCE.nonce, &mut bytes);
            bytes
        };
        Scan::new(file).unwrap().flat_map(|block| block.records().map(|record| write(record.unwrap()))).collect()
    }

    #[test]
    fn records_stay_as_they_are_and_all_else_is_of_the_folders_id_and_proved() {
        let (file, planned) = source();
        let made = of(&file, &planned).unwrap();
        assert_eq!((records(&made.bytes), made.messages), (records(&file), 3));
        let mut scan = Scan::new(&made.bytes).unwrap();
        assert_eq!(*scan.header(), SegmentHeader { file_bytes: made.bytes.len() as u64, ..planned.header });
        assert_eq!(scan.by_ref().map(|block| block.records).collect::<Vec<_>>(), [1, 1, 1, 0]);
        assert_eq!(scan.ending(), Ending::Clean { offset: made.bytes.len() as u64 });
        let mut damaged = made.bytes;
        damaged[3 * PAGE_BYTES + 100] ^= 1;
        let mut scan = Scan::new(&damaged).unwrap();
        scan.by_ref().for_each(drop);
        assert!(matches!(scan.ending(), Ending::Corrupt { .. }), "its last record is proved too");
    }

    #[test]
    fn what_does_not_check_or_ends_early_is_none() {
        let (file, planned) = source();
        for byte in [100, PAGE_BYTES + 70, 3 * PAGE_BYTES + 70] {
            let mut damaged = file.clone();
            damaged[byte] ^= 1;
            assert!(byte == 100 || of(&damaged, &planned).is_none(), "{byte}");
        }
        assert!(of(&file[..3 * PAGE_BYTES], &planned).is_none());
        assert!(of(&[], &planned).is_none());
    }
}
