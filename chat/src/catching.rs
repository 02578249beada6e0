//! How a subscription that fell behind comes back: page by page out of the history, until a page reaches the head.
//!
//! Invariant: pages that memory holds and pages of the log have tickets of their own, so that a slow disk keeps nobody from
//! memory. While a connection waits for a ticket, [`PAGES_ASKED_MAX`] of its kind are given out; whoever brings one back
//! has the next.

use std::collections::VecDeque;

use banter_protocol::event::Event;
use banter_protocol::frame::Frames;

use crate::address::{ConnectionId, SubscriptionId};
use crate::latencies::PageSource;
use crate::parcel::{CatchUp, Page, Up};
use crate::program::ClassName;
use crate::session::ReadState;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Pages of each source that one core's connections have asked for at a time; the others wait their turn. So a crowd that comes
/// back fills no lane, in which live posts would wait behind it.
const PAGES_ASKED_MAX: u32 = 16;

/// Pages of one source that are asked for, and the connections that wait to ask.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    asked: u32,
    wanted: VecDeque<ConnectionId>,
}

impl Sessions {
    /// The run does not hold what the subscription reads next: it was left out of the run, or the run went on without it.
    pub(crate) fn fall_off(&mut self, subscription: u32, turn: &mut Turn<'_>) {
        let reading = &self.subscriptions[subscription as usize];
        let audience = self.connections[reading.connection as usize].audience(reading);
        if self.rooms[reading.room as usize].is_left_out(audience, reading.position) {
            turn.counters.fell_behind_by_lag += 1;
        } else {
            turn.counters.fell_behind_by_run += 1;
        }
        self.fall_behind(subscription, turn);
    }

    /// From here on the subscription is sent pages of the history.
    pub(crate) fn fall_behind(&mut self, subscription: u32, turn: &mut Turn<'_>) {
        self.stop_reading(subscription, turn);
        let reading = &mut self.subscriptions[subscription as usize];
        reading.state = ReadState::Behind;
        let slot = reading.connection as usize;
        self.connections[slot].behind += 1;
        turn.counters.fell_behind += 1;
        turn.counters.subscriptions_behind += 1;
        self.mark_ready(slot);
    }

    /// Asks the next pages for subscriptions that are behind: one page of each source at a time, and only when everything
    /// before it was sent. That is what bounds a slow reader.
    pub(crate) fn ask_catch_up(&mut self, slot: usize, turn: &mut Turn<'_>) {
        for source in PageSource::ALL {
            self.ask_page(slot, source, turn);
        }
    }

    fn ask_page(&mut self, slot: usize, source: PageSource, turn: &mut Turn<'_>) {
        let id = self.id_of(slot);
        let session = &self.connections[slot];
        if session.behind == 0 || session.page_asked[source as usize] || !session.is_open() {
            return;
        }
        let Some(subscription) = self.first_behind(slot, source) else { return };
        let tickets = &mut self.tickets[source as usize];
        if tickets.asked >= PAGES_ASKED_MAX {
            if !std::mem::replace(&mut self.connections[slot].page_queued[source as usize], true) {
                tickets.wanted.push_back(id);
            }
            return;
        }
        tickets.asked += 1;
        let reading = &self.subscriptions[subscription as usize];
        let here = &self.rooms[reading.room as usize];
        let (room, owner) = (here.id, here.owner);
        let (after, echo) = (reading.sequence, reading.echo);
        let subscription = SubscriptionId { slot: subscription, join: reading.join };
        let reader = self.peer_of(slot);
        self.connections[slot].page_asked[source as usize] = true;
        // The next one is another's turn.
        self.connections[slot].subscriptions.rotate_left(1);
        let ask = CatchUp { room, reader, subscription, after, echo, ticket: source };
        self.send_up_to(slot, owner, Up::CatchUp(ask), turn);
    }

