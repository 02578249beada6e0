//! The newest state of a room: from its newest part, which names it, and only where that names none from the parts before.

use banter_protocol::ids::{RoomId, Sequence};
use banter_protocol::native::read_state;

use super::find::{Looked, PartLook, doubtful_index};
use super::{LogFile, READ_BYTES_MIN, Shelf, StateRead, Step};
use crate::index::Part;
use crate::record::{Record, RecordFault, RecordKind};
use crate::state::STATE_BYTES_MAX;

/// What is doubted of an index that has no part of the room: no place in it.
const NO_PART: u64 = u64::MAX;

/// A state being read.
#[derive(Debug)]
pub(super) struct StateReading {
    room: RoomId,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begin,
    Look(PartLook, Behind),
    Record(Place),
}

/// What names the part that is looked at.
#[derive(Clone, Copy, Debug)]
enum Behind {
    /// The catalog: it is the room's newest.
    Catalog,
    /// The part behind it.
    Part,
}

/// Where the record lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    at: u64,
    /// Bytes that are to be read of it.
    bytes: u64,
    /// Where it ends at the latest: nothing behind is read before it was written, or it would be remembered as it was.
    end: u64,
}

impl StateReading {
    pub(super) fn new(room: RoomId) -> Self {
        StateReading { room, stage: Stage::Begin }
    }

    pub(super) fn begin_anew(&mut self) {
        self.stage = Stage::Begin;
    }

    pub(super) fn go(&mut self, shelf: Shelf<'_>) -> Step {
        loop {
            let went = match &mut self.stage {
                Stage::Begin => match shelf.catalog.room(self.room) {
                    Some(room) => {
                        self.stage = Stage::Look(PartLook::new(room.newest_segment), Behind::Catalog);
                        Ok(())
                    }
                    None => return Step::State(None),
                },
                Stage::Look(look, behind) => {
                    let (segment, behind) = (look.segment, *behind);
                    look.go(self.room, shelf).and_then(|looked| self.take_part(segment, looked, behind, shelf))
                }
                Stage::Record(place) => {
                    let place = *place;
                    self.record(place, shelf)
                }
            };
            match went {
                Ok(()) => {}
                Err(step) => {
                    if matches!(step, Step::Doubtful { .. }) {
                        self.begin_anew();
                    }
                    return step;
                }
            }
        }
    }

    fn take_part(&mut self, segment: u64, looked: Looked, behind: Behind, shelf: Shelf<'_>) -> Result<(), Step> {
        let part = match (looked, behind) {
            (Looked::Found(part), _) => part,
            // It is named, and its index has no such part: that is not to say that there is no state.
            (Looked::Gone, _) if shelf.segment(segment).is_some() => return Err(doubtful_index(segment, NO_PART)),
            // It was cut meanwhile, and the room may end in another one by now.
            (Looked::Gone, Behind::Catalog) => {
                self.begin_anew();
                return Ok(());
            }
            // Retention took it.
            (Looked::Gone, Behind::Part) => return Err(Step::State(None)),
        };
        let before = part.chain.before;
        if part.state_offset != 0 {
            self.stage = Stage::Record(self.place_of(segment, &part, shelf));
        } else if before != 0 && before < segment {
            self.stage = Stage::Look(PartLook::new(before), Behind::Part);
        } else {
            return Err(Step::State(None));
        }
        Ok(())
    }

    fn place_of(&self, segment: u64, part: &Part, shelf: Shelf<'_>) -> Place {
        let at = u64::from(part.state_offset);
        let known = shelf.index_of(segment).and_then(|index| index.room(self.room)).map(|room| room.state_end());
        let file_bytes = shelf.segment(segment).map_or(0, |header| header.file_bytes);
        let end = known.unwrap_or(at + STATE_BYTES_MAX as u64).min(file_bytes);
        let bytes = known.map_or(READ_BYTES_MIN, |end| end.saturating_sub(at));
        Place { segment, at, bytes, end }
    }

    fn record(&mut self, place: Place, shelf: Shelf<'_>) -> Result<(), Step> {
        let Place { segment, at, bytes, end } = place;
        let Some(header) = shelf.segment(segment) else {
            self.begin_anew();
            return Ok(());
        };
        if at >= end {
            return Err(doubtful_index(segment, at));
        }
        let chunk = shelf.bytes(segment, LogFile::Segment, at..at.saturating_add(bytes).min(end))?;
        match Record::read(&chunk, header.nonce) {
            Ok(record) if self.is_own(&record) => {
                Err(Step::State(Some(StateRead { frame: record.frame.to_vec(), segment })))
            }
            // Something else is right there: the index says wrong where to look, if it was read at all.
            Ok(_) if shelf.index_of(segment).is_none() => Err(doubtful_index(segment, at)),
            Err(RecordFault::Longer(length)) if length as u64 > bytes && at.saturating_add(length as u64) <= end => {
                self.stage = Stage::Record(Place { bytes: length as u64, ..place });
                Ok(())
            }
            Err(RecordFault::Kind(_)) => Err(Step::Later { segment }),
            Ok(_) | Err(_) => Err(Step::Doubtful { segment, file: LogFile::Segment, at, first: Sequence(0) }),
        }
    }

    fn is_own(&self, record: &Record<'_>) -> bool {
        record.kind == RecordKind::State
            && read_state(record.frame).is_ok_and(|state| RoomId::of(state.room) == self.room)
    }
}
