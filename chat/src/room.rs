//! One room on the core that owns it: its place counter, who reads it, and what they may be told.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::MEMBERS_LISTED_MAX;
use banter_protocol::ids::{Cursor, Epoch, RoomId, RoomName, Sequence, UserName};
use banter_protocol::native::VIEWS_MAX;
use banter_protocol::request::JoinFrom;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::address::{Core, Peer};
use crate::commits::RoomQueue;
use crate::history::History;
use crate::idle::Link;
use crate::parcel::{Record, Refusal, Up};
use crate::policy::RoomPolicy;
use crate::post_rates::PostBucket;
use crate::presence::Presence;
use crate::program::ClassName;
use crate::rates::RoomRate;
use crate::room_program::RoomProgram;
use crate::shares::Share;

/// A room.
///
/// Invariants: `members` counts the connections of `readers` by user, `cores` counts them by core; `head` is the last
/// place given, `history.head()` the last one that is committed and may be shown; they are equal when no commit is open.
#[derive(Debug)]
pub struct Room {
    /// What lanes know it by.
    pub id: RoomId,
    /// Its name.
    pub name: RoomName,
    /// Its history's name.
    pub epoch: Epoch,
    /// What holds for it.
    pub policy: RoomPolicy,
    /// What may be shown; of a logged room the part that memory holds.
    pub history: History,
    /// While something of it is being read from the log, or its program has to wait for the next turn: what came meanwhile, to be
    /// taken in that order.
    pub held: Option<Box<Held>>,
    /// Pages of it that are being read from the log.
    pub pages_read: u32,
    /// Messages that were committed in this turn, and go out with its end.
    pub fresh: Vec<Record>,
    /// Where its readers are.
    pub cores: SmallVec<[CoreShare; 2]>,
    /// What waits for a commit.
    pub queue: RoomQueue,
    /// Who came and went, as far as it is to be told, and whether it was told lately.
    pub presence: Option<Box<Presence>>,
    /// How many signals it still takes.
    pub signals: RoomRate,
    /// How many posts it still takes, where there is a limit.
    pub post_bucket: Option<Box<PostBucket>>,
    /// By which rates that is so; 0: it was not looked at yet.
    pub post_rates_version: u16,
    /// By which set of programs its own is known; 0: it was not looked at yet.
    pub program_version: u16,
    /// What it keeps for its program, where it has or had one.
    pub program: Option<Box<RoomProgram>>,
    /// How much of the core's history it holds.
    pub share: Share,
    /// Its place among the rooms that nobody reads.
    pub idle: Link,
    head: Sequence,
    members: BTreeMap<UserName, u32>,
    readers: FxHashMap<Peer, Reader>,
}

/// A connection that reads the room.
#[derive(Clone, Copy, Debug)]
struct Reader {
    wants_presence: bool,
    /// Of the room's classes, counted from 1; 0: of none.
    class: u8,
}

/// What waits for a room.
#[derive(Debug, Default)]
pub struct Held {
    /// In their order.
    pub parcels: VecDeque<Up>,
    /// Readings of the log that they wait for: keys, and the state of a program.
    pub readings: u8,
}

/// The readers on one core.
#[derive(Clone, Copy, Debug)]
pub struct CoreShare {
    /// The core.
    pub core: Core,
    /// Connections there.
    pub readers: u32,
    /// Those of them that want presence.
    pub watchers: u32,
    /// A batch was left out since the lane was full: nothing is sent until that is told.
    pub lagged: bool,
}

/// What a join or leave changed for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Nothing: a member has another connection.
    None,
    /// The user is there now, or no longer.
    Changed,
}

impl AsMut<Share> for Room {
    fn as_mut(&mut self) -> &mut Share {
        &mut self.share
    }
}

impl AsMut<Link> for Room {
    fn as_mut(&mut self) -> &mut Link {
        &mut self.idle
    }
}

impl Room {
    /// A room whose newest message has the place `head`, and with nothing of it in memory.
    pub fn new(id: RoomId, name: RoomName, policy: RoomPolicy, epoch: Epoch, head: Sequence) -> Self {
        Room {
            id,
            name,
            epoch,
            policy,
            history: History::behind(head),
            held: None,
            pages_read: 0,
            fresh: Vec::new(),
            cores: SmallVec::new(),
            queue: RoomQueue::default(),
            presence: None,
            signals: RoomRate::default(),
            post_bucket: None,
            post_rates_version: 0,
            program_version: 0,
            program: None,
            share: Share::default(),
            idle: Link::default(),
            head,
            members: BTreeMap::new(),
            readers: FxHashMap::default(),
        }
    }

