//! What must hold of the simulated world: in every turn its limits, and at rest all that was promised.

use std::collections::{BTreeMap, BTreeSet};

use banter_access::limit::Limit;
use banter_chat::address::ConnectionId;
use banter_chat::history::RECORD_OVERHEAD_BYTES;
use banter_chat::room::Room;
use banter_chat::rooms::Rooms;
use banter_log::reading::ReadFault;
use banter_protocol::ids::Sequence;
use banter_protocol::request::FetchFrom;

use super::{Event, World};
use crate::sim::client::{Client, HeardPage, Reading};
use crate::sim::profile::HISTORY_BYTES_PLENTY;
use crate::sim::scripted;

/// Bytes beyond `outbox_bytes_max` that the answer to one request may take.
const ONE_ANSWER_BYTES: u64 = 32 * 1_024;
/// More bytes of a run than any seed fills while its readers take everything.
const RUN_BYTES_PLENTY: u32 = 256 * 1_024;
/// Bytes of a message's frame beside the padding of its body, at most: the archive, the names, the key, the text.
const FRAME_BYTES_BESIDE_PADDING: u64 = 160;

/// Times that a client asks for a page while nothing else happens.
const FETCHES_AT_REST_MAX: usize = 4;

impl World {
    /// No more wishes: everything under way arrives, and then everything must be right.
    pub fn come_to_rest(&mut self) {
        self.rest();
        let is_reading = |client: &&Client| client.connection.is_some() && !self.is_dead(client.number);
        if self.is_draining {
            assert_eq!(self.clients.iter().filter(is_reading).count(), 0, "a stopping server ends connections");
        }
        self.cut_dead();
        if self.is_draining {
            assert!(self.cores.iter().all(|core| core.shard.is_drained()), "a stopping server has an end");
            self.seen.saw("drained");
        }
        let limited = self.cores.iter().map(|core| core.shard.counters().limits.refused(Limit::RoomPosts));
        self.seen.saw_times("room took no more posts", limited.sum());
        self.check_answered();
        self.check_members();
        self.check_standings();
        self.check_users();
        self.read_everything();
        self.check_answered();
        self.check_read();
        self.truth.check(self.profile.window_limits(), &mut self.seen);
    }

    fn is_dead(&self, number: usize) -> bool {
        let connection = self.clients[number].connection.as_ref();
        connection.is_some_and(|there| self.cores[there.core.index()].sockets[there.id.slot as usize].is_dead)
    }

    /// Those that never read go; a stopping server would cut them off with `drain_timeout_ms`.
    pub(super) fn cut_dead(&mut self) {
        for number in 0..self.clients.len() {
            if self.is_dead(number) {
                self.cut(number);
            }
        }
        self.rest();
    }

    fn check_answered(&self) {
        for client in &self.clients {
            if let Some(connection) = &client.connection {
                assert!(
                    connection.asked.is_empty(),
                    "client {} waits for answers: {:?}",
                    client.number,
                    connection.asked
                );
            }
        }
    }

    fn room_on_server(&self, name: &str) -> Option<(&Rooms, &Room)> {
        let rooms = self.cores.iter().map(|core| core.shard.rooms());
        let mut found = rooms.flat_map(|rooms| rooms.iter().map(move |room| (rooms, room)));
        found.find(|(_, room)| room.name.as_str() == name)
    }

    /// Who is where: what the server says is what the clients know.
    fn check_members(&self) {
        for number in 0..self.profile.rooms {
            let name = format!("room-{number}");
            let readers = || {
                self.clients.iter().filter_map(|client| {
                    let reading = client.connection.as_ref()?.readings.get(&name)?;
                    Some((client, reading))
                })
            };
            let users: BTreeSet<&str> = readers().map(|(client, _)| client.user.as_str()).collect();
            let listed = self.room_on_server(&name).map(|(_, room)| room.members_listed()).unwrap_or_default();
            assert_eq!(listed.lines().collect::<BTreeSet<_>>(), users, "members of {name}");
            let is_told = |client: &Client, reading: &Reading| reading.presence && self.is_told_presence(client, &name);
            for (client, reading) in readers().filter(|(client, reading)| is_told(client, reading)) {
                let number = client.number;
                assert_eq!(reading.members, users.len() as u64, "{name}: members as client {number} was told last");
            }
        }
    }

    /// Nobody has more connections than may be, and the homes know no others than there are.
    fn check_users(&self) {
        let connections_max = self.profile.limits.connections_per_user_max as usize;
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        for core in &self.cores {
            let sessions = (0..core.sockets.len()).filter_map(|slot| core.shard.sessions().session(core.id(slot)));
            for user in sessions.filter(|session| session.is_open()).filter_map(|session| session.user.as_ref()) {
                *users.entry(user.as_str()).or_default() += 1;
            }
        }
        let known: usize = self.cores.iter().map(|core| core.shard.homes().connections_count()).sum();
        if connections_max == 0 {
            assert_eq!(known, 0, "without a limit nobody is counted");
            return;
        }
        assert_eq!(known, users.values().sum::<usize>(), "connections that the homes know: {users:?}");
        assert!(users.values().all(|&count| count <= connections_max), "a user has too many: {users:?}");
    }

