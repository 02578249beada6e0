//! What reading a page costs: how many bytes it may take, and what marks and a part say of those that lie ahead.

use super::super::READ_BYTES_FREE;
use super::super::find::Place;
use crate::index::Mark;
use crate::index::marks::{MARK_STRIDE_BYTES, MarkPiece};

/// Bytes that may be read for a page that holds so many.
pub(super) fn allowed_bytes(bytes: u64) -> u64 {
    READ_BYTES_FREE.saturating_add(bytes.saturating_mul(4))
}

/// Whether what lies between a record and the next mark is read rather than leapt over: there is more than one of the room.
pub(super) fn is_near((sequence, offset): (u64, u64), next: &Mark) -> bool {
    next.offset.saturating_sub(offset) <= 2 * MARK_STRIDE_BYTES && next.sequence > sequence.saturating_add(1)
}

/// Bytes from a record on up to the first mark that is to be leapt to, or that is behind the last wanted record.
pub(super) fn near_bytes(marks: &[Mark], next: u64, at: u64, target: u64) -> u64 {
    let mut here = (next, at);
    for mark in marks.iter().filter(|mark| mark.sequence > next) {
        if here.0 > target || !is_near(here, mark) {
            break;
        }
        here = (mark.sequence, mark.offset);
    }
    here.1.saturating_sub(at)
}

/// How much of what lies between the marks of a piece is the room's own.
pub(super) fn own_share(place: &Place, piece: &MarkPiece) -> f64 {
    let (Some(first), Some(last)) = (piece.marks.first(), piece.marks.last()) else { return 1.0 };
    let own_bytes = last.sequence.saturating_sub(first.sequence).saturating_mul(mean_bytes(place));
    (own_bytes as f64 / last.offset.saturating_sub(first.offset).max(1) as f64).min(1.0)
}

pub(super) fn mean_bytes(place: &Place) -> u64 {
    (place.part.bytes / messages_in(place)).max(1)
}

fn messages_in(place: &Place) -> u64 {
    place.part.last.next().0.saturating_sub(place.part.first.0).max(1)
}