    /// Whether nobody reads it.
    pub fn is_idle(&self) -> bool {
        self.readers.is_empty()
    }

    /// Whether it never had a message.
    pub fn is_blank(&self) -> bool {
        self.head == Sequence(0)
    }

    /// Whether something of it is under way: a post has a place and has not gone out yet, an answer waits, or
    /// something of it is being read from the log.
    pub fn is_busy(&self) -> bool {
        self.head != self.history.head()
            || !self.fresh.is_empty()
            || !self.queue.is_empty()
            || self.held.is_some()
            || self.pages_read > 0
    }

    /// The newest message that was sent to the cores of its readers. A page or a join reaches up to here and no further:
    /// what is ahead of it would look, to a core that reads the room, as if messages had been left out.
    pub fn shown(&self) -> Sequence {
        Sequence(self.history.head().0 - self.fresh.len() as u64)
    }

    /// The last place that was given.
    pub fn head(&self) -> Sequence {
        self.head
    }

    /// Whether a user reads it.
    pub fn has_member(&self, user: &UserName) -> bool {
        self.members.contains_key(user)
    }

    /// Members now.
    pub fn members_count(&self) -> u64 {
        self.members.len() as u64
    }

    /// Connections that read it.
    pub fn readers_count(&self) -> u64 {
        self.readers.len() as u64
    }

    /// The members by name, those behind one of them.
    pub fn members_after(&self, after: Option<&UserName>) -> impl Iterator<Item = &UserName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.members.range::<UserName, _>((from, Bound::Unbounded)).map(|(user, _)| user)
    }

    /// The first members by name, a line each.
    pub fn members_listed(&self) -> String {
        let mut users = String::new();
        for user in self.members.keys().take(MEMBERS_LISTED_MAX) {
            users.push_str(user.as_str());
            users.push('\n');
        }
        users
    }

    /// Whether that connection reads the room.
    pub fn has_reader(&self, peer: Peer) -> bool {
        self.readers.contains_key(&peer)
    }

    /// Whether a connection on that core reads the room.
    pub fn is_read_on(&self, core: Core) -> bool {
        self.cores.iter().any(|share| share.core == core)
    }

    /// The place behind which a join reads; `first_available` is the oldest message that memory or log holds.
    ///
    /// Who reads the room already goes on from there, since a join that only changes `presence` or `echo` may skip nothing;
    /// only a later cursor moves it on.
    ///
    /// # Errors
    /// `wrong_epoch` and `cursor_ahead`, which change nothing.
    pub fn start_of(
        &self,
        from: JoinFrom,
        read_already: Option<Cursor>,
        first_available: Sequence,
    ) -> Result<Sequence, Refusal> {
        let head = self.shown();
        let read = read_already.filter(|read| read.epoch == self.epoch).map(|read| read.sequence);
        match from {
            JoinFrom::Now => Ok(read.unwrap_or(head)),
            JoinFrom::Last(count) => {
                Ok(read.unwrap_or(Sequence(head.0.saturating_sub(count)).max(first_available.previous())))
            }
            JoinFrom::After(cursor) if cursor.epoch != self.epoch => Err(Refusal::new(
                ErrorCode::WrongEpoch,
                "the cursor belongs to another history of the room: join without it, and treat what you have as old",
            )),
            JoinFrom::After(cursor) if cursor.sequence > head => Err(Refusal::new(
                ErrorCode::CursorAhead,
                format!("the cursor is at {}, and the room's head at {}", cursor.sequence.0, head.0),
            )),
            JoinFrom::After(cursor) => Ok(read.map_or(cursor.sequence, |read| read.max(cursor.sequence))),
        }
    }

    /// Adds a reader, or changes what it wants.
    pub fn add_reader(&mut self, peer: Peer, user: &UserName, presence: bool) -> MemberChange {
        let before = self.readers.insert(peer, Reader { wants_presence: presence, class: 0 });
        if let Some(before) = before {
            self.leave_class(before);
        }
        let share = self.share_mut(peer.core);
        share.watchers += u32::from(presence);
        share.watchers -= u32::from(before.is_some_and(|before| before.wants_presence));
        if before.is_some() {
            return MemberChange::None;
        }
        share.readers += 1;
        let connections = self.members.entry(user.clone()).or_insert(0);
        *connections += 1;
        if *connections == 1 { MemberChange::Changed } else { MemberChange::None }
    }

    /// Whether one more reader can be of that class.
    pub fn takes_class(&self, name: &ClassName) -> bool {
        self.program.as_deref().is_some_and(|kept| place_of_class(kept, name).is_some())
    }

    /// The reader, which was just added, is of that class.
    pub fn put_into_class(&mut self, peer: Peer, name: Option<&ClassName>) {
        let Some((name, kept)) = name.zip(self.program.as_deref_mut()) else { return };
        let Some((place, reader)) = place_of_class(kept, name).zip(self.readers.get_mut(&peer)) else { return };
        if place == kept.classes.len() {
            kept.classes.push((name.clone(), 0));
        }
        let (there, readers) = &mut kept.classes[place];
        *readers += 1;
        if there != name {
            *there = name.clone();
        }
        reader.class = place as u8 + 1;
    }

    fn leave_class(&mut self, reader: Reader) {
        let place = usize::from(reader.class).checked_sub(1);
        if let Some((place, kept)) = place.zip(self.program.as_deref_mut())
            && let Some((_, readers)) = kept.classes.get_mut(place)
        {
            *readers -= 1;
        }
    }

    /// Takes a reader away; `None` if it was none.
    pub fn remove_reader(&mut self, peer: Peer, user: &UserName) -> Option<MemberChange> {
        let reader = self.readers.remove(&peer)?;
        self.leave_class(reader);
        let presence = reader.wants_presence;
        let share = self.share_mut(peer.core);
        share.readers -= 1;
        share.watchers -= u32::from(presence);
        self.cores.retain(|share| share.readers > 0);
        match self.members.get_mut(user) {
            Some(connections) if *connections > 1 => {
                *connections -= 1;
                Some(MemberChange::None)
            }
            _ => {
                self.members.remove(user);
                Some(MemberChange::Changed)
            }
        }
    }

    fn share_mut(&mut self, core: Core) -> &mut CoreShare {
        let at = self.cores.iter().position(|share| share.core == core).unwrap_or_else(|| {
            self.cores.push(CoreShare { core, readers: 0, watchers: 0, lagged: false });
            self.cores.len() - 1
        });
        &mut self.cores[at]
    }

    /// Gives the next place.
    pub fn next_place(&mut self) -> Sequence {
        self.head = self.head.next();
        self.head
    }

    /// Takes back the places that were given behind the newest message: their posts are refused.
    pub fn take_back(&mut self) {
        self.head = self.history.head();
    }
}

