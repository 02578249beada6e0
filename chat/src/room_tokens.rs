//! Tokens for single rooms, which come with a `join`: what they give beside the connection's own token, and until when.
//!
//! They lie beside the readings and not in them, so that a reading without one costs nothing for it. There are no more of them
//! than readings.
//!
//! Invariant: a token for a room stands here as long as its reading does, and until its end and the leeway; it stands among the
//! ends exactly then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_protocol::error_code::ErrorCode;

use crate::access::{Access, ends_ms};
use crate::sessions::Sessions;
use crate::turn::{ENDS_A_TURN, Turn};

/// The tokens, by the reading that each came for.
#[derive(Debug, Default)]
pub(crate) struct RoomTokens {
    proofs: BTreeMap<u32, Arc<Proof>>,
    /// When each ends, in milliseconds since 1970, without leeway.
    ends: BTreeSet<(u64, u32)>,
}

impl RoomTokens {
    pub(crate) fn is_empty(&self) -> bool {
        self.proofs.is_empty()
    }

    pub(crate) fn of(&self, subscription: u32) -> Option<&Proof> {
        self.proofs.get(&subscription).map(|proof| &**proof)
    }

    /// The reading goes by that one from here on.
    pub(crate) fn set(&mut self, subscription: u32, proof: Arc<Proof>) {
        self.remove(subscription);
        self.ends.insert((ends_ms(&proof), subscription));
        self.proofs.insert(subscription, proof);
    }

    /// The reading has none any more.
    pub(crate) fn remove(&mut self, subscription: u32) {
        if let Some(proof) = self.proofs.remove(&subscription) {
            self.ends.remove(&(ends_ms(&proof), subscription));
        }
    }
}

impl Sessions {
    /// What the token that came with the join of a room gives there.
    pub(crate) fn room_token_rights(&self, slot: usize, room: &str) -> Rights {
        if self.room_tokens.is_empty() {
            return Rights::NONE;
        }
        let proof = self.subscription_of(slot, room).and_then(|subscription| self.room_tokens.of(subscription));
        proof.map_or(Rights::NONE, |proof| proof.rights(room))
    }

    /// A reading goes on without its own token, if something else lets it. Says whether it ended.
    pub(crate) fn end_room_token(&mut self, subscription: u32, code: ErrorCode, turn: &mut Turn<'_>) -> bool {
        self.room_tokens.remove(subscription);
        self.judge_reading(subscription, code, turn)
    }

    /// Ends the tokens for rooms whose time is over.
    pub(crate) fn end_room_tokens(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..ENDS_A_TURN {
            if self.next_room_end_ms().is_none_or(|due_ms| due_ms > turn.now.unix_ms) {
                return;
            }
            let Some(&(_, subscription)) = self.room_tokens.ends.first() else { return };
            turn.counters.steps += 1;
            self.end_room_token(subscription, ErrorCode::Expired, turn);
        }
    }

    /// When the next one ends, with leeway, in milliseconds since 1970.
    pub(crate) fn next_room_end_ms(&self) -> Option<u64> {
        let Access::Token(access) = &self.access else { return None };
        let (end_ms, _) = self.room_tokens.ends.first()?;
        Some(end_ms.saturating_add(access.leeway_seconds.saturating_mul(1_000)))
    }
}
