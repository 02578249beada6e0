//! Which post stands at which place of a room: what a reader who comes later is checked against.
//!
//! A post's body can be taken for good or bad while it is under way; behind that the ledger knows it by its token.

use std::collections::VecDeque;

/// Posts that are kept for checks in all: 8 bytes each.
pub const LEDGER_POSTS_MAX: usize = 32 << 20;

/// What the ledger says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is the post that stands there.
    Right,
    /// Another post stands there.
    Wrong,
    /// Nobody has said yet what stands there.
    Unknown,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    rooms: Vec<Room>,
    kept: usize,
}

#[derive(Clone, Debug)]
struct Room {
    first_head: u64,
    /// Of the places behind the first head; 0: not known.
    tokens: VecDeque<u64>,
    /// The last place up to which all are known.
    head: u64,
}

impl Ledger {
    /// Of rooms that had those heads at the start.
    pub fn new(first_heads: &[u64]) -> Self {
        let room = |&first_head: &u64| Room { first_head, tokens: VecDeque::new(), head: first_head };
        Ledger { rooms: first_heads.iter().map(room).collect(), kept: 0 }
    }

    /// A post was given that place. False: there is no memory for more, or it can be no place of this run.
    pub fn note(&mut self, room: usize, sequence: u64, token: u64) -> bool {
        let room = &mut self.rooms[room];
        let Some(index) = sequence.checked_sub(room.first_head + 1).and_then(|index| usize::try_from(index).ok())
        else {
            return false;
        };
        if index >= room.tokens.len() {
            let more = index + 1 - room.tokens.len();
            if more > LEDGER_POSTS_MAX - self.kept {
                return false;
            }
            room.tokens.resize(index + 1, 0);
            self.kept += more;
        }
        room.tokens[index] = token;
        while room.tokens.get((room.head - room.first_head) as usize).is_some_and(|&token| token != 0) {
            room.head += 1;
        }
        true
    }

    /// Forgets all but the newest `kept_max` places of each room that are known: nobody reads so far behind any more.
    pub fn forget(&mut self, kept_max: usize) {
        for room in &mut self.rooms {
            let known = (room.head - room.first_head) as usize;
            let forgotten = known.saturating_sub(kept_max);
            room.tokens.drain(..forgotten);
            room.first_head += forgotten as u64;
            self.kept -= forgotten;
        }
    }

    /// The last place up to which every post is known.
    #[inline]
    pub fn head(&self, room: usize) -> u64 {
        self.rooms[room].head
    }

    /// Whether that post stands at that place.
    #[inline]
    pub fn judge(&self, room: usize, sequence: u64, token: u64) -> Judgement {
        let Room { first_head, tokens, .. } = &self.rooms[room];
        let index = sequence.wrapping_sub(first_head + 1);
        match usize::try_from(index).ok().and_then(|index| tokens.get(index)) {
            None | Some(0) => Judgement::Unknown,
            Some(&found) if found == token => Judgement::Right,
            Some(_) => Judgement::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_known_by_the_post_that_was_given_it() {
        let mut ledger = Ledger::new(&[0, 10]);
        assert_eq!((ledger.head(1), ledger.judge(1, 11, 5)), (10, Judgement::Unknown));
        assert!(ledger.note(1, 12, 6));
        assert_eq!((ledger.head(1), ledger.judge(1, 11, 5)), (10, Judgement::Unknown), "11 is not known yet");
        assert!(ledger.note(1, 11, 5));
        assert_eq!(ledger.head(1), 12);
        assert_eq!((ledger.judge(1, 12, 6), ledger.judge(1, 12, 5)), (Judgement::Right, Judgement::Wrong));
        assert_eq!(ledger.judge(1, 3, 5), Judgement::Unknown, "before the run");
        assert_eq!(ledger.judge(0, 11, 5), Judgement::Unknown, "another room");
    }

    #[test]
    fn what_is_forgotten_makes_room_and_the_rest_is_known_still() {
        let mut ledger = Ledger::new(&[0]);
        (1..=10).for_each(|place| assert!(ledger.note(0, place, place)));
        ledger.forget(3);
        assert_eq!((ledger.kept, ledger.head(0)), (3, 10));
        assert_eq!((ledger.judge(0, 7, 7), ledger.judge(0, 8, 8)), (Judgement::Unknown, Judgement::Right));
        assert!(ledger.note(0, 11, 11) && ledger.head(0) == 11);
    }

    #[test]
    fn what_can_be_no_place_and_what_is_too_much_is_not_kept() {
        let mut ledger = Ledger::new(&[10]);
        assert!(!ledger.note(0, 10, 1), "from before the run");
        assert!(!ledger.note(0, 11 + LEDGER_POSTS_MAX as u64, 1));
        assert!(ledger.note(0, 11, 1));
    }
}
