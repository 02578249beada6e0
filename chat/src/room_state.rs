//! What the program of a room remembers: texts to JSON values, some with an end, and timers; and the bytes it is kept as.
//!
//! ```text
//!  1 byte: 1, the form  ·  4 bytes: the program's version
//!  2 bytes: how many values; each: 2 bytes, key, 4 bytes, value, 8 bytes: when it ends (0: never)
//!  1 byte: how many timers; each: 1 byte, name, 8 bytes: when it is due
//! ```
//!
//! Integers are little-endian, times milliseconds since 1970 by the clock of the room's log. Keys and names stand in their order, so
//! that one state is one text of bytes.
//!
//! Invariants:
//! - Keys, values and timers together never have more than `state_bytes_max` bytes; what has ended counts until it is gone.
//! - Bytes that are no state give none: no part of one is ever believed.

use std::collections::BTreeMap;

use smallvec::SmallVec;

/// Bytes of a key, and of a timer's name.
pub const KEY_BYTES_MAX: usize = 128;
/// Timers of a room at most.
pub const TIMERS_MAX: usize = 8;
/// Milliseconds ahead that a timer is set at least.
pub const TIMER_MS_MIN: u64 = 100;
/// Bytes that a value counts for beside its key and its text: those that it is kept with. So as many values as fit a state of
/// [`ROOM_STATE_BYTES_MAX`] bytes can be counted in 2 bytes.
pub const VALUE_OVERHEAD_BYTES: usize = 14;
/// Bytes that a timer counts for beside its name, for the same reason.
pub const TIMER_OVERHEAD_BYTES: usize = 9;
/// What `state_bytes_max` may be at most, in bytes: with the room's name it fits the record of a state in the log.
pub const ROOM_STATE_BYTES_MAX: usize = 60 * 1_024;
const FORM: u8 = 1;

/// A value, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    /// JSON.
    text: Box<[u8]>,
    /// 0: never.
    ends_ms: u64,
}

impl Value {
    fn has_ended(&self, now_ms: u64) -> bool {
        self.ends_ms != 0 && self.ends_ms <= now_ms
    }
}

fn timer_bytes(name: &str) -> usize {
    name.len() + TIMER_OVERHEAD_BYTES
}

fn bytes_of(key: &str, value: &Value) -> usize {
    key.len() + value.text.len() + VALUE_OVERHEAD_BYTES
}

/// The state of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomState {
    /// Of which version of its program; 0: no program has written it.
    pub version: u32,
    /// In the order of their keys: few as a rule, and a list takes half of a tree's memory then.
    values: Vec<(Box<str>, Value)>,
    timers: BTreeMap<Box<str>, u64>,
    bytes: usize,
}

/// Why something is not remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateFault {
    /// It would be too much.
    #[error("the room's state would have more than the {0} bytes of state_bytes_max")]
    TooLarge(usize),
    /// The key is none.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    /// There are as many timers as may be.
    #[error("a room has {TIMERS_MAX} timers at most")]
    TooManyTimers,
    /// It is due too soon.
    #[error("a timer is set for {TIMER_MS_MIN} ms from now at least")]
    TooSoon,
}

impl RoomState {
    fn place(&self, key: &str) -> Result<usize, usize> {
        self.values.binary_search_by(|(there, _)| (**there).cmp(key))
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.place(key).ok().map(|place| &self.values[place].1)
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.timers.is_empty()
    }

    /// Bytes of keys, values and timers, with what each counts for beside.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the first timer is due.
    pub fn next_due(&self) -> Option<u64> {
        self.timers.values().copied().min()
    }

    /// A timer that is due by then, the earliest first; it is gone with that.
    pub fn take_due(&mut self, now_ms: u64) -> Option<Box<str>> {
        let due = self.timers.iter().filter(|(_, due_ms)| **due_ms <= now_ms).min_by_key(|(_, due_ms)| **due_ms);
        let name = due.map(|(name, _)| name.clone())?;
        self.timers.remove(&name);
        self.bytes -= timer_bytes(&name);
        Some(name)
    }

    /// Takes what a draft changed.
    pub fn apply(&mut self, changes: StateChanges) {
        for (key, value) in changes.values {
            let place = self.place(&key);
            if let Ok(place) = place {
                self.bytes -= bytes_of(&key, &self.values[place].1);
            }
            self.bytes += value.as_ref().map_or(0, |value| bytes_of(&key, value));
            match (place, value) {
                (Ok(place), Some(value)) => self.values[place].1 = value,
                (Ok(place), None) => drop(self.values.remove(place)),
                (Err(place), Some(value)) => self.values.insert(place, (key, value)),
                (Err(_), None) => {}
            }
        }
        for (name, due_ms) in changes.timers {
            if self.timers.remove(&name).is_some() {
                self.bytes -= timer_bytes(&name);
            }
            if let Some(due_ms) = due_ms {
                self.bytes += timer_bytes(&name);
                self.timers.insert(name, due_ms);
            }
        }
    }

