//! Who comes into a room and who leaves it: what a reader is given at once, and what its coming and going changes.

use banter_protocol::event::PresenceState;
use banter_protocol::ids::{Sequence, UserName};
use bytes::Bytes;

use crate::access::must_have;
use crate::address::Peer;
use crate::parcel::{Down, JoinAsk, Page, Refusal};
use crate::program::{ClassName, Event};
use crate::proofs::refuse_join;
use crate::proving::join_needs;
use crate::room::{MemberChange, Room};
use crate::rooms::Rooms;
use crate::turn::Turn;

impl Rooms {
    /// Lets a reader in, or says why not; with the start of what it reads.
    pub(crate) fn join(&mut self, ask: JoinAsk, turn: &mut Turn<'_>) {
        let (to, subscription, request) = (ask.reader.connection, ask.subscription, ask.request);
        let core = ask.reader.core;
        let parcel = match self.try_join(&ask, turn) {
            Err(refusal) => {
                if let Some((ask, refusal)) = self.prove_first(ask, refusal, turn) {
                    refuse_join(&ask, refusal, turn);
                }
                return;
            }
            Ok((slot, start, class)) => {
                let page = self.first_page(slot, start, (!ask.echo).then_some(ask.reader));
                let room = &self.slots[slot];
                let (epoch, members, durability) = (room.epoch, room.members_count(), room.policy.durability);
                let (room, echo, presence, head) = (ask.room, ask.echo, ask.presence, page.head);
                Down::Joined {
                    to,
                    room,
                    echo,
                    presence,
                    subscription,
                    request,
                    epoch,
                    head,
                    members,
                    durability,
                    class,
                    page,
                }
            }
        };
        turn.lanes.send_answer(core, parcel);
    }

    /// What a join is given at once: the start of the replay where memory holds it and the turn can still afford it;
    /// otherwise none, and the reader asks page by page.
    fn first_page(&mut self, slot: usize, start: Sequence, spare: Option<Peer>) -> Page {
        let first_available = self.first_available(slot);
        let (history, shown) = (&self.slots[slot].history, self.slots[slot].shown());
        let wanted = start.next().max(first_available);
        if wanted >= history.first_available() && (wanted > shown || self.pages.is_next()) {
            let page = history.page_after(start, shown, self.page_limit(), spare);
            if page.messages_count > 0 {
                self.pages.spend(page.messages.len());
            }
            return page;
        }
        let first_available = first_available.min(shown.next());
        let (through, memory_from) = (start.max(first_available.previous()), history.first_available());
        let (messages, messages_count) = (Bytes::new(), 0);
        let (after, head, is_unread) = (start, shown, false);
        Page { after, first_available, messages, messages_count, through, head, memory_from, is_unread }
    }

    pub(crate) fn first_available(&self, slot: usize) -> Sequence {
        self.history_start(&self.slots[slot])
    }

    /// The oldest message that memory or log holds of a room, or the one behind its head.
    pub fn history_start(&self, room: &Room) -> Sequence {
        let in_memory = room.history.first_available();
        if !room.policy.durability.is_logged() {
            return in_memory;
        }
        let in_log = self.logs.of(room.id).and_then(|journal| journal.catalog().room(room.id));
        in_log.filter(|log| log.head.next() >= in_memory).map_or(in_memory, |log| log.first.min(in_memory))
    }

    fn try_join(
        &mut self,
        ask: &JoinAsk,
        turn: &mut Turn<'_>,
    ) -> Result<(usize, Sequence, Option<ClassName>), Refusal> {
        must_have(ask.rights, join_needs(ask.from, ask.presence))?;
        let slot = self.room_or_new(&ask.room)?;
        let first_available = self.first_available(slot);
        let start = self.slots[slot].start_of(ask.from, ask.read_already, first_available);
        let (start, class) = match start.and_then(|start| self.start_by_program(slot, start, ask, turn)) {
            Ok(start) => start,
            Err(refusal) => {
                self.queue_if_idle(slot);
                return Err(refusal);
            }
        };
        if self.slots[slot].add_reader(ask.reader, &ask.user, ask.presence) == MemberChange::Changed {
            self.add_presence(slot, &ask.user, PresenceState::Joined, Some(ask.reader));
        }
        self.slots[slot].put_into_class(ask.reader, class.as_ref());
        self.is_used(slot);
        self.set_timer(slot);
        Ok((slot, start, class))
    }

    /// Takes a reader away; `false` if it was none.
    pub(crate) fn leave(&mut self, slot: Option<usize>, leaver: Peer, user: &UserName, turn: &mut Turn<'_>) -> bool {
        let Some(slot) = slot else { return false };
        let Some(change) = self.slots[slot].remove_reader(leaver, user) else { return false };
        if change == MemberChange::Changed {
            self.add_presence(slot, user, PresenceState::Left, None);
            if self.slots[slot].program.is_some() {
                // What has happened cannot be refused.
                let _ = self.decide(slot, &Event::Leave { user }, turn);
            }
        }
        self.set_timer(slot);
        self.queue_if_idle(slot);
        true
    }
}
