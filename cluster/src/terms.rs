//! What of a stream counts: the void rule, the same for whoever reads one.
//!
//! ```text
//!   … ┃ claim 40 │ 0 │ 1 │ 2 ┃ claim 44 │ 0 │ ✗ 3 of term 40 ┆ ✗ 2 of term 44 ┃ claim 48 │ 0 │ …
//!                                            └─ ends term 44: nothing behind it counts until the next claim
//! ```
//!
//! Invariant: a term is a run without a gap: its claim, and behind it, one sequence after another, entries that name it and their own
//! number in it. The first that does not ends it. So whatever lands late, of an older term or of this one behind something that was
//! lost, is seen by nobody; and of what one owner has in flight, what counts is a beginning.

use bytes::Bytes;

use crate::entry::{Entry, EntryFault, NodeId, Said, StreamId};

/// Where a reader of a stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The last sequence that was read.
    pub through: u64,
    /// The newest claim, if one was read.
    pub claim: Option<TermClaim>,
    /// Whether what lies right behind may still count.
    pub is_alive: bool,
}

/// A claim that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TermClaim {
    /// Its sequence: the term.
    pub term: u64,
    /// Whose it is.
    pub by: NodeId,
    /// Which of that node's wishes to own the partition it came from.
    pub nonce: u64,
}

/// What an entry counts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A new term begins.
    Claimed(TermClaim),
    /// It counts, and says that.
    Counts {
        /// Its number in the term.
        number: u64,
        /// What it says.
        said: Said,
    },
    /// It counts for nothing.
    Void,
}

/// A stream that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// Sequences are missing in it.
    #[error("messages {from} to {to} are missing in the stream")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A message in it is none that belongs there.
    #[error("message {sequence} of the stream: {fault}")]
    Entry {
        /// Which.
        sequence: u64,
        /// Why.
        fault: EntryFault,
    },
    /// The engine has lost what it had acknowledged.
    #[error(
        "the engine had acknowledged message {known} of the stream, and has something else there now, or nothing: messages are lost"
    )]
    Vanished {
        /// The last that was there.
        known: u64,
    },
}

impl Terms {
    /// Ahead of the message behind that sequence, where nothing is known of what lies before.
    pub fn behind(sequence: u64) -> Self {
        Terms { through: sequence, claim: None, is_alive: false }
    }

    /// Takes the stream's next message.
    ///
    /// # Errors
    /// When it is not the next, or no entry of the stream: nothing can be said of what lies behind.
    pub fn take(&mut self, sequence: u64, message: &Bytes, stream: StreamId) -> Result<Read, StreamFault> {
        let wanted = self.through + 1;
        if sequence != wanted {
            return Err(StreamFault::Missing { from: wanted, to: sequence.saturating_sub(1).max(wanted) });
        }
        let entry = Entry::read(message, stream).map_err(|fault| StreamFault::Entry { sequence, fault })?;
        // Of a claim that should lie where something else was read.
        if self.claim.is_some_and(|claim| claim.term < entry.term) && entry.term <= self.through {
            return Err(StreamFault::Vanished { known: self.through });
        }
        self.through = sequence;
        Ok(self.judge(entry))
    }

    fn judge(&mut self, entry: Entry) -> Read {
        if let Said::Claim { by, nonce } = entry.said {
            let claim = TermClaim { term: self.through, by, nonce };
            (self.claim, self.is_alive) = (Some(claim), true);
            return Read::Claimed(claim);
        }
        let number = |claim: TermClaim| self.through.checked_sub(claim.term)?.checked_sub(1);
        let is_next = |claim: TermClaim| entry.term == claim.term && Some(entry.number) == number(claim);
        self.is_alive = self.is_alive && self.claim.is_some_and(is_next);
        if self.is_alive { Read::Counts { number: entry.number, said: entry.said } } else { Read::Void }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Partition;

    const STREAM: StreamId = StreamId { cluster: 1, partition: Partition(2) };
    const ANN: NodeId = NodeId { name: 1, run: 1 };

    fn claim() -> Entry {
        Entry { term: 0, number: 0, said: Said::Claim { by: ANN, nonce: 0 } }
    }

    fn nothing(term: u64, number: u64) -> Entry {
        Entry { term, number, said: Said::Nothing }
    }

    /// Which entries count, behind sequence 10.
    fn counts(entries: &[Entry]) -> Vec<bool> {
        let mut terms = Terms::behind(10);
        let take = |(at, entry): (usize, &Entry)| terms.take(11 + at as u64, &entry.write(STREAM), STREAM).unwrap();
        entries.iter().enumerate().map(take).map(|read| read != Read::Void).collect()
    }

    #[test]
    fn what_an_older_term_lands_late_counts_for_nothing_and_ends_the_newer_one_until_it_claims_anew() {
        let entries =
            [claim(), nothing(11, 0), claim(), nothing(11, 1), nothing(13, 1), claim(), nothing(16, 0), nothing(13, 2)];
        assert_eq!(counts(&entries), [true, true, true, false, false, true, true, false]);
    }

    #[test]
    fn behind_an_entry_that_was_lost_nothing_of_its_term_counts() {
        assert_eq!(counts(&[claim(), nothing(11, 1), nothing(11, 1), nothing(11, 2)]), [true, false, false, false]);
    }

    #[test]
    fn ahead_of_the_first_claim_nothing_is_known_to_count() {
        assert_eq!(counts(&[nothing(7, 3), nothing(7, 4), claim(), nothing(13, 0)]), [false, false, true, true]);
    }

    #[test]
    fn an_entry_of_a_claim_that_was_never_there_says_that_the_stream_was_another() {
        let mut terms = Terms { through: 100, claim: Some(TermClaim { term: 90, by: ANN, nonce: 0 }), is_alive: true };
        let read = terms.take(101, &nothing(99, 1).write(STREAM), STREAM);
        assert_eq!((read, terms.through), (Err(StreamFault::Vanished { known: 100 }), 100));
    }

    #[test]
    fn a_reader_goes_on_where_it_stood() {
        let mut terms = Terms { through: 40, claim: Some(TermClaim { term: 38, by: ANN, nonce: 0 }), is_alive: true };
        let read = terms.take(41, &nothing(38, 2).write(STREAM), STREAM);
        assert_eq!(read, Ok(Read::Counts { number: 2, said: Said::Nothing }));
    }

    #[test]
    fn a_stream_that_lacks_something_says_so_and_nothing_is_taken() {
        let mut terms = Terms::behind(10);
        assert_eq!(terms.take(13, &claim().write(STREAM), STREAM), Err(StreamFault::Missing { from: 11, to: 12 }));
        let fault = StreamFault::Entry { sequence: 11, fault: EntryFault::Magic };
        assert_eq!(terms.take(11, &Bytes::from_static(b"x"), STREAM), Err(fault));
        assert_eq!(terms.through, 10);
    }
}