    /// The bytes it is kept as.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes + 16);
        out.push(FORM);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&(self.values.len() as u16).to_le_bytes());
        for (key, value) in &self.values {
            out.extend_from_slice(&(key.len() as u16).to_le_bytes());
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(&(value.text.len() as u32).to_le_bytes());
            out.extend_from_slice(&value.text);
            out.extend_from_slice(&value.ends_ms.to_le_bytes());
        }
        out.push(self.timers.len() as u8);
        for (name, due_ms) in &self.timers {
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&due_ms.to_le_bytes());
        }
        out
    }

    /// Reads what [`RoomState::encode`] wrote; none: it is not that.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        if rest.number::<1>()? != u64::from(FORM) {
            return None;
        }
        let mut state = RoomState { version: rest.number::<4>()? as u32, ..RoomState::default() };
        for _ in 0..rest.number::<2>()? {
            let key_bytes = rest.number::<2>()? as usize;
            let key = rest.text(key_bytes)?;
            let text_bytes = rest.number::<4>()? as usize;
            let value = Value { text: rest.take(text_bytes)?.into(), ends_ms: rest.number::<8>()? };
            if state.values.last().is_some_and(|(last, _)| *last >= key) {
                return None;
            }
            state.bytes += bytes_of(&key, &value);
            state.values.push((key, value));
        }
        for _ in 0..rest.number::<1>()? {
            let name_bytes = rest.number::<1>()? as usize;
            let name = rest.text(name_bytes)?;
            state.bytes += timer_bytes(&name);
            if state.timers.insert(name, rest.number::<8>()?).is_some() {
                return None;
            }
        }
        rest.0.is_empty().then_some(state)
    }
}

/// Bytes that are still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn number<const BYTES: usize>(&mut self) -> Option<u64> {
        let mut number = [0; 8];
        number[..BYTES].copy_from_slice(self.take(BYTES)?);
        Some(u64::from_le_bytes(number))
    }

    fn text(&mut self, bytes: usize) -> Option<Box<str>> {
        let text = std::str::from_utf8(self.take(bytes)?).ok()?;
        (1..=KEY_BYTES_MAX).contains(&text.len()).then(|| text.into())
    }
}

/// What a call changes of a state, and reads with that.
#[derive(Debug)]
pub struct StateDraft<'a> {
    state: &'a RoomState,
    changes: StateChanges,
    bytes: usize,
    bytes_max: usize,
    now_ms: u64,
}

/// What a call changed: few values as a rule, so that a list in the order of the keys costs less than a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateChanges {
    values: SmallVec<[(Box<str>, Option<Value>); 1]>,
    timers: BTreeMap<Box<str>, Option<u64>>,
}

impl StateChanges {
    /// Where that key is, or would be.
    fn place(&self, key: &str) -> Result<usize, usize> {
        self.values.binary_search_by(|(there, _)| (**there).cmp(key))
    }

    fn change(&mut self, key: &str, value: Option<Value>) {
        match self.place(key) {
            Ok(place) => self.values[place].1 = value,
            Err(place) => self.values.insert(place, (key.into(), value)),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.timers.is_empty()
    }
}

impl<'a> StateDraft<'a> {
    /// Of a state that may have so many bytes, at that time.
    pub fn new(state: &'a RoomState, bytes_max: usize, now_ms: u64) -> Self {
        StateDraft { state, changes: StateChanges::default(), bytes: state.bytes, bytes_max, now_ms }
    }

    fn there(&self, key: &str) -> Option<&Value> {
        match self.changes.place(key) {
            Ok(place) => self.changes.values[place].1.as_ref(),
            Err(_) => self.state.value(key),
        }
    }

    /// The JSON of a value.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.there(key).filter(|value| !value.has_ended(self.now_ms)).map(|value| &*value.text)
    }

