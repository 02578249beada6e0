//! One event that a client hears, and everything that it is checked against.

use std::collections::HashMap;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::request::{FetchFrom, JoinFrom};

use super::{Asked, Connection, HeardPage, Reading};
use crate::sim::coverage::Coverage;
use crate::sim::identity::{Must, Standing};
use crate::sim::profile::{BLANK_EPOCHS_LAST, Profile};
use crate::sim::scripted::{self, Will};
use crate::sim::truth::{Truth, Voice};
use crate::sim::wire::{Heard, Placed, Said};

/// One event, with everything that it is checked against.
pub(super) struct Hearing<'h> {
    pub(super) user: &'h str,
    pub(super) voice: Voice,
    pub(super) connection: &'h mut Connection,
    pub(super) cursors: &'h mut HashMap<String, (u64, u64)>,
    pub(super) profile: &'h Profile,
    pub(super) truth: &'h mut Truth,
    pub(super) seen: &'h mut Coverage,
    /// How its connection has to stand, where tokens are asked for.
    pub(super) standing: Option<&'h Standing>,
}

impl Hearing<'_> {
    fn answered(&mut self, id: Option<u64>) -> Asked {
        let id = id.expect("an answer names its request");
        self.connection.asked.remove(&id).unwrap_or_else(|| panic!("request {id} was answered twice, or never asked"))
    }

    /// Takes it; `true`: nothing comes behind it.
    pub(super) fn take(&mut self, heard: Heard) -> bool {
        match heard {
            Heard::Welcome { id, user } => {
                assert!(matches!(self.granted(id), Asked::Hello) && user == self.user, "{user}");
                self.connection.welcomed = true;
                self.seen.saw_times("guest came in", u64::from(self.connection.is_guest));
            }
            Heard::Renewed { id } => {
                assert!(matches!(self.granted(id), Asked::Renew));
                self.connection.is_expiring = false;
                self.seen.saw("token renewed");
            }
            Heard::Expiring => {
                assert!(!self.connection.is_expiring, "that a token ends soon is told once");
                self.connection.is_expiring = true;
                self.seen.saw("told that its token ends soon");
            }
            Heard::Removed { room, code } => self.removed(&room, code),
            Heard::Pong { id } => assert!(matches!(self.answered(id), Asked::Ping)),
            Heard::Joined { id, room, epoch, sequence, members } => self.joined(id, room, epoch, sequence, members),
            Heard::Left { id, room } => {
                let Asked::Leave { room: asked } = self.answered(id) else { panic!("`left` answers a leave") };
                assert_eq!(asked, room);
                self.connection.readings.remove(&room).expect("it read the room");
                // Who joins afresh may ask for everything again.
                self.connection.delivered.retain(|(other, _, _)| *other != room);
                self.seen.saw("left");
            }
            Heard::Posted { id, room, epoch, sequence, duplicate } => self.posted(id, room, epoch, sequence, duplicate),
            Heard::Taken { id, room } => self.taken(id, &room),
            Heard::Page { id, room, epoch, messages, more } => self.page(id, &room, epoch, &messages, more),
            Heard::Members { id, room, count, users } => {
                let Asked::Members { room: asked } = self.granted(id) else { panic!("`members` answers its ask") };
                assert!(asked == room && users.len() as u64 == count.min(100) && users.is_sorted());
                self.seen.saw("members answer");
            }
            Heard::Message(said) => self.message(&said),
            Heard::Gap { room, epoch, from, to } => self.gap(&room, epoch, from, to),
            Heard::Signal { room, body, .. } => {
                assert!(self.connection.readings.contains_key(&room), "a signal of a room that it does not read");
                let own = format!("\"signal of {:?}\"", self.voice).into_bytes();
                assert_ne!(body, own, "a signal comes back to its sender");
                self.seen.saw("signal");
            }
            Heard::Presence { room, user, count } => {
                let reading =
                    self.connection.readings.get_mut(&room).expect("presence of a room that it does not read");
                assert!(reading.presence, "presence was not asked for");
                reading.members = count;
                self.seen.saw(if user.is_some() { "presence of a user" } else { "presence counts only" });
            }
            Heard::Error { id: Some(id), code, retry_after_ms } => {
                self.refused(id, code);
                let is_of_log = code == ErrorCode::LogFull || code == ErrorCode::Overloaded;
                assert!(!is_of_log || retry_after_ms.is_some(), "{code:?} says when to come again");
            }
            Heard::Error { id: None, code: ErrorCode::TimedOut, .. } => {
                self.connection.is_timed_out = true;
                self.seen.saw("closed as idle");
            }
            Heard::Error { id: None, code: ErrorCode::Replaced, .. } => {
                let has_limit = self.profile.limits.connections_per_user_max != 0;
                assert!(has_limit, "a user may have any number of connections");
                self.seen.saw("replaced by a newer connection");
            }
            // A signal has no number.
            Heard::Error { id: None, code: ErrorCode::NotJoined | ErrorCode::RateLimited, .. } => {}
            Heard::Error { id: None, code, .. } if self.standing.is_some() && ends_by_access(code) => {
                let is_ended = self.connection.is_guest && matches!(code, ErrorCode::Revoked | ErrorCode::Kicked);
                self.seen.saw_times("guest revoked or disconnected", u64::from(is_ended));
                self.seen.saw(match code {
                    ErrorCode::Revoked => "closed as revoked",
                    ErrorCode::Kicked => "disconnected",
                    _ => "signal refused, or closed as expired",
                });
            }
            Heard::Error { id: None, code: ErrorCode::BadRequest, .. } if !self.connection.welcomed => {}
            Heard::Error { id: None, code, .. } => panic!("{code:?} without a request"),
            Heard::Closing => self.connection.is_closing = true,
            Heard::KeepAlive => {}
            Heard::Close => return true,
        }
        false
    }

    fn joined(&mut self, id: Option<u64>, room: String, epoch: u64, head: u64, members: u64) {
        let Asked::Join { room: asked, from, echo, presence, goes_on } = self.granted(id) else {
            panic!("`joined` answers a join")
        };
        assert_eq!(asked, room);
        assert!(members > 0, "the one who joins is counted");
        self.truth.joined(&room, epoch);
        let handed = id.and_then(|id| self.connection.handed.get(&id)).map(|(_, moment)| *moment);
        self.connection.joined_at.extend(handed.map(|moment| (room.clone(), moment)));
        if head == 0 {
            // A place in a room without messages is a place to come back to.
            self.cursors.insert(room.clone(), (epoch, 0));
        }
        let position = match from {
            JoinFrom::Now => Ok(head),
            JoinFrom::Last(0) => Ok(head),
            JoinFrom::Last(count) if self.is_whole(&room) => Ok(head.saturating_sub(count)),
            JoinFrom::Last(count) => Err((head.saturating_sub(count), head)),
            JoinFrom::After(cursor) => {
                assert!(cursor.epoch.0 == epoch && cursor.sequence.0 <= head, "such a cursor is refused");
                Ok(cursor.sequence.0)
            }
        };
        // Who joins again goes on behind what it got. Of joins that overtake their answers the last counts: what it moves
        // over may have been delivered or not, and comes once at most.
        let before = self.connection.readings.get(&room).filter(|before| before.epoch == epoch);
        let position = match before.map(|before| before.position) {
            None => position,
            Some(Ok(read)) if goes_on && self.connection.readings[&room].echo => {
                self.seen.saw("goes on where it read");
                match from {
                    JoinFrom::After(cursor) => Ok(read.max(cursor.sequence.0)),
                    JoinFrom::Now | JoinFrom::Last(_) => Ok(read),
                }
            }
            Some(before) => {
                let (low, high) = position.map_or_else(|span| span, |position| (position, position));
                let read_low = before.unwrap_or_else(|(low, _)| low);
                // Where an earlier answer was not there yet, it goes on behind what it got before that one.
                let low = if goes_on { low.min(read_low) } else { 0 };
                // Own posts that the reading before did not want have moved it on unseen.
                let read = before.ok().filter(|_| self.connection.readings[&room].echo).unwrap_or(head);
                Err((low, high.max(read)))
            }
        };
        self.connection.readings.insert(room, Reading { epoch, position, echo, presence, members });
    }

    fn posted(&mut self, id: Option<u64>, room: String, epoch: u64, sequence: u64, duplicate: bool) {
        let number = id.unwrap_or_default();
        let Asked::Post { room: asked, key, body, asked_ms } = self.granted(id) else {
            panic!("`posted` answers a post")
        };
        assert_eq!(asked, room);
        let last = self.connection.posted.entry(room.clone()).or_default();
        assert!(*last < number, "posts are answered in the order they were sent");
        *last = number;
        self.seen.saw_times("post of a guest", u64::from(self.connection.is_guest));
        let place = (room, epoch, sequence);
        let is_let = matches!(scripted::will(&body), Will::Edit | Will::EditAndSay);
        assert!(is_let || !self.has_program(&place.0), "{place:?} was given to what the room's program keeps from one");
        if duplicate {
            let key = key.expect("only a keyed post is a repeated one");
            let (room, epoch, sequence) = (&place.0, epoch, sequence);
            let is_earlier = self.truth.keys.is_of_earlier_run(room, epoch, sequence);
            self.seen.saw_times("duplicate of an earlier run", u64::from(is_earlier));
            self.truth.repeated((room, epoch, sequence), (self.user, &key), &body);
            self.seen.saw("duplicate post");
        } else {
            self.truth.acknowledged(place, self.voice, self.user, key.as_deref(), (&body, asked_ms));
        }
    }

    fn taken(&mut self, id: Option<u64>, room: &str) {
        let Asked::Post { room: asked, body, .. } = self.granted(id) else { panic!("`taken` answers a post") };
        assert!(asked == room && self.has_program(room), "{room} has no program");
        assert_eq!(scripted::will(&body), Will::Take);
        let number = id.unwrap_or_default();
        let last = self.connection.posted.entry(room.to_owned()).or_default();
        assert!(*last < number, "posts are answered in the order they were sent");
        *last = number;
        self.seen.saw("post taken by a program");
    }

    fn has_program(&self, room: &str) -> bool {
        self.profile.has_program && room == scripted::ROOM
    }

    fn page(&mut self, id: Option<u64>, room: &str, epoch: u64, messages: &[Placed], more: bool) {
        let Asked::Fetch { room: asked, from, limit } = self.granted(id) else { panic!("`page` answers a fetch") };
        assert_eq!(asked, room);
        assert!(messages.len() as u64 <= limit.unwrap_or(u64::MAX).min(self.profile.limits.fetch_messages_max.into()));
        let place = |placed: &Placed| placed.place().2;
        for (placed, next) in messages.iter().zip(&messages[messages.len().min(1)..]) {
            assert_eq!(place(placed) + 1, place(next), "a page is dense and ascending");
        }
        let places = messages.first().map(place).zip(messages.last().map(place));
        if let Some((first, last)) = places {
            match from {
                FetchFrom::After(after) if self.is_whole(room) => assert_eq!(first, after.0 + 1),
                FetchFrom::After(after) => assert!(first > after.0),
                FetchFrom::Before(before) => assert!(last < before.0),
            }
        } else {
            assert!(!more, "an empty page is the end");
        }
        for placed in messages {
            let (of_room, of_epoch, sequence) = placed.place();
            assert_eq!((of_room, of_epoch), (room, epoch));
            match placed {
                Placed::Said(said) => {
                    self.truth.saw(&said.to_anybody());
                    self.is_as_decided(said, false);
                    self.may_be_told(said, true);
                }
                Placed::Nothing { .. } => {
                    self.truth.lacks(room, epoch, sequence);
                    self.seen.saw("gap in a page");
                }
            }
        }
        self.connection.last_page = Some(HeardPage { places, more });
        self.seen.saw("fetch page");
    }

    /// What the room's program made of it.
    fn is_as_decided(&mut self, said: &Said, is_live: bool) {
        if self.has_program(&said.room) {
            scripted::check(said, (self.user, is_live), self.profile.may_drop_rooms(), self.seen);
        }
    }

    /// Whether all that a room ever had is there from its first message on. Of what is only written a power cut may take what
    /// is before, and leave what is behind it.
    fn is_whole(&self, room: &str) -> bool {
        self.profile.history_is_whole && (self.profile.is_synced(room) || !self.truth.power_went)
    }

    fn message(&mut self, said: &Said) {
        self.truth.saw(&said.to_anybody());
        self.is_as_decided(said, true);
        self.may_be_told(said, false);
        self.seen.saw("delivery");
        let reading = self.connection.readings.get_mut(&said.room).expect("a message of a room that it does not read");
        assert_eq!(said.epoch, reading.epoch, "a message of another history");
        let start = match reading.position {
            Ok(position) => position,
            // What was left of the history, or what was not read before, starts anywhere up to `high`.
            Err((low, high)) => {
                assert!(said.sequence > low, "{} comes, and what is behind {low} was asked for", said.sequence);
                (said.sequence - 1).min(high)
            }
        };
        assert!(said.sequence > start, "{} comes behind {start}", said.sequence);
        let is_new = self.connection.delivered.insert((said.room.clone(), said.epoch, said.sequence));
        assert!(is_new, "{} was delivered twice", said.sequence);
        if reading.echo {
            assert_eq!(said.sequence, start + 1, "a hole behind {start}");
        } else {
            self.truth.spared(&said.room, said.epoch, start + 1..said.sequence, self.voice);
            self.truth.unspared(&said.room, said.epoch, said.sequence, self.voice);
            self.seen.saw_times("echo spared", said.sequence - start - 1);
        }
        reading.position = Ok(said.sequence);
        self.cursors.insert(said.room.clone(), (said.epoch, said.sequence));
    }

    fn gap(&mut self, room: &str, epoch: u64, from: u64, to: u64) {
        self.truth.gap(room, epoch, to);
        let reading = self.connection.readings.get_mut(room).expect("a gap of a room that it does not read");
        assert!(epoch == reading.epoch && from <= to);
        match reading.position {
            Ok(position) if reading.echo => assert_eq!(from, position + 1, "a gap starts behind what was read"),
            Ok(position) => {
                assert!(from > position);
                self.truth.spared(room, epoch, position + 1..from, self.voice);
            }
            Err((low, _)) => assert!(from > low),
        }
        reading.position = Ok(to);
        self.cursors.insert(room.to_owned(), (epoch, to));
        self.seen.saw("catch-up from a gap");
    }

    fn refused(&mut self, id: u64, code: ErrorCode) {
        let asked = self.answered(Some(id));
        if self.is_refused_by_access(id, code, &asked) {
            return;
        }
        match (code, &asked) {
            (ErrorCode::ProgramRefused, Asked::Post { room, body, .. }) => {
                assert!(self.has_program(room) && scripted::will(body) == Will::Refuse, "{asked:?}");
                self.seen.saw("post refused by a program");
            }
            // Of one that failed too often the room's program is not asked any more.
            (ErrorCode::ProgramFailed, Asked::Post { room, .. } | Asked::Join { room, .. }) => {
                assert!(self.has_program(room), "{asked:?}");
                self.seen.saw("program failed");
            }
            (ErrorCode::NotJoined, Asked::Post { .. } | Asked::Leave { .. }) => {}
            (ErrorCode::RateLimited, Asked::Post { .. }) => self.seen.saw("rate_limited"),
            (ErrorCode::Overloaded, Asked::Join { .. }) => self.seen.saw("rooms_per_connection_max"),
            (ErrorCode::KeyConflict, Asked::Post { key: Some(_), .. }) => self.seen.saw("key_conflict"),
            (ErrorCode::WrongEpoch, Asked::Join { room, from: JoinFrom::After(cursor), .. }) => {
                // What the log keeps for good goes on under one epoch.
                let is_kept = self.profile.keeps(room);
                let is_blank = cursor.sequence.0 == 0;
                let may_change = is_blank && !(BLANK_EPOCHS_LAST && self.truth.is_lasting(room, cursor.epoch.0));
                assert!(!is_kept || may_change || cursor.sequence.0 >= 1_000_000, "{room}: {cursor:?}");
                self.cursors.remove(room);
                self.seen.saw("wrong_epoch");
            }
            (ErrorCode::CursorAhead, Asked::Join { from: JoinFrom::After(cursor), .. }) => {
                assert!(cursor.sequence.0 >= 1_000_000, "a cursor that the server gave is never ahead");
                self.seen.saw("cursor_ahead");
            }
            (ErrorCode::LogFull, Asked::Post { .. }) => self.seen.saw("log_full"),
            (ErrorCode::LogFailed, Asked::Post { .. }) => self.seen.saw("log_failed"),
            (ErrorCode::Overloaded, Asked::Fetch { .. }) => {}
            // What the room's program remembers could not be read.
            (ErrorCode::Overloaded, Asked::Post { room, .. })
                if self.has_program(room) && self.profile.reads_fail() =>
            {
                self.seen.saw("post refused for a state that could not be read");
            }
            // The window of the room could not be read.
            (ErrorCode::Overloaded, Asked::Post { key: Some(_), .. }) if self.profile.reads_fail() => {
                self.seen.saw("keyed post refused for a read that failed");
            }
            (ErrorCode::Draining, Asked::Post { .. } | Asked::Join { .. }) => {}
            _ => panic!("{asked:?} was refused with {code:?}"),
        }
    }
}

