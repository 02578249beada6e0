//! What all clients together have to agree on, whatever the order was in which it came to them.

use std::collections::{BTreeMap, HashMap, HashSet};

use banter_chat::limits::Limits;

use super::coverage::Coverage;
use super::keys::Keys;
use super::wire::Said;

/// One room's one history.
pub type Place = (String, u64);

/// Which client, and which of its connections.
pub type Voice = (usize, u32);

/// The oldest message that a history has.
#[derive(Clone, Copy, Debug, Default)]
struct First {
    /// Now.
    now: u64,
    /// When no cut was being told.
    settled: u64,
    /// The latest that it ever had and is in front of now: what was out of sight came back.
    regained: u64,
}

/// Everything that was ever seen or acknowledged.
#[derive(Default)]
pub struct Truth {
    /// Messages by place, as whoever saw them first had them.
    pub messages: HashMap<Place, BTreeMap<u64, Said>>,
    /// Acknowledged places, and whose they are.
    pub acknowledged: BTreeMap<(String, u64, u64), (Voice, Vec<u8>)>,
    /// What was posted in the places that were told, over all starts of the server.
    told: HashMap<Place, BTreeMap<u64, Vec<u8>>>,
    /// Epochs that rooms were told under since the power went last.
    epochs_told: HashSet<Place>,
    /// The power went at some time: what was only written may lack what is before it.
    pub power_went: bool,
    /// What `echo: false` left out, to be proved to be the reader's own.
    spared: Vec<(String, u64, u64, Voice)>,
    /// What came to a reader with `echo: false`, to be proved to be somebody else's.
    unspared: Vec<(String, u64, u64, Voice)>,
    /// The oldest message that each history still has.
    first_available: HashMap<Place, First>,
    /// A segment was dropped whose index could not be read: what the server says of beginnings comes too early.
    pub first_lags: bool,
    /// Places that hold no message any more, or never did: what was erased.
    pub emptied: HashSet<(String, u64, u64)>,
    /// Posts with a key.
    pub keys: Keys,
    /// The world's monotonic clock.
    pub now_ms: u64,
    /// Where tokens are asked for: what is asked now is asked at that moment.
    pub moment: u64,
    /// When each body was first asked to be posted in a room.
    asked: HashMap<(String, Vec<u8>), u64>,
    /// Posts that may have no place: their authors had no right to write.
    refused: HashSet<(String, Vec<u8>)>,
}

impl Truth {
    /// Somebody asks to post that.
    pub fn asked(&mut self, room: &str, body: &[u8]) {
        if self.moment > 0 {
            self.asked.entry((room.to_owned(), body.to_vec())).or_insert(self.moment);
        }
    }

    /// When that was first asked to be posted, where tokens are asked for.
    pub fn asked_at(&self, room: &str, body: &[u8]) -> Option<u64> {
        self.asked.get(&(room.to_owned(), body.to_vec())).copied()
    }

    /// A post of which there is only this one was handed in without the right to it.
    pub fn refused(&mut self, room: &str, body: &[u8]) {
        self.refused.insert((room.to_owned(), body.to_vec()));
    }

    /// Whether that may have no place.
    pub fn is_refused(&self, room: &str, body: &[u8]) -> bool {
        !self.refused.is_empty() && self.refused.contains(&(room.to_owned(), body.to_vec()))
    }

    /// Somebody saw a message.
    pub fn saw(&mut self, said: &Said) {
        assert!(said.sequence > 0, "places start with 1");
        let room = self.messages.entry((said.room.clone(), said.epoch)).or_default();
        let known = room.entry(said.sequence).or_insert_with(|| said.clone());
        assert_eq!(known, said, "everybody sees the same message in a place");
        let told = self.told.get(&(said.room.clone(), said.epoch)).and_then(|room| room.get(&said.sequence));
        assert!(told.is_none_or(|told| *told == said.body), "{said:?} is not what was told of its place");
        if let Some(key) = &said.key {
            let place = (said.room.as_str(), said.epoch, said.sequence);
            self.keys.placed(place, (&said.user, key), None, self.now_ms);
        }
    }

    /// A post was answered with a place.
    pub fn acknowledged(
        &mut self,
        place: (String, u64, u64),
        voice: Voice,
        user: &str,
        key: Option<&str>,
        (body, asked_ms): (&[u8], u64),
    ) {
        if let Some(key) = key {
            self.keys.placed((&place.0, place.1, place.2), (user, key), Some(asked_ms), self.now_ms);
        }
        self.is_told(&place, body);
        let before = self.acknowledged.insert(place.clone(), (voice, body.to_vec()));
        assert!(before.is_none(), "place {place:?} was given to {before:?} and to {voice:?}");
    }

    /// A place names one message, for ever.
    fn is_told(&mut self, (room, epoch, sequence): &(String, u64, u64), body: &[u8]) {
        let place = (room.clone(), *epoch);
        let shown = self.messages.get(&place).and_then(|room| room.get(sequence));
        assert!(shown.is_none_or(|shown| shown.body == body), "{place:?} {sequence} was shown as {shown:?}");
        let told = self.told.entry(place).or_default().entry(*sequence).or_insert_with(|| body.to_vec());
        assert_eq!(told, body, "{room} {epoch} {sequence} is told of two messages");
    }

    /// A repeated post was answered with the place of the first.
    pub fn repeated(&mut self, (room, epoch, sequence): (&str, u64, u64), (user, key): (&str, &str), body: &[u8]) {
        self.is_told(&(room.to_owned(), epoch, sequence), body);
        // The first one's answer may have been lost with its connection, so the place may be new here.
        self.keys.placed((room, epoch, sequence), (user, key), None, self.now_ms);
    }

