//! One room as its reader keeps it: how far it was read, and whether the next message is the next.
//!
//! Invariant: what was let through and what was told as a gap cover every sequence behind the first place once, in
//! order. Nothing is let through twice, whatever the server sends.

use std::time::Duration;

use banter_protocol::ids::{Cursor, Epoch, Sequence};
use banter_protocol::request::JoinFrom;

use crate::options::Join;

/// Where a room stands on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// To be joined as soon as there is a connection, or when the hold ends.
    Wanted,
    /// The join is on its way.
    Asked,
    Joined,
}

/// What to do with a message or gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the next.
    Next,
    /// It was there before.
    Repeat,
    /// Something is missing before it, or it belongs to another history.
    Hole,
}

#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) join: Join,
    /// Goes along with every join.
    pub(crate) token: Option<String>,
    pub(crate) state: State,
    /// The last message that was handed out, or told as missing, or that the reader asked to start behind.
    pub(crate) cursor: Option<Cursor>,
    /// A join of the last N may begin at any place up to the one behind this head: nobody knows how much there is.
    begins_up_to: Option<Sequence>,
    /// The history was lost once: a new start follows `when_lost`, not `from`.
    is_lost: bool,
    /// The server asked to wait: no join and no post of this room before.
    pub(crate) hold_until: Option<Duration>,
}

impl Room {
    pub(crate) fn new(join: Join, token: Option<String>) -> Self {
        let cursor = match join.from {
            JoinFrom::After(cursor) => Some(cursor),
            JoinFrom::Now | JoinFrom::Last(_) => None,
        };
        Room { join, token, state: State::Wanted, cursor, begins_up_to: None, is_lost: false, hold_until: None }
    }

    /// Where the next join must start.
    pub(crate) fn join_from(&self) -> JoinFrom {
        match self.cursor {
            Some(cursor) => JoinFrom::After(cursor),
            None if self.is_lost => self.join.when_lost.into(),
            None => self.join.from,
        }
    }

    /// The server said `joined` with this head. False when that cannot be the answer to what was asked.
    pub(crate) fn joined(&mut self, head: Cursor) -> bool {
        match self.join_from() {
            JoinFrom::After(cursor) => {
                if cursor.epoch != head.epoch || cursor.sequence > head.sequence {
                    return false;
                }
            }
            JoinFrom::Now => self.cursor = Some(head),
            JoinFrom::Last(count) => {
                let sequence = Sequence(head.sequence.0.saturating_sub(count));
                self.cursor = Some(Cursor { epoch: head.epoch, sequence });
                self.begins_up_to = Some(head.sequence.next());
            }
        }
        self.state = State::Joined;
        true
    }

    /// A message of that place came.
    pub(crate) fn message(&mut self, epoch: Epoch, sequence: Sequence) -> Place {
        self.step(epoch, sequence, sequence)
    }

    /// A gap came. The part of it that was not covered before is `cursor + 1 ..= to`.
    pub(crate) fn gap(&mut self, epoch: Epoch, from: Sequence, to: Sequence) -> Place {
        if to < from {
            return Place::Hole;
        }
        self.step(epoch, from, to)
    }

    fn step(&mut self, epoch: Epoch, from: Sequence, to: Sequence) -> Place {
        let Some(cursor) = self.cursor.as_mut() else { return Place::Hole };
        if self.state != State::Joined || cursor.epoch != epoch {
            return Place::Hole;
        }
        if to <= cursor.sequence {
            return Place::Repeat;
        }
        if from > cursor.sequence.next() && self.begins_up_to.is_none_or(|latest| from > latest) {
            return Place::Hole;
        }
        self.begins_up_to = None;
        cursor.sequence = to;
        Place::Next
    }

    /// The server does not have the cursor's history. Gives the cursor back, to be told.
    pub(crate) fn lose_history(&mut self) -> Option<Cursor> {
        self.is_lost = true;
        self.begins_up_to = None;
        self.state = State::Wanted;
        self.cursor.take()
    }

    /// The connection is gone. What was read so far holds: the next join starts behind it.
    pub(crate) fn disconnect(&mut self) {
        self.state = State::Wanted;
        self.begins_up_to = None;
        self.hold_until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::WhenLost;

    const EPOCH: Epoch = Epoch(5);

    fn head(sequence: u64) -> Cursor {
        Cursor { epoch: EPOCH, sequence: Sequence(sequence) }
    }

    fn joined(from: JoinFrom, at: u64) -> Room {
        let mut room = Room::new(Join { from, when_lost: WhenLost::Last(3), ..Join::default() }, None);
        assert!(room.joined(head(at)));
        room
    }

    #[test]
    fn each_place_is_let_through_once_and_in_order() {
        let mut room = joined(JoinFrom::Now, 10);
        assert_eq!(room.message(EPOCH, Sequence(10)), Place::Repeat);
        assert_eq!(room.message(EPOCH, Sequence(12)), Place::Hole);
        assert_eq!(room.message(EPOCH, Sequence(11)), Place::Next);
        assert_eq!(room.message(EPOCH, Sequence(11)), Place::Repeat);
        assert_eq!(room.gap(EPOCH, Sequence(12), Sequence(20)), Place::Next);
        assert_eq!(room.message(EPOCH, Sequence(20)), Place::Repeat);
        assert_eq!(room.message(Epoch(6), Sequence(21)), Place::Hole);
        assert_eq!(room.message(EPOCH, Sequence(21)), Place::Next);
        assert_eq!(room.gap(EPOCH, Sequence(23), Sequence(22)), Place::Hole);
    }

    #[test]
    fn the_last_n_may_be_fewer_and_only_the_first_may_jump() {
        let mut room = joined(JoinFrom::Last(50), 100);
        assert_eq!(room.message(EPOCH, Sequence(80)), Place::Next);
        assert_eq!(room.message(EPOCH, Sequence(82)), Place::Hole);
        let mut room = joined(JoinFrom::Last(50), 100);
        assert_eq!(room.message(EPOCH, Sequence(50)), Place::Repeat);
        assert_eq!(room.message(EPOCH, Sequence(101)), Place::Next);
        let mut room = joined(JoinFrom::Last(50), 100);
        assert_eq!(room.message(EPOCH, Sequence(102)), Place::Hole);
    }

    #[test]
    fn a_cut_before_the_first_message_still_has_a_place_to_go_on_from() {
        let mut room = joined(JoinFrom::Last(50), 100);
        room.disconnect();
        assert_eq!(room.join_from(), JoinFrom::After(head(50)));
        let mut room = joined(JoinFrom::Now, 7);
        room.disconnect();
        assert_eq!(room.join_from(), JoinFrom::After(head(7)));
    }

    #[test]
    fn an_answer_that_contradicts_the_cursor_is_seen() {
        let mut room = Room::new(Join { from: JoinFrom::After(head(10)), ..Join::default() }, None);
        assert!(!room.joined(head(9)));
        assert!(!room.joined(Cursor { epoch: Epoch(6), sequence: Sequence(10) }));
        assert!(room.joined(head(10)));
    }

    #[test]
    fn a_lost_history_starts_as_configured() {
        let mut room = joined(JoinFrom::After(head(10)), 20);
        assert_eq!(room.lose_history(), Some(head(10)));
        assert_eq!(room.join_from(), JoinFrom::Last(3));
    }
}