    /// Bytes that it counts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Remembers a JSON value, for so many milliseconds or without an end.
    ///
    /// # Errors
    /// It would be too much, or the key is none; then nothing has changed.
    pub fn set(&mut self, key: &str, json: &[u8], lives_ms: Option<u64>) -> Result<(), StateFault> {
        if !(1..=KEY_BYTES_MAX).contains(&key.len()) {
            return Err(StateFault::Key);
        }
        // A value that is to live for no time has ended, and does not live for ever.
        let ends_ms = lives_ms.map_or(0, |lives_ms| self.now_ms.saturating_add(lives_ms).max(1));
        let value = Value { text: json.into(), ends_ms };
        let before = self.there(key).map_or(0, |before| bytes_of(key, before));
        let added = bytes_of(key, &value);
        if self.bytes - before + added > self.bytes_max && !self.forget_ended(key, before, added) {
            return Err(StateFault::TooLarge(self.bytes_max));
        }
        // What was forgotten for it was never this value: `before` is as it was.
        self.bytes = self.bytes - before + added;
        self.changes.change(key, Some(value));
        Ok(())
    }

    /// Forgets what has ended, but for that key; whether it fits then.
    fn forget_ended(&mut self, but: &str, before: usize, added: usize) -> bool {
        let all = self.state.values.iter().map(|(key, _)| key).chain(self.changes.values.iter().map(|(key, _)| key));
        let ended: Vec<Box<str>> = all
            .filter(|key| &***key != but && self.there(key).is_some_and(|value| value.has_ended(self.now_ms)))
            .cloned()
            .collect();
        let mut forgotten = Vec::new();
        for key in ended {
            // What was changed and was there before comes twice.
            let Some(value) = self.there(&key) else { continue };
            self.bytes -= bytes_of(&key, value);
            match self.changes.place(&key) {
                Ok(place) => self.changes.values[place].1 = None,
                Err(_) => forgotten.push((key, None)),
            }
        }
        // At once: one by one, each would move those behind it.
        self.changes.values.extend(forgotten);
        self.changes.values.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.bytes - before + added <= self.bytes_max
    }

    /// Forgets a value.
    pub fn forget(&mut self, key: &str) {
        if let Some(before) = self.there(key) {
            self.bytes -= bytes_of(key, before);
            self.changes.change(key, None);
        }
    }