    /// A reader that does not want its own posts was not sent these.
    pub fn spared(&mut self, room: &str, epoch: u64, places: std::ops::Range<u64>, voice: Voice) {
        self.spared.extend(places.map(|place| (room.to_owned(), epoch, place, voice)));
    }

    /// A reader that does not want its own posts was sent this one.
    pub fn unspared(&mut self, room: &str, epoch: u64, place: u64, voice: Voice) {
        self.unspared.push((room.to_owned(), epoch, place, voice));
    }

    /// What a history still has, from the server itself.
    pub fn has_from(&mut self, room: &str, epoch: u64, first_available: u64) {
        let first = self.first_available.entry((room.to_owned(), epoch)).or_default();
        // Where all of a class is gone, what lies before it in another is in sight again, and what was told meanwhile is still on
        // its way.
        if first_available < first.settled {
            first.regained = first.regained.max(first.settled);
        }
        (first.now, first.settled) = (first_available, first_available);
    }

    /// A history of which a cut is being told: for the moment it has nothing before that place.
    pub fn has_from_for_now(&mut self, room: &str, epoch: u64, first_available: u64) {
        self.first_available.entry((room.to_owned(), epoch)).or_default().now = first_available;
    }

    /// A reader was told the room's epoch.
    pub fn joined(&mut self, room: &str, epoch: u64) {
        self.epochs_told.insert((room.to_owned(), epoch));
    }

    /// The power went: what was told of rooms without messages may be another's from now on.
    pub fn power_is_gone(&mut self) {
        self.blank_rooms_begin_anew();
        self.power_went = true;
    }

    /// Rooms without messages may be told under another epoch from now on.
    pub fn blank_rooms_begin_anew(&mut self) {
        self.epochs_told.clear();
    }

    /// Whether a room was told under that epoch, and nothing came since that gives rooms without messages another.
    pub fn is_lasting(&self, room: &str, epoch: u64) -> bool {
        self.epochs_told.contains(&(room.to_owned(), epoch))
    }

    /// The server died: what it said last of its histories no longer holds.
    pub fn server_is_gone(&mut self) {
        self.first_available.clear();
        self.keys.server_is_gone(self.now_ms);
    }

    /// A place behind `head` that was acknowledged or shown in a history.
    pub fn known_behind(&self, room: &str, epoch: u64, head: u64) -> Option<u64> {
        let behind = (room.to_owned(), epoch, head + 1)..=(room.to_owned(), epoch, u64::MAX);
        let acknowledged = self.acknowledged.range(behind).next().map(|((_, _, place), _)| *place);
        let shown = || self.messages.get(&(room.to_owned(), epoch))?.range(head + 1..).next().map(|(place, _)| *place);
        acknowledged.or_else(shown)
    }

    /// Whether anything was acknowledged in a room.
    pub fn was_acknowledged(&self, room: &str) -> bool {
        self.acknowledged_elsewhere(room, u64::MAX).is_some()
    }

    /// Whether anything was acknowledged in a room under another epoch than that.
    pub fn acknowledged_elsewhere(&self, room: &str, epoch: u64) -> Option<u64> {
        let all = (room.to_owned(), 0, 0)..=(room.to_owned(), u64::MAX, u64::MAX);
        self.acknowledged.range(all).map(|((_, epoch, _), _)| *epoch).find(|&other| other != epoch)
    }

    /// A reader was told that the history no longer has what is up to there.
    pub fn gap(&self, room: &str, epoch: u64, to: u64) {
        let first =
            self.first_available.get(&(room.to_owned(), epoch)).map_or(0, |first| first.now.max(first.regained));
        assert!(
            to < first || self.first_lags,
            "{room}: a gap up to {to}, and the history has everything from {first} on"
        );
    }

    /// A reader was told that there is no message in a place, while those around it are there.
    pub fn lacks(&self, room: &str, epoch: u64, sequence: u64) {
        let is_emptied = self.emptied.contains(&(room.to_owned(), epoch, sequence));
        assert!(is_emptied, "{room} {epoch}: nothing is told to be at {sequence}, in the midst of a page");
    }

    /// Checks what can be said only at the end. `limits` are given where no key went for want of bytes, and every message
    /// was seen by somebody, so that those between two can be counted.
    pub fn check(&self, limits: Option<&Limits>, seen: &mut Coverage) {
        for ((room, epoch, sequence), (_, body)) in &self.acknowledged {
            if let Some(said) = self.messages.get(&(room.clone(), *epoch)).and_then(|room| room.get(sequence)) {
                assert_eq!(&said.body, body, "{room} {sequence}: what was acknowledged is what was delivered");
            }
        }
        for (room, epoch, sequence, voice) in &self.spared {
            // Vanished with its connection, an own post may have no acknowledgement; then its user must be right.
            if let Some((author, _)) = self.acknowledged.get(&(room.clone(), *epoch, *sequence)) {
                assert_eq!(author, voice, "{room} {sequence} was left out as an own post");
            }
        }
        for (room, epoch, sequence, voice) in &self.unspared {
            let author = self.acknowledged.get(&(room.clone(), *epoch, *sequence)).map(|(author, _)| author);
            assert_ne!(author, Some(voice), "{room} {sequence} came to its author, who has echo: false");
        }
        for ((room, epoch), messages) in &self.messages {
            let times = messages.values().map(|said| said.time_ms);
            assert!(times.is_sorted(), "{room} {epoch}: no message is older than the one before it");
        }
        let Some(limits) = limits else { return };
        let is_whole = |place: &Place, first: u64, second: u64| {
            let messages = self.messages.get(place);
            messages.is_some_and(|messages| messages.range(first + 1..second).count() as u64 == second - first - 1)
        };
        self.keys.check(limits, is_whole, seen);
    }
}