    /// Fetches every history that somebody is connected to ask for.
    fn read_everything(&mut self) {
        for number in 0..self.profile.rooms {
            let room = format!("room-{number}");
            let Some(asker) = self.asker() else { return };
            if self.room_on_server(&room).is_none() {
                // It may lie in the log alone; to ask for it brings it to memory.
                let _ = self.fetch_at_rest(asker, &room, FetchFrom::After(Sequence(0)));
            }
            let Some((epoch, first, head)) = self
                .room_on_server(&room)
                .map(|(rooms, room)| (room.epoch.0, rooms.history_start(room).0, room.history.head().0))
            else {
                assert!(!self.is_kept(&room) || !self.truth.was_acknowledged(&room), "{room} is gone");
                continue;
            };
            if self.is_kept(&room) {
                let elsewhere = self.truth.acknowledged_elsewhere(&room, epoch);
                assert_eq!(
                    elsewhere, None,
                    "{room} goes on as {epoch}, and something was acknowledged in another history"
                );
            }
            assert_eq!(self.truth.known_behind(&room, epoch, head), None, "{room} ends at {head}");
            self.check_first(&room, first, head);
            let mut after = first - 1;
            while after < head {
                let Some(page) = self.fetch_at_rest(asker, &room, FetchFrom::After(Sequence(after))) else { return };
                if self.rots() && page.places.is_none() {
                    break;
                }
                let (start, end) = page.places.expect("a page that is not the last one holds something");
                // A reader that comes upon damage goes on behind it.
                let is_next = start == after + 1 || (self.rots() && start > after);
                assert!(is_next && page.more == (end < head), "{room} from {after} to {head}: {page:?}");
                after = end;
            }
            let mut before = head + 1;
            while before > first {
                let Some(page) = self.fetch_at_rest(asker, &room, FetchFrom::Before(Sequence(before))) else { return };
                if self.rots() && page.places.is_none() {
                    break;
                }
                let (start, end) = page.places.expect("a page that is not the first one holds something");
                let more = page.more == (start > first) || (self.rots() && !page.more);
                assert!(end + 1 == before && more, "{room} before {before}: {page:?}");
                before = start;
            }
            let seen = self.truth.messages.get(&(room.clone(), epoch));
            let has = |place| seen.is_some_and(|seen| seen.contains_key(&place));
            assert!(self.rots() || (first..=head).all(has), "{room}: all from {first} to {head} was seen");
        }
    }

    /// What a reader came upon: damage only where there is some, and what could not be read where a read or an index failed.
    pub(super) fn check_read_faults(&mut self, own: usize) {
        for (_, fault) in self.cores[own].shard.take_read_faults() {
            if self.plan.verbose {
                println!("    core {own} came upon {fault:?}");
            }
            match fault {
                ReadFault::Damaged { segment, .. } | ReadFault::StateDamaged { segment } => {
                    assert!(self.disk.rotten.contains(&segment), "segment {segment} is whole, and counts as damaged");
                    self.seen.saw("damage found by a reader");
                }
                ReadFault::Unreadable { .. } => self.seen.saw("read came to nothing"),
            }
        }
    }

    /// Whether what was written may be damaged.
    fn rots(&self) -> bool {
        !self.disk.rotten.is_empty() || self.truth.first_lags
    }

    /// Whether the log has to hold everything that was ever acknowledged in a room.
    fn is_kept(&self, room: &str) -> bool {
        self.profile.keeps(room)
    }

    /// What a client gets that fetches while nothing else happens; `None` if it was taken for gone meanwhile. Where an index
    /// has to be made again it is told to come again, and does.
    fn fetch_at_rest(&mut self, asker: usize, room: &str, from: FetchFrom) -> Option<HeardPage> {
        for _ in 0..FETCHES_AT_REST_MAX {
            let there = self.clients[asker].connection.as_mut()?;
            there.last_page = None;
            let (core, slot) = (there.core.index(), there.id.slot);
            let wish = self.clients[asker].fetch(room.to_owned(), from, None);
            self.cores[core].events.push_back(Event::Wish(slot, wish));
            self.rest();
            let page = self.clients[asker].connection.as_mut()?.last_page.take();
            if page.is_some() {
                return page;
            }
        }
        None
    }

    /// Every reader has everything up to the head.
    pub(super) fn check_read(&mut self) {
        let mut readings = std::mem::take(&mut self.ended);
        for client in &self.clients {
            let Some(connection) = &client.connection else { continue };
            let voice = (client.number, client.connections);
            readings.extend(connection.readings.iter().map(|(room, reading)| (voice, room.clone(), reading.clone())));
        }
        for (voice, name, reading) in readings {
            let Some((_, room)) = self.room_on_server(&name).filter(|(_, room)| room.epoch.0 == reading.epoch) else {
                continue;
            };
            let head = room.history.head().0;
            let position = reading.position.unwrap_or_else(|(_, high)| high);
            if reading.echo {
                assert_eq!(position, head, "{name}: how far client {} has read", voice.0);
            } else {
                assert!(position <= head);
                self.truth.spared(&name, reading.epoch, position + 1..head + 1, voice);
            }
        }
    }

