//! Pages of history and lists of members: asked once, and answered, refused or told as unanswered.

use std::ops::RangeInclusive;
use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event as Said;
use banter_protocol::fault::PeerFault;
use banter_protocol::frame::FrameReader;
use banter_protocol::ids::{Epoch, RequestId, RoomName, Sequence};
use banter_protocol::native::{self, Heard};
use banter_protocol::request::FetchFrom;

use super::incoming::{Lost, message_of};
use super::refusals::Refusal;
use super::{LinkState, Session};
use crate::asks::{AskId, AskRefusal, Wanted};
use crate::event::{Event, Members, Message, Page, Why};

/// Places of a page that hold no message.
type Gaps = Vec<RangeInclusive<Sequence>>;

impl Session {
    /// Asks for a page of a room's history, joined or not: at most `limit` messages, or as many as the server gives.
    /// [`Event::Page`] answers it; [`Event::Refused`] or [`Event::Unanswered`] say that there is none.
    ///
    /// # Errors
    /// When it was not taken: a bad name, no connection, or as many asks as there may be.
    pub fn fetch(&mut self, room: &str, from: FetchFrom, limit: Option<u64>) -> Result<AskId, AskRefusal> {
        self.ask(room, Wanted::Page { from, limit })
    }

    /// Asks who is in a room, joined or not. [`Event::Members`] answers it, or what [`Session::fetch`] says.
    ///
    /// # Errors
    /// As [`Session::fetch`].
    pub fn members(&mut self, room: &str) -> Result<AskId, AskRefusal> {
        self.ask(room, Wanted::Members)
    }

    fn ask(&mut self, room: &str, wanted: Wanted) -> Result<AskId, AskRefusal> {
        let name = RoomName::new(room)?;
        match self.link {
            LinkState::Ended => return Err(AskRefusal::Ended),
            LinkState::Open { .. } => self.asks.check_space()?,
            _ => return Err(AskRefusal::NotConnected),
        }
        let number = AskId(self.next_id);
        self.next_id += 1;
        self.send(Some(number.0), wanted.of(&name));
        self.asks.add(number, name, wanted);
        Ok(number)
    }

    /// An ask that nobody could answer for now, since its room has no owner, waits its time; the user knows nothing of it.
    pub(super) fn put_off_ask(&mut self, now: Duration, ask: AskId, refusal: &Refusal<'_>) -> bool {
        let Some(retry_after) = refusal.retry_after.filter(|_| refusal.code == Some(ErrorCode::Unavailable)) else {
            return false;
        };
        let jitter = self.random.up_to(self.options.reconnect_first);
        self.asks.put_off(ask, now + retry_after + jitter)
    }

    pub(super) fn ask_again(&mut self, now: Duration) {
        while let Some((ask, room, wanted)) = self.asks.take_due(now) {
            self.send(Some(ask.0), wanted.of(&room));
        }
    }

    pub(super) fn handle_page(&mut self, id: RequestId, epoch: Epoch, frames: &[u8], more: bool) -> Result<(), Lost> {
        let Some(ask) = id.map(AskId) else { return Ok(()) };
        let Some(room) = self.asks.room_of(ask).cloned() else { return Ok(()) };
        // It is still an ask while its page is read: where that fails, it is told as unanswered with the others.
        let (messages, gaps) = read_page(&room, frames).map_err(Why::Bytes)?;
        self.asks.remove(ask);
        self.events.push_back(Event::Page(Page { ask, room, epoch, messages, gaps, more }));
        Ok(())
    }

    pub(super) fn handle_members(&mut self, id: RequestId, count: u64, users: &str) {
        let Some(ask) = id.map(AskId) else { return };
        let Some(room) = self.asks.room_of(ask).cloned() else { return };
        self.asks.remove(ask);
        let users = users.lines().map(str::to_owned).collect();
        self.events.push_back(Event::Members(Members { ask, room, count, users }));
    }
}

/// The messages of a page, and the places between them that hold none. What a later server puts there is passed over.
fn read_page(room: &RoomName, mut bytes: &[u8]) -> Result<(Vec<Message>, Gaps), PeerFault> {
    let mut reader = FrameReader::of_events(u32::MAX);
    let (mut messages, mut gaps) = (Vec::new(), Gaps::new());
    while !bytes.is_empty() {
        let (used, frame) = reader.read(bytes)?;
        bytes = &bytes[used..];
        match frame.map(native::read_heard).transpose()? {
            Some(Heard::Event(Said::Message(message))) => messages.push(message_of(room.clone(), &message)),
            Some(Heard::Event(Said::Gap { from, to, .. })) => gaps.push(from..=to),
            Some(_) => return Err(PeerFault::Archive),
            None => {}
        }
    }
    if reader.is_partial() { Err(PeerFault::FrameTruncated) } else { Ok((messages, gaps)) }
}

#[cfg(test)]
mod tests {
    use banter_protocol::ids::Sequence;
    use banter_protocol::native::{Kept, write_kept};

    use super::*;

    #[test]
    fn an_erased_message_is_a_gap_of_its_page_and_any_other_event_is_no_part_of_one() {
        let room = RoomName::new("lobby").unwrap();
        let (mut page, epoch) = (Vec::new(), Epoch(1));
        write_kept(&Kept::Erased { room: "lobby", epoch, sequence: Sequence(7) }, &mut page);
        assert_eq!(read_page(&room, &page), Ok((Vec::new(), vec![Sequence(7)..=Sequence(7)])));
        native::write_event(&Said::Pong { id: None }, &mut page);
        assert_eq!(read_page(&room, &page), Err(PeerFault::Archive));
    }
}
