//! What the journal reads: fetches under way, what they ask of the engine, and what becomes of those that bring nothing.

use std::collections::BTreeMap;

use banter_log::index::{IndexHeader, is_whole};
use banter_log::journal::Answer as DiskAnswer;
use banter_log::reading::FileRange;
use bytes::Bytes;

use super::{Out, Store};
use crate::cache::{EngineCache, Key};
use crate::engine::{Ask, Object, ObjectName, Ticket, Unasked};
use crate::fetch::{Fetch, SegmentAt, Step};

/// How often a fetch asks again where nothing came, before the journal is told that it failed.
const FAILURES_MAX: u32 = 5;
/// How long until it asks again, in milliseconds.
const RETRY_MS: u64 = 100;
/// Messages of one read.
const MESSAGES_MAX: u64 = 32;
/// Bytes of one read.
const BYTES_MAX: u32 = 4 << 20;

/// The fetches under way.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    fetches: BTreeMap<u64, Fetching>,
    next: u64,
    asked: BTreeMap<Ticket, Asked>,
}

#[derive(Debug)]
struct Fetching {
    fetch: Fetch,
    /// It looks whether an index is whole.
    is_mending: bool,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    /// For a fetch, from that sequence on.
    Messages(u64, u64),
    Piece(u64, ObjectName),
}

impl Fetches {
    pub fn add(&mut self, range: FileRange) -> u64 {
        self.next += 1;
        self.fetches.insert(self.next, Fetching { fetch: Fetch::new(range), is_mending: false });
        self.next
    }

    pub fn is_mending(&mut self, fetch: u64) {
        if let Some(fetching) = self.fetches.get_mut(&fetch) {
            fetching.is_mending = true;
        }
    }
}

impl Store {
    /// Goes on with a fetch as far as it gets.
    pub(super) fn fetch_on(&mut self, id: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        let Some(fetching) = self.fetches.fetches.get_mut(&id) else { return };
        let range = fetching.fetch.range;
        let Some(stored) = self.segments.get(&range.segment) else { return self.end_fetch(id, None, out) };
        let at = SegmentAt { stream: self.stream, header: &stored.header, blocks: stored.blocks.as_ref() };
        match fetching.fetch.step(at, cache) {
            Step::Ready(bytes) => self.end_fetch(id, Some(bytes), out),
            // One server's disk may have it damaged, and another's not.
            Step::Damaged => {
                fetching.fetch.let_go(at, cache);
                self.nothing_came(id, out);
            }
            Step::Messages { from, last } => {
                fetching.fetch.asked += 1;
                let ticket = self.ticket();
                self.fetches.asked.insert(ticket, Asked::Messages(id, from));
                let messages_max = (last - from + 1).min(MESSAGES_MAX) as u32;
                let partition = self.stream.partition;
                out.push(Out::Ask(Ask::Read { partition, ticket, from, messages_max, bytes_max: BYTES_MAX }));
            }
            Step::Pieces(names) => {
                fetching.fetch.asked += names.len() as u32;
                for name in names {
                    let ticket = self.ticket();
                    self.fetches.asked.insert(ticket, Asked::Piece(id, name));
                    out.push(Out::Ask(Ask::Get { ticket, name }));
                }
            }
        }
    }

    fn end_fetch(&mut self, id: u64, bytes: Option<Vec<u8>>, out: &mut Vec<Out>) {
        let Some(Fetching { fetch, is_mending }) = self.fetches.fetches.remove(&id) else { return };
        let range = fetch.range;
        if !is_mending {
            return out.push(Out::Disk(DiskAnswer::Read { range, bytes }));
        }
        let segment = range.segment;
        let header = self.segments.get(&segment).map(|stored| stored.header);
        let whole = bytes.zip(header).filter(|(bytes, header)| is_whole(bytes, header));
        let parts = whole.and_then(|(bytes, header)| IndexHeader::read(&bytes, &header)).map(|index| index.parts);
        out.push(Out::Disk(match parts {
            Some(parts) => DiskAnswer::Indexed { segment, parts },
            None => DiskAnswer::NotIndexed { segment, is_damaged: false },
        }));
    }

    pub(super) fn messages_came(
        &mut self,
        ticket: Ticket,
        messages: Option<Vec<(u64, Bytes)>>,
        cache: &mut EngineCache,
        out: &mut Vec<Out>,
    ) {
        let Some(Asked::Messages(id, from)) = self.fetches.asked.remove(&ticket) else { return };
        let Some(Fetching { fetch, .. }) = self.fetches.fetches.get_mut(&id) else { return };
        fetch.asked -= 1;
        let partition = self.stream.partition;
        // Where the first is missing the engine gives those behind it: asked again at once, it would do so for ever.
        let has_come =
            messages.as_ref().is_some_and(|messages| messages.first().is_some_and(|(first, _)| *first == from));
        for (sequence, message) in messages.into_iter().flatten() {
            let key = Key::Message(partition, sequence);
            cache.keep(key, message.clone());
            fetch.hold(key, message);
        }
        if has_come { self.fetch_on(id, cache, out) } else { self.nothing_came(id, out) }
    }

    pub(super) fn piece_came(
        &mut self,
        ticket: Ticket,
        object: Result<Option<Object>, Unasked>,
        cache: &mut EngineCache,
        out: &mut Vec<Out>,
    ) {
        let Some(Asked::Piece(id, name)) = self.fetches.asked.remove(&ticket) else { return };
        let Some(Fetching { fetch, .. }) = self.fetches.fetches.get_mut(&id) else { return };
        fetch.asked -= 1;
        let is_idle = fetch.asked == 0;
        match object {
            Ok(Some(Object { bytes: piece, .. })) => {
                let key = Key::Piece(name);
                cache.keep(key, piece.clone());
                fetch.hold(key, piece);
                if is_idle {
                    self.fetch_on(id, cache, out);
                }
            }
            Ok(None) => self.end_fetch(id, None, out),
            // One failure, however many pieces were asked for: those that come still are kept.
            Err(Unasked) if !is_idle => {}
            Err(Unasked) => self.nothing_came(id, out),
        }
    }

    fn nothing_came(&mut self, id: u64, out: &mut Vec<Out>) {
        let Some(Fetching { fetch, .. }) = self.fetches.fetches.get_mut(&id) else { return };
        fetch.failures += 1;
        if fetch.failures >= FAILURES_MAX {
            return self.end_fetch(id, None, out);
        }
        out.push(Out::WakeIn(RETRY_MS));
    }

    pub(super) fn fetch_again(&mut self, cache: &mut EngineCache, out: &mut Vec<Out>) {
        let idle = self.fetches.fetches.iter().filter(|(_, fetching)| fetching.fetch.asked == 0);
        let idle: Vec<u64> = idle.map(|(&id, _)| id).collect();
        idle.into_iter().for_each(|id| self.fetch_on(id, cache, out));
    }
}