    /// All connections go, and nothing may stay of them.
    pub fn everybody_leaves(&mut self) {
        for number in 0..self.clients.len() {
            self.cut(number);
        }
        self.rest();
        let lagged: u64 = self.cores.iter().map(|core| core.shard.counters().batches_lagged).sum();
        for core in &self.cores {
            let counters = core.shard.counters();
            if lagged == 0 {
                assert_eq!(counters.fell_behind_by_lag, 0, "fell behind, and every batch went out");
            }
            let is_roomy = self.profile.limits.run_bytes_max >= RUN_BYTES_PLENTY;
            if is_roomy && !self.seen.0.contains_key("stalled") {
                assert_eq!(counters.fell_behind_by_run, 0, "fell behind, and took everything at once");
            }
            assert_eq!((counters.connections, counters.subscriptions, counters.subscriptions_behind), (0, 0, 0));
            assert_eq!(core.shard.homes().connections_count(), 0, "who went is counted no more");
            assert_eq!((counters.run_bytes, core.shard.sessions().open_count()), (0, 0));
            assert!(core.shard.rooms().iter().all(|room| room.is_idle() && room.members_count() == 0));
            assert!(core.shard.rooms().journal().is_none_or(|log| !log.has_work()), "what takes several turns is done");
            self.seen.saw_times("fell behind", counters.fell_behind);
            self.seen.saw_times("batch lagged", counters.batches_lagged);
            self.seen.saw_times("connection paused", counters.pauses);
            self.seen.saw_times("signal dropped", counters.signals_dropped);
            self.seen.saw_times("key evicted for bytes", counters.dedupe_early_evictions);
        }
        let rooms: BTreeSet<&String> = self.truth.messages.keys().map(|(room, _)| room).collect();
        self.seen.saw_times("room forgotten", (self.truth.messages.len() - rooms.len()) as u64);
    }

    pub(super) fn check_limits(&mut self, own: usize) {
        let limits = &self.profile.limits;
        let core = &self.cores[own];
        for (slot, socket) in core.sockets.iter().enumerate() {
            let id = ConnectionId { slot: slot as u32, generation: socket.generation };
            let Some(session) = core.shard.sessions().session(id) else { continue };
            let most = u64::from(limits.outbox_bytes_max) + ONE_ANSWER_BYTES;
            assert!(session.waiting_bytes() <= most, "{} bytes wait for a connection", session.waiting_bytes());
            assert!(session.subscriptions.len() <= limits.rooms_per_connection_max as usize);
        }
        let (waiting, local, size) = core.shard.lanes().depth();
        assert!(local <= size, "the lane of a core to itself holds {local}");
        self.seen.saw_times("waited for a lane", u64::from(waiting > 0));
        self.check_history(own);
    }

    /// The history of a core's rooms: within its limits, counted right, and cut only where a limit says so.
    fn check_history(&mut self, own: usize) {
        let limits = &self.profile.limits;
        let rooms = self.cores[own].shard.rooms();
        let (bytes, records) = rooms.kept();
        assert!(bytes <= limits.history_bytes_per_core_max, "{bytes} bytes of history");
        assert_eq!(records, rooms.iter().map(|room| room.history.len()).sum::<usize>(), "messages of all histories");
        // With a program a message may have a view for each class.
        let bodies = if self.profile.has_program { 1 + scripted::CLASSES.len() as u64 } else { 1 };
        let body_bytes_max = FRAME_BYTES_BESIDE_PADDING + self.profile.body_bytes_max as u64;
        let most = RECORD_OVERHEAD_BYTES + bodies * body_bytes_max;
        let fits = records as u64 * RECORD_OVERHEAD_BYTES..=records as u64 * most;
        assert!(fits.contains(&bytes), "{bytes} bytes are counted for {records} messages");
        for room in rooms.iter() {
            let (first, head) = (room.history.first_available().0, room.history.head().0);
            assert_eq!(head + 1 - first, room.history.len() as u64, "a history is dense and ends with its head");
            if room.policy.durability.is_logged() {
                // While a cut is being told to rooms, more of them is out of sight than they know.
                let is_cut = rooms.journal().is_some_and(|log| log.has_work());
                match is_cut {
                    true => self.truth.has_from_for_now(room.name.as_str(), room.epoch.0, head + 1),
                    false => self.truth.has_from(room.name.as_str(), room.epoch.0, rooms.history_start(room).0),
                }
                continue;
            }
            assert!(room.history.len() <= limits.history_messages_max as usize);
            // Where bytes are no limit, only the number of messages cuts.
            let least = if limits.history_bytes_per_core_max == HISTORY_BYTES_PLENTY {
                head.min(limits.history_messages_max.into())
            } else {
                0
            };
            assert!(room.history.len() as u64 >= least, "{:?} was cut below {first}, at {head}", room.name);
            self.truth.has_from(room.name.as_str(), room.epoch.0, first);
        }
    }
}