/// The place of a class, or one that it may have.
fn place_of_class(kept: &RoomProgram, name: &ClassName) -> Option<usize> {
    let classes = &kept.classes;
    let there = classes.iter().position(|(there, readers)| there == name && *readers > 0);
    let free = || classes.iter().position(|(_, readers)| *readers == 0);
    there.or_else(free).or(Some(classes.len()).filter(|&place| place < VIEWS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::ConnectionId;
    use crate::policy::{Durability, RoomPolicies};

    fn room() -> Room {
        let policy = RoomPolicies::all(Durability::Memory).otherwise;
        Room::new(RoomId::of("lobby"), RoomName::new("lobby").unwrap(), policy, Epoch(5), Sequence(0))
    }

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    fn peer(core: u16, slot: u32) -> Peer {
        Peer { core: Core(core), connection: ConnectionId { slot, generation: 1 } }
    }

    #[test]
    fn a_room_is_small() {
        // Of a limit of posts and of a program that it does not have it keeps two pointers and four bytes.
        assert!(size_of::<Room>() <= 400, "{}", size_of::<Room>());
    }

    #[test]
    fn two_connections_of_a_user_are_one_member() {
        let mut room = room();
        assert_eq!(room.add_reader(peer(0, 1), &user("ann"), false), MemberChange::Changed);
        assert_eq!(room.add_reader(peer(1, 1), &user("ann"), true), MemberChange::None);
        assert_eq!(room.members_count(), 1);
        assert_eq!(room.cores.len(), 2);
        assert_eq!(room.remove_reader(peer(0, 1), &user("ann")), Some(MemberChange::None));
        assert_eq!(room.remove_reader(peer(0, 1), &user("ann")), None, "once is enough");
        assert_eq!(room.remove_reader(peer(1, 1), &user("ann")), Some(MemberChange::Changed));
        assert!(room.is_idle() && room.cores.is_empty());
        assert_eq!(room.members_count(), 0);
    }

    #[test]
    fn a_room_has_so_many_classes_at_a_time_and_one_that_nobody_is_of_makes_place() {
        let mut room = room();
        let class = |number: usize| ClassName::new(&format!("class {number}")).unwrap();
        assert!(!room.takes_class(&class(0)), "without a program there is none");
        room.program = Some(Box::default());
        for number in 0..VIEWS_MAX as u32 {
            assert!(room.takes_class(&class(number as usize)));
            room.add_reader(peer(0, number), &user("ann"), false);
            room.put_into_class(peer(0, number), Some(&class(number as usize)));
        }
        assert!(room.takes_class(&class(3)) && !room.takes_class(&class(VIEWS_MAX)));
        // One reader leaves, and another joins again as somebody else.
        room.remove_reader(peer(0, 3), &user("ann"));
        assert!(room.takes_class(&class(VIEWS_MAX)));
        room.add_reader(peer(0, 4), &user("ann"), false);
        room.put_into_class(peer(0, 4), Some(&class(VIEWS_MAX)));
        assert!(room.takes_class(&class(VIEWS_MAX + 1)), "nobody is of its class before any more");
    }

    #[test]
    fn joining_again_changes_what_is_wanted_and_counts_once() {
        let mut room = room();
        room.add_reader(peer(0, 1), &user("ann"), true);
        room.add_reader(peer(0, 1), &user("ann"), true);
        assert_eq!((room.cores[0].readers, room.cores[0].watchers), (1, 1));
        room.add_reader(peer(0, 1), &user("ann"), false);
        assert_eq!((room.cores[0].readers, room.cores[0].watchers), (1, 0));
    }

    #[test]
    fn the_list_of_members_is_bounded_and_by_name() {
        let mut room = room();
        for number in (0..150).rev() {
            room.add_reader(peer(0, number), &user(&format!("user-{number:03}")), false);
        }
        let users = room.members_listed();
        assert_eq!(room.members_count(), 150);
        assert_eq!(users.lines().count(), MEMBERS_LISTED_MAX);
        assert_eq!(users.lines().next(), Some("user-000"));
    }

    #[test]
    fn a_cursor_of_another_history_or_ahead_is_refused() {
        let room = room();
        let cursor = |epoch, sequence| JoinFrom::After(Cursor { epoch: Epoch(epoch), sequence: Sequence(sequence) });
        assert_eq!(room.start_of(cursor(4, 0), None, Sequence(1)).unwrap_err().code, ErrorCode::WrongEpoch);
        assert_eq!(room.start_of(cursor(5, 1), None, Sequence(1)).unwrap_err().code, ErrorCode::CursorAhead);
        assert_eq!(room.start_of(cursor(5, 0), None, Sequence(1)), Ok(Sequence(0)));
    }

    #[test]
    fn a_connection_that_joins_again_gets_nothing_twice_and_misses_nothing() {
        let mut room = room();
        for place in 1..=10 {
            let frame = b"x"[..].into();
            room.history.push(Record { sequence: Sequence(place), frame, author: peer(0, 0) });
        }
        let read = |sequence| Some(Cursor { epoch: Epoch(5), sequence: Sequence(sequence) });
        assert_eq!(room.start_of(JoinFrom::Last(5), None, Sequence(1)), Ok(Sequence(5)));
        assert_eq!(room.start_of(JoinFrom::Last(5), read(8), Sequence(1)), Ok(Sequence(8)));
        assert_eq!(room.start_of(JoinFrom::Last(50), None, Sequence(1)), Ok(Sequence(0)));
        assert_eq!(room.start_of(JoinFrom::Last(5), read(2), Sequence(1)), Ok(Sequence(2)));
        assert_eq!(room.start_of(JoinFrom::Now, None, Sequence(1)), Ok(Sequence(10)));
        assert_eq!(room.start_of(JoinFrom::Now, read(8), Sequence(1)), Ok(Sequence(8)));
        let after = |sequence| JoinFrom::After(Cursor { epoch: Epoch(5), sequence: Sequence(sequence) });
        assert_eq!(room.start_of(after(9), read(8), Sequence(1)), Ok(Sequence(9)));
        assert_eq!(room.start_of(after(3), read(8), Sequence(1)), Ok(Sequence(8)));
        let of_another_history = Some(Cursor { epoch: Epoch(4), sequence: Sequence(8) });
        assert_eq!(room.start_of(JoinFrom::Now, of_another_history, Sequence(1)), Ok(Sequence(10)));
    }
}
