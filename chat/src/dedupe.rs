//! Which keyed posts of a room are known: a window over its newest keyed posts, so that a repeated post is told from a
//! new one.
//!
//! The window: the newest `dedupe_keys_max` keyed posts of the room that are no older than `dedupe_window_ms`.

use std::collections::VecDeque;

use banter_log::key::{Fingerprint, KeyedPost};
use banter_protocol::ids::Sequence;
use rustc_hash::FxHashMap;

/// The window.
#[derive(Debug, Default)]
pub struct Dedupe {
    known: FxHashMap<Fingerprint, KeyedPost>,
    /// Oldest first. An entry whose key was used again stays until its turn comes.
    order: VecDeque<(Fingerprint, u64)>,
    /// The newest of them, whose posts may still be refused. They push nobody out of the window until they are history.
    open: usize,
}

/// What the window says of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The key is new, or was forgotten.
    New,
    /// The same post was taken before.
    Duplicate(KeyedPost),
    /// The key was used for another body.
    Conflict,
}

impl Dedupe {
    /// Judges a post and does not remember it. Keys of posts before `since_ms` are forgotten.
    pub fn judge(&self, fingerprint: Fingerprint, body: u64, since_ms: u64) -> Verdict {
        match self.known.get(&fingerprint).filter(|known| known.time_ms >= since_ms) {
            None => Verdict::New,
            Some(known) if known.body == body => Verdict::Duplicate(*known),
            Some(_) => Verdict::Conflict,
        }
    }

    /// Remembers a post that may still be refused.
    pub fn remember(&mut self, post: KeyedPost) {
        self.order.push_back((post.fingerprint, post.sequence));
        self.known.insert(post.fingerprint, post);
        self.open += 1;
    }

    /// The oldest of the posts that could be refused is history: what is above the limit or older than `since_ms` is
    /// forgotten.
    pub fn is_history(&mut self, keys_max: u32, since_ms: u64) {
        self.open = self.open.saturating_sub(1);
        let is_old = |this: &Self, &(fingerprint, sequence): &(Fingerprint, u64)| {
            this.known.get(&fingerprint).is_none_or(|known| known.sequence != sequence || known.time_ms < since_ms)
        };
        while self.order.len() > self.open
            && (self.order.len() - self.open > keys_max as usize
                || self.order.front().is_some_and(|oldest| is_old(self, oldest)))
        {
            let Some((fingerprint, sequence)) = self.order.pop_front() else { break };
            self.forget(fingerprint, sequence);
        }
    }

    /// Forgets what was remembered of posts behind that place, which were refused after all.
    pub fn forget_behind(&mut self, head: Sequence) {
        while let Some(&(fingerprint, sequence)) = self.order.back()
            && sequence > head.0
        {
            self.order.pop_back();
            self.forget(fingerprint, sequence);
        }
        self.open = 0;
    }

    fn forget(&mut self, fingerprint: Fingerprint, sequence: u64) {
        if self.known.get(&fingerprint).is_some_and(|known| known.sequence == sequence) {
            self.known.remove(&fingerprint);
        }
    }

    /// Keys remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use banter_log::key::body_hash;

    use super::*;

    fn post(user: &str, key: &str, body: &[u8], sequence: u64) -> KeyedPost {
        KeyedPost { sequence, time_ms: sequence * 10, fingerprint: Fingerprint::of(user, key), body: body_hash(body) }
    }

    fn keep(dedupe: &mut Dedupe, post: KeyedPost, keys_max: u32, since_ms: u64) {
        dedupe.remember(post);
        dedupe.is_history(keys_max, since_ms);
    }

    fn judge(dedupe: &Dedupe, user: &str, key: &str, body: &[u8], since_ms: u64) -> Verdict {
        dedupe.judge(Fingerprint::of(user, key), body_hash(body), since_ms)
    }

    #[test]
    fn a_key_belongs_to_its_user_and_its_body() {
        let mut dedupe = Dedupe::default();
        assert_eq!(judge(&dedupe, "ann", "k", b"1", 0), Verdict::New);
        let first = post("ann", "k", b"1", 7);
        keep(&mut dedupe, first, 10, 0);
        assert_eq!(judge(&dedupe, "ann", "k", b"1", 0), Verdict::Duplicate(first));
        assert_eq!(judge(&dedupe, "ann", "k", b"2", 0), Verdict::Conflict);
        assert_eq!(judge(&dedupe, "bob", "k", b"1", 0), Verdict::New);
        assert_eq!(judge(&dedupe, "an", "nk", b"1", 0), Verdict::New);
    }

    #[test]
    fn the_window_holds_the_newest_keys_and_no_more() {
        let mut dedupe = Dedupe::default();
        (1..=5u64).for_each(|place| keep(&mut dedupe, post("ann", &place.to_string(), b"", place), 3, 0));
        assert_eq!((dedupe.len(), dedupe.order.len()), (3, 3));
        assert_eq!(judge(&dedupe, "ann", "2", b"", 0), Verdict::New);
        assert!(matches!(judge(&dedupe, "ann", "3", b"", 0), Verdict::Duplicate(_)));
    }

    #[test]
    fn keys_grow_old_and_may_then_be_used_again() {
        let mut dedupe = Dedupe::default();
        keep(&mut dedupe, post("ann", "k", b"1", 1), 3, 0);
        assert!(matches!(judge(&dedupe, "ann", "k", b"1", 10), Verdict::Duplicate(_)));
        assert_eq!(judge(&dedupe, "ann", "k", b"1", 11), Verdict::New);
        keep(&mut dedupe, post("ann", "k", b"2", 2), 3, 11);
        keep(&mut dedupe, post("ann", "l", b"2", 3), 2, 11);
        assert!(matches!(judge(&dedupe, "ann", "k", b"2", 11), Verdict::Duplicate(known) if known.sequence == 2));
        assert_eq!((dedupe.len(), dedupe.order.len()), (2, 2));
    }

    #[test]
    fn refused_posts_are_forgotten_and_have_pushed_nobody_out() {
        let mut dedupe = Dedupe::default();
        (1..=2u64).for_each(|place| keep(&mut dedupe, post("ann", &place.to_string(), b"", place), 2, 0));
        (3..=9u64).for_each(|place| dedupe.remember(post("ann", &place.to_string(), b"", place)));
        dedupe.forget_behind(Sequence(2));
        assert_eq!(dedupe.len(), 2);
        assert_eq!(judge(&dedupe, "ann", "3", b"", 0), Verdict::New);
        assert!(matches!(judge(&dedupe, "ann", "1", b"", 0), Verdict::Duplicate(_)));
        keep(&mut dedupe, post("ann", "3", b"", 3), 2, 0);
        assert_eq!((dedupe.len(), judge(&dedupe, "ann", "1", b"", 0)), (2, Verdict::New));
    }
}