/// What the server says of who may do what.
impl Hearing<'_> {
    /// The request that is answered as it was wished: the rights for it were there when it was handed in.
    fn granted(&mut self, id: Option<u64>) -> Asked {
        let asked = self.answered(id);
        let must = id.and_then(|id| self.connection.handed.get(&id)).map(|(must, _)| *must);
        assert_ne!(must, Some(Must::BeRefused), "{asked:?} was granted, and the right to it was not there");
        asked
    }

    /// Nobody is told what had not left its room's core when he lost the right to it, and no post without a right is told.
    fn may_be_told(&self, said: &Said, in_page: bool) {
        assert!(
            !self.truth.is_refused(&said.room, &said.body),
            "{said:?} has a place, and its author no right to write"
        );
        let (Some(standing), Some(asked)) = (self.standing, self.truth.asked_at(&said.room, &said.body)) else {
            return;
        };
        let there = standing.in_room(&said.room);
        let lost = if in_page { there.closed_since } else { there.unread_since };
        for (since, how) in [(lost, "its right to it"), (standing.ended, "its connection")] {
            assert!(since.is_none_or(|since| asked <= since), "{said:?} was told to who had lost {how} before");
        }
        let joined = self.connection.joined_at.get(&said.room).copied().unwrap_or_default();
        let is_kicked = !in_page && joined < there.kicked && there.kicked < asked;
        assert!(!is_kicked, "{said:?} was told to who was kicked before");
    }

    fn removed(&mut self, room: &str, code: ErrorCode) {
        self.connection.readings.remove(room).expect("it read the room that it was removed from");
        // As with `left`.
        self.connection.delivered.retain(|(other, _, _)| other != room);
        let there = self.standing.expect("only where tokens are asked for").in_room(room);
        let why = if code == ErrorCode::Kicked { there.kicked } else { there.shrunk };
        assert_ne!(why, 0, "removed from {room} with {code:?}, and nothing was lost");
        self.seen.saw(match code {
            ErrorCode::Kicked => "kicked out of a room",
            ErrorCode::Expired => "token for a room ended",
            ErrorCode::Revoked => "token for a room was revoked",
            _ => "removed for a right",
        });
    }

    /// Whether a refusal is for who may do what; then it has to be one.
    fn is_refused_by_access(&mut self, id: u64, code: ErrorCode, asked: &Asked) -> bool {
        let Some(standing) = self.standing else { return false };
        if code == ErrorCode::BadRequest && !self.connection.welcomed {
            return true; // Behind a `hello` that was refused.
        }
        if !ends_by_access(code) && !matches!(code, ErrorCode::Unauthorized | ErrorCode::Unavailable) {
            return false;
        }
        let (must, handed) = self.connection.handed.get(&id).copied().unwrap_or((Must::BeEither, 0));
        let shrank = |room: &str| {
            let there = standing.in_room(room);
            there.shrunk.max(there.kicked) >= handed || standing.ended.is_some()
        };
        let may_be = match asked {
            Asked::Hello => {
                self.connection.greeted = false;
                must != Must::BeAllowed
            }
            Asked::Join { room, .. } | Asked::Fetch { room, .. } | Asked::Members { room } => {
                must != Must::BeAllowed || shrank(room)
            }
            _ => must != Must::BeAllowed,
        };
        assert!(may_be, "{asked:?} was refused with {code:?}, and it has what it takes");
        self.seen.saw_times("guest refused for a right", u64::from(self.connection.is_guest));
        self.seen.saw(match asked {
            Asked::Hello => "hello refused",
            Asked::Renew => "renewal refused",
            Asked::Post { .. } => "post refused for a right",
            Asked::Join { .. } => "join refused for a right",
            _ => "page or members refused for a right",
        });
        true
    }
}

fn ends_by_access(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Forbidden | ErrorCode::Expired | ErrorCode::Revoked | ErrorCode::Kicked)
}
