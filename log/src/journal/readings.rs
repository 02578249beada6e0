//! The journal's readings: which are under way, what they wait for, and what becomes of those whose reads failed.

use banter_protocol::ids::RoomId;

use super::{Ask, Done, Journal};
use crate::reading::{FileRange, KeysWant, LogFile, PageWant, ReadFault, Reading, Shelf, Step, Subject};

impl Journal {
    /// Asks for a page; the answer carries the ticket that comes back.
    pub fn read_page(&mut self, want: PageWant) -> u32 {
        self.read(Reading::page(want, self.run))
    }

    /// Asks for the newest keys of a room; the answer carries the ticket that comes back.
    pub fn read_keys(&mut self, room: RoomId, want: KeysWant) -> u32 {
        self.read(Reading::keys(room, want))
    }

    /// Asks for the newest state of a room, as it is when it is read; the answer carries the ticket that comes back.
    pub fn read_state(&mut self, room: RoomId) -> u32 {
        self.read(Reading::state(room))
    }

    fn read(&mut self, reading: Reading) -> u32 {
        let ticket = self.readings.insert(reading) as u32;
        self.waiting.push_back(ticket);
        ticket
    }

    /// Begins the reads that wait, as far as they may be under way. Their answers, if they need none of the disk.
    pub fn begin_reads(&mut self, done: &mut Vec<Done>) {
        while self.reads < self.reads_max
            && let Some(ticket) = self.waiting.pop_front()
        {
            self.reads += 1;
            self.step(ticket, None, done);
        }
    }

    fn step(&mut self, ticket: u32, mut fresh: Option<(FileRange, &[u8])>, done: &mut Vec<Done>) {
        loop {
            let lanes = &self.lanes;
            let active = |id| {
                let active = lanes.values().filter_map(|lane| lane.active.as_ref());
                active.into_iter().find(|active| active.place.segment.id == id).map(|active| &active.index)
            };
            let (catalog, indexing, cache) = (&self.catalog, &self.indexing, &self.cache);
            let shelf = Shelf { catalog, active: &active, indexing, cache, fresh: fresh.take() };
            let Some(reading) = self.readings.get_mut(ticket as usize) else { return };
            match reading.go(shelf) {
                Step::Read(range) => return self.ask_read(ticket, range),
                Step::Page(page) => return self.end_read(Done::Page { ticket, page: Ok(page) }, done),
                Step::Keys(keys) => return self.end_read(Done::Keys { ticket, keys: Ok(keys) }, done),
                Step::State(state) => return self.end_read(Done::State { ticket, state: Ok(state) }, done),
                Step::Damaged { segment, first } => {
                    return self.fail(ticket, ReadFault::Damaged { segment, first }, done);
                }
                Step::Later { segment } => return self.fail(ticket, ReadFault::Unreadable { segment }, done),
                Step::Doubtful { segment, .. } if self.catalog.segment(segment).is_none() => reading.begin_anew(),
                Step::Doubtful { segment, file, at, first } => {
                    let is_proved = reading.doubts(segment, file, at);
                    self.cache.borrow_mut().forget(segment, file);
                    match file {
                        _ if !is_proved => {}
                        LogFile::Segment => {
                            let fault = reading.damage(segment, first);
                            return self.fail(ticket, fault, done);
                        }
                        LogFile::Index => return self.lose_index(ticket, segment, done),
                    }
                }
            }
        }
    }

    fn ask_read(&mut self, ticket: u32, range: FileRange) {
        let waiting = self.reading.entry(range).or_default();
        if waiting.is_empty() {
            self.asks.push(Ask::Read(range));
        }
        waiting.push(ticket);
    }

    /// An index is not what it should be. It is derived: it is made again, and what is asked meanwhile has to wait, unless
    /// there is a way around it.
    fn lose_index(&mut self, ticket: u32, segment: u64, done: &mut Vec<Done>) {
        let is_lost = self.lost.contains(&segment);
        if !is_lost && self.indexing.index_of(segment).is_none() && self.mending.insert(segment) {
            self.asks.push(Ask::MendIndex { segment });
        }
        if self.readings.get_mut(ticket as usize).is_some_and(Reading::leave_jump) {
            return self.step(ticket, None, done);
        }
        // Where its segment is not what it should be either, what the room has there is out of reach.
        let reading = self.readings.get(ticket as usize).filter(|_| is_lost);
        let fault = reading.and_then(|reading| reading.behind_lost_index(segment));
        self.fail(ticket, fault.unwrap_or(ReadFault::Unreadable { segment }), done);
    }

    fn fail(&mut self, ticket: u32, fault: ReadFault, done: &mut Vec<Done>) {
        let Some(reading) = self.readings.get(ticket as usize) else { return };
        let end = match reading.subject() {
            Subject::Page => Done::Page { ticket, page: Err(fault) },
            Subject::Keys => Done::Keys { ticket, keys: Err(fault) },
            Subject::State => Done::State { ticket, state: Err(fault) },
        };
        self.end_read(end, done);
    }

    fn end_read(&mut self, end: Done, done: &mut Vec<Done>) {
        if let Done::Page { ticket, .. } | Done::Keys { ticket, .. } | Done::State { ticket, .. } = &end {
            self.readings.try_remove(*ticket as usize);
        }
        self.reads -= 1;
        done.push(end);
    }

    /// Another index lies in the place of one: what was read of the one before leads nowhere.
    pub(super) fn index_was_replaced(&mut self, segment: u64) {
        self.readings.iter_mut().for_each(|(_, reading)| reading.begin_anew());
        let is_of_it = |range: &&FileRange| range.segment == segment && range.file == LogFile::Index;
        self.replaced.extend(self.reading.keys().filter(is_of_it));
    }

    pub(super) fn take_read(&mut self, range: FileRange, bytes: Option<Vec<u8>>, done: &mut Vec<Done>) {
        let tickets = self.reading.remove(&range).unwrap_or_default();
        if self.replaced.remove(&range) {
            tickets.into_iter().for_each(|ticket| self.step(ticket, None, done));
            return;
        }
        let is_there = self.catalog.segment(range.segment).is_some();
        if let Some(bytes) = bytes.as_ref().filter(|_| is_there) {
            self.cache.borrow_mut().keep(range.segment, range.file, range.offset, bytes);
        }
        for ticket in tickets {
            match &bytes {
                Some(bytes) => self.step(ticket, Some((range, bytes)), done),
                None if !is_there => {
                    // It was cut meanwhile.
                    self.readings.get_mut(ticket as usize).map(Reading::begin_anew);
                    self.step(ticket, None, done);
                }
                None if range.file == LogFile::Index => self.lose_index(ticket, range.segment, done),
                None => self.fail(ticket, ReadFault::Unreadable { segment: range.segment }, done),
            }
        }
    }
}