    /// The connection's first subscription that is behind and reads on from there.
    fn first_behind(&self, slot: usize, source: PageSource) -> Option<u32> {
        let is_wanted = |subscription: &u32| {
            let reading = &self.subscriptions[*subscription as usize];
            // As the room's core said last: memory may hold less by now, and never more.
            let is_in_log = reading.sequence.next() < self.rooms[reading.room as usize].memory_from;
            reading.state == ReadState::Behind && is_in_log == (source == PageSource::Log)
        };
        self.connections[slot].subscriptions.iter().copied().find(is_wanted)
    }

    pub(crate) fn caught_up(
        &mut self,
        to: ConnectionId,
        (id, ticket): (SubscriptionId, PageSource),
        page: &Page,
        turn: &mut Turn<'_>,
    ) {
        self.tickets[ticket as usize].asked -= 1;
        self.take_page(to, (id, ticket), page, turn);
        while self.tickets[ticket as usize].asked < PAGES_ASKED_MAX
            && let Some(next) = self.tickets[ticket as usize].wanted.pop_front()
        {
            let Some(slot) = self.slot_of(next) else { continue };
            self.connections[slot].page_queued[ticket as usize] = false;
            // One that has something to send first asks by itself, when that is done.
            if !self.connections[slot].in_flight && self.connections[slot].outbox.is_empty() {
                self.ask_catch_up(slot, turn);
            }
        }
    }

    fn take_page(
        &mut self,
        to: ConnectionId,
        (id, ticket): (SubscriptionId, PageSource),
        page: &Page,
        turn: &mut Turn<'_>,
    ) {
        let Some(slot) = self.slot_of(to) else { return };
        if page.is_unread {
            // It counts as asked until then; the ticket is another's.
            return self.unread.set((to, ticket), turn.now.monotonic_ms);
        }
        self.connections[slot].page_asked[ticket as usize] = false;
        self.mark_ready(slot);
        let Some((_, subscription)) = self.reading(to, id) else { return };
        let reading = &self.subscriptions[subscription as usize];
        if reading.state == ReadState::Behind && reading.sequence == page.after {
            self.deliver_page(slot, subscription, page, turn);
        }
    }

    /// Asks again for pages that could not be read a while ago.
    pub(crate) fn ask_unread(&mut self, turn: &mut Turn<'_>) {
        while let Some((id, source)) = self.unread.take_due(turn.now.monotonic_ms) {
            let Some(slot) = self.slot_of(id) else { continue };
            self.connections[slot].page_asked[source as usize] = false;
            if !self.connections[slot].in_flight && self.connections[slot].outbox.is_empty() {
                self.ask_catch_up(slot, turn);
            }
        }
    }

    /// Writes a page's gap and messages, and lets the subscription go on: live, if the page reached the head.
    pub(crate) fn deliver_page(&mut self, slot: usize, subscription: u32, page: &Page, turn: &mut Turn<'_>) {
        let reading = &self.subscriptions[subscription as usize];
        let room = reading.room;
        let here = &self.rooms[room as usize];
        let session = &mut self.connections[slot];
        if page.first_available > page.after.next() {
            let (from, to) = (page.after.next(), page.first_available.previous());
            session.write(&Event::Gap { room: here.name.as_str(), epoch: here.epoch, from, to });
            turn.counters.gaps += 1;
        }
        let class = here.class_name(reading.class).map(ClassName::as_str);
        for frame in Frames(&page.messages).flatten() {
            let written = session.form.write_kept(frame, class, session.agreed, &mut session.outbox);
            debug_assert!(written.is_ok(), "a page holds messages that this server encoded");
        }
        turn.counters.deliveries += u64::from(page.messages_count);
        let audience = session.audience(reading);
        self.subscriptions[subscription as usize].sequence = page.through;
        self.rooms[room as usize].memory_from = page.memory_from;
        self.advance(room, page.head);
        if page.through == page.head && self.rooms[room as usize].head == Some(page.head) {
            self.stop_reading(subscription, turn);
            let reading = &mut self.subscriptions[subscription as usize];
            reading.position = self.rooms[room as usize].add_live(audience);
            reading.state = ReadState::Live;
        } else if self.subscriptions[subscription as usize].state == ReadState::Joining {
            self.fall_behind(subscription, turn);
        }
    }
}
