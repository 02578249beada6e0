//! What is seen of a room in the log: its spans, without those that were cut and are not forgotten yet.

use std::collections::{VecDeque, vec_deque};

use banter_protocol::ids::{Epoch, Sequence};

use super::Span;

/// One room in the log.
#[derive(Clone, Copy, Debug)]
pub struct RoomLog<'a> {
    /// Its history's name. Older messages may carry another, from before a power cut; they are told under this one.
    pub epoch: Epoch,
    /// Its spans.
    pub spans: Spans<'a>,
}

impl<'a> RoomLog<'a> {
    /// Its newest message.
    pub fn head(self) -> Sequence {
        self.spans.back().map_or(Sequence(0), |span| span.last)
    }

    /// Its oldest message.
    pub fn first(self) -> Sequence {
        self.spans.iter().next().map_or(Sequence(1), |span| span.first)
    }

    /// The span that holds a message.
    pub fn span_of(self, sequence: Sequence) -> Option<&'a Span> {
        let Spans { cut_through, all } = self.spans;
        let at = all.partition_point(|span| span.segment <= cut_through || span.last < sequence);
        all.get(at).filter(|span| span.first <= sequence)
    }
}

/// Spans of a room, oldest first; never empty.
#[derive(Clone, Copy, Debug)]
pub struct Spans<'a> {
    cut_through: u64,
    all: &'a VecDeque<Span>,
}

impl<'a> Spans<'a> {
    /// Those behind a cut; `None`: there is none.
    pub(super) fn behind(cut_through: u64, all: &'a VecDeque<Span>) -> Option<Self> {
        all.back().is_some_and(|span| span.segment > cut_through).then_some(Spans { cut_through, all })
    }

    /// The newest.
    pub fn back(self) -> Option<&'a Span> {
        self.all.back()
    }

    /// Oldest first.
    pub fn iter(self) -> vec_deque::Iter<'a, Span> {
        self.all.range(self.all.partition_point(|span| span.segment <= self.cut_through)..)
    }
}