    /// The keys that begin so, in their order.
    pub fn keys(&self, prefix: &str) -> Vec<&str> {
        let from = |key: &str| key.starts_with(prefix);
        let first = self.state.place(prefix).unwrap_or_else(|place| place);
        let kept = self.state.values[first..].iter().map(|(key, _)| &**key).take_while(|key| from(key));
        let first = self.changes.place(prefix).unwrap_or_else(|place| place);
        let changed = self.changes.values[first..].iter().map(|(key, _)| &**key).take_while(|key| from(key));
        let mut keys: Vec<&str> = kept.chain(changed).filter(|key| self.get(key).is_some()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Values that there are, with those that ended.
    pub fn count(&self) -> usize {
        self.state.values.len() + self.changes.values.len()
    }

    /// Values that were set or forgotten: each new one moves those behind it.
    pub fn changed(&self) -> usize {
        self.changes.values.len()
    }

    /// Sets a timer, in the place of one of that name.
    ///
    /// # Errors
    /// There are as many as may be, it is due too soon, or its name is none.
    pub fn set_timer(&mut self, name: &str, in_ms: u64) -> Result<(), StateFault> {
        if !(1..=KEY_BYTES_MAX).contains(&name.len()) {
            return Err(StateFault::Key);
        }
        if in_ms < TIMER_MS_MIN {
            return Err(StateFault::TooSoon);
        }
        let new =
            self.changes.timers.iter().filter(|(name, due)| due.is_some() && !self.state.timers.contains_key(*name));
        let count = self.state.timers.keys().filter(|name| self.is_set(name)).count() + new.count();
        if !self.is_set(name) {
            if count >= TIMERS_MAX {
                return Err(StateFault::TooManyTimers);
            }
            let added = timer_bytes(name);
            if self.bytes + added > self.bytes_max && !self.forget_ended("", 0, added) {
                return Err(StateFault::TooLarge(self.bytes_max));
            }
            self.bytes += added;
        }
        self.changes.timers.insert(name.into(), Some(self.now_ms.saturating_add(in_ms)));
        Ok(())
    }

    fn is_set(&self, timer: &str) -> bool {
        match self.changes.timers.get(timer) {
            Some(due) => due.is_some(),
            None => self.state.timers.contains_key(timer),
        }
    }

    /// Takes a timer back.
    pub fn cancel_timer(&mut self, name: &str) {
        if !self.is_set(name) {
            return;
        }
        self.bytes -= timer_bytes(name);
        self.changes.timers.insert(name.into(), None);
    }

    /// What was changed.
    pub fn into_changes(self) -> StateChanges {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(state: &RoomState, now_ms: u64, change: impl FnOnce(&mut StateDraft<'_>)) -> RoomState {
        let mut draft = StateDraft::new(state, 1_000, now_ms);
        change(&mut draft);
        let (bytes, changes) = (draft.bytes, draft.into_changes());
        let mut after = state.clone();
        after.apply(changes);
        assert_eq!(after.bytes(), bytes, "a draft counts as what comes of it does");
        after
    }

    fn set(draft: &mut StateDraft<'_>, key: &str, json: &str) {
        draft.set(key, json.as_bytes(), None).unwrap();
    }

    #[test]
    fn a_draft_reads_what_it_wrote_and_a_state_comes_back_from_its_bytes() {
        let first = changed(&RoomState::default(), 5, |draft| {
            ["b", "a", "ab", "c"].into_iter().for_each(|key| set(draft, key, "1"));
            draft.set("gone", b"[2]", Some(10)).unwrap();
            draft.set_timer("tell", 1_000).unwrap();
        });
        let second = changed(&first, 6, |draft| {
            set(draft, "a", "\"x\"");
            draft.forget("c");
            assert_eq!(
                (draft.get("a"), draft.get("c"), draft.get("gone")),
                (Some(&b"\"x\""[..]), None, Some(&b"[2]"[..]))
            );
            assert_eq!(draft.keys("a"), ["a", "ab"]);
            assert_eq!(draft.keys(""), ["a", "ab", "b", "gone"]);
        });
        for state in [RoomState::default(), first, second.clone(), RoomState { version: 7, ..second }] {
            assert_eq!(RoomState::decode(&state.encode()), Some(state));
        }
    }

    #[test]
    fn what_is_cut_or_longer_is_no_state_and_no_bytes_panic() {
        let state = changed(&RoomState::default(), 5, |draft| {
            set(draft, "key", "{\"a\":1}");
            draft.set_timer("tell", 1_000).unwrap();
        });
        let bytes = state.encode();
        assert!((0..bytes.len()).all(|length| RoomState::decode(&bytes[..length]).is_none()));
        assert_eq!(RoomState::decode(&[&bytes[..], b"x"].concat()), None);
        for at in 0..bytes.len() {
            for value in [0, 1, 127, 255] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = RoomState::decode(&damaged);
            }
        }
    }

    #[test]
    fn a_state_has_an_end_and_what_has_ended_makes_room() {
        let state = changed(&RoomState::default(), 5, |draft| {
            draft.set("old", &[b'1'; 600], Some(10)).unwrap();
            assert_eq!(draft.set("new", &[b'1'; 600], None), Err(StateFault::TooLarge(1_000)));
            assert_eq!(draft.set("", b"1", None), Err(StateFault::Key));
        });
        let state = changed(&state, 15, |draft| {
            assert_eq!(draft.get("old"), None);
            draft.set("new", &[b'1'; 600], None).unwrap();
            draft.set("new", &[b'1'; 700], None).unwrap();
            assert_eq!(draft.set("new", &[b'1'; 1_000], None), Err(StateFault::TooLarge(1_000)));
        });
        assert_eq!(state.bytes(), 700 + 3 + VALUE_OVERHEAD_BYTES);
        let ended = changed(&state, 20, |draft| draft.set("new", b"1", Some(0)).unwrap());
        changed(&ended, 20, |draft| assert_eq!(draft.get("new"), None));
    }

    #[test]
    fn timers_come_due_in_order_once_and_are_few() {
        let mut state = changed(&RoomState::default(), 1_000, |draft| {
            assert_eq!(draft.set_timer("soon", 99), Err(StateFault::TooSoon));
            (0..TIMERS_MAX as u64)
                .for_each(|number| draft.set_timer(&format!("t{number}"), 900 - number * 100).unwrap());
            assert_eq!(draft.set_timer("more", 100), Err(StateFault::TooManyTimers));
            draft.set_timer("t0", 1_000).unwrap();
            draft.cancel_timer("t1");
            draft.set_timer("more", 100).unwrap();
        });
        assert_eq!(state.next_due(), Some(1_100));
        let due: Vec<_> = std::iter::from_fn(|| state.take_due(1_400)).collect();
        assert_eq!(due.iter().map(|name| &**name).collect::<Vec<_>>(), ["more", "t7", "t6", "t5"]);
        let state = changed(&state, 1_500, |draft| draft.cancel_timer("t4"));
        assert_eq!(state.timers.len(), 3);
    }
}
