//! What must hold of posts with a key: the same one takes a second place only where its key may have been forgotten.
//!
//! The server judges a post at some moment between the client's question and what the client hears of it; so two places
//! are known to be nearer to each other than from the first one's earliest moment to the second one's latest.

use std::collections::{BTreeMap, HashMap};

use banter_chat::limits::Limits;

use super::coverage::Coverage;
use super::truth::Place;

/// A room, a user, and a key of theirs.
type OfKey = (String, String, String);

/// Every keyed post that somebody asked for, was answered, or saw.
#[derive(Default)]
pub struct Keys {
    /// When it was asked for first, by the world's monotonic clock.
    asked_ms: HashMap<OfKey, u64>,
    /// How many keyed posts of a user a room was asked for, answered or not.
    asks: HashMap<(String, String), u32>,
    places: BTreeMap<Place, BTreeMap<u64, Keyed>>,
    /// When the server died last.
    gone_ms: u64,
}

struct Keyed {
    user: String,
    key: String,
    earliest_ms: u64,
    latest_ms: u64,
}

impl Keys {
    /// A client asks for a keyed post.
    pub fn asked(&mut self, room: &str, user: &str, key: &str, now_ms: u64) {
        self.asked_ms.entry((room.to_owned(), user.to_owned(), key.to_owned())).or_insert(now_ms);
        *self.asks.entry((room.to_owned(), user.to_owned())).or_default() += 1;
    }

    /// A client learns of a keyed post in that place, which was asked for at `asked_ms` if that is known.
    pub fn placed(
        &mut self,
        (room, epoch, sequence): (&str, u64, u64),
        (user, key): (&str, &str),
        asked_ms: Option<u64>,
        now_ms: u64,
    ) {
        let first_ms = || self.asked_ms.get(&(room.to_owned(), user.to_owned(), key.to_owned())).copied();
        let earliest_ms = asked_ms.or_else(first_ms).expect("somebody asked for it");
        let room = self.places.entry((room.to_owned(), epoch)).or_default();
        let whose = (user, key);
        let (user, key) = (user.to_owned(), key.to_owned());
        let place = room.entry(sequence).or_insert(Keyed { user, key, earliest_ms, latest_ms: now_ms });
        assert_eq!((place.user.as_str(), place.key.as_str()), whose, "whose a place is");
        place.earliest_ms = place.earliest_ms.max(earliest_ms);
        place.latest_ms = place.latest_ms.min(now_ms);
    }

    /// The server died.
    pub fn server_is_gone(&mut self, now_ms: u64) {
        self.gone_ms = now_ms;
    }

    /// When the server died last.
    pub fn gone_ms(&self) -> u64 {
        self.gone_ms
    }

    /// Whether that place was known before the server died last.
    pub fn is_of_earlier_run(&self, room: &str, epoch: u64, sequence: u64) -> bool {
        let place = self.places.get(&(room.to_owned(), epoch)).and_then(|room| room.get(&sequence));
        place.is_some_and(|place| place.latest_ms < self.gone_ms)
    }

    /// Checks a history all of whose messages were seen, but for those that `is_whole` denies of a range of places.
    pub fn check(&self, limits: &Limits, is_whole: impl Fn(&Place, u64, u64) -> bool, seen: &mut Coverage) {
        for (place, keyed) in &self.places {
            let mut before: HashMap<(&str, &str), (u64, u64, u32)> = HashMap::new();
            let mut posts: HashMap<&str, u32> = HashMap::new();
            for (&sequence, Keyed { user, key, earliest_ms, latest_ms }) in keyed {
                let number = posts.entry(user).or_default();
                *number += 1;
                let last = before.insert((user, key), (sequence, *earliest_ms, *number));
                let Some((first, first_ms, first_number)) = last else { continue };
                // Where not all between them was seen, the user has posted there at most as often as it was asked for.
                let posts_between = match is_whole(place, first, sequence) {
                    true => *number - first_number,
                    false => self.asks.get(&(place.0.clone(), user.clone())).copied().unwrap_or(u32::MAX),
                };
                let is_pushed_out = posts_between > limits.dedupe_keys_per_author_max;
                let is_old = latest_ms - first_ms > limits.dedupe_window_ms.into();
                seen.saw_times("key pushed out by its author", u64::from(is_pushed_out));
                seen.saw_times("key used again behind its window", u64::from(is_old));
                assert!(
                    is_pushed_out || is_old,
                    "{place:?}: key {key} of {user} got places {first} and {sequence} within its window, {} ms apart and \
                     with {posts_between} keyed posts of that user at most between them",
                    latest_ms - first_ms,
                );
            }
        }
    }
}
