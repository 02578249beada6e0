//! Taking the partitions over: when nobody has them, a few at a time, until those that can be served are.

use super::{Node, Note, Now, Out, RANK_MS};
use crate::engine;
use crate::members::NodeState;
use crate::partition::{self, Partition, State};

/// Partitions that are claimed and read at the same time: what is read of each is in memory.
const CLAIMING_MAX: usize = 16;
/// How long the other partitions wait for one that cannot be claimed or read, as when its stream has no leader, in milliseconds.
const CLAIMING_MS_MAX: u64 = 3_000;
/// How long taking over takes until it is told that it takes long, and again, in milliseconds.
const WAITS_TOLD_MS: u64 = 10_000;
/// How often a broken partition is tried again whose stream may be there at another look, in milliseconds.
const MEND_MS: u64 = 10_000;

impl Node {
    pub(super) fn look_for_an_owner(&mut self, now: Now, out: &mut Vec<Out>) {
        let now_ms = now.monotonic_ms;
        if self.members.other_owner(self.id, now_ms).is_some() {
            self.ownerless_since_ms = None;
            return;
        }
        // Who does not hear itself hears nobody, and would claim in vain.
        if now_ms.saturating_sub(self.heard_itself_ms) >= self.config.dead_after_ms {
            // An engine that comes back is heard by all at once: the ranks count from then on, or all would claim together.
            self.ownerless_since_ms = self.ownerless_since_ms.map(|_| now_ms);
            return;
        }
        let is_seen = self.ownerless_since_ms.is_none();
        let since_ms = *self.ownerless_since_ms.get_or_insert(now_ms);
        let rank_ms = self.members.rank(self.id, now_ms) as u64 * RANK_MS;
        // One that has not seen an owner go may only not have heard it yet.
        let listens_ms = if is_seen || self.has_seen_an_owner() { 0 } else { self.config.dead_after_ms };
        // Behind the listening, and not within it: those who began to listen together would claim together.
        if now_ms.saturating_sub(since_ms) >= listens_ms + rank_ms {
            self.begin_claiming(now, out);
        }
    }

    fn has_seen_an_owner(&self) -> bool {
        self.last_owner.is_some()
    }

    fn begin_claiming(&mut self, now: Now, out: &mut Vec<Out>) {
        // What was being given up may wait for a stream without a leader: it would keep all others from being served.
        let releasing = self.partitions.iter().zip(0..).filter(|(partition, _)| partition.state() == State::Releasing);
        let releasing: Vec<u16> = releasing.map(|(_, number)| number).collect();
        releasing.into_iter().for_each(|number| self.partition(number, partition::Input::Abandon, now, out));
        (self.state, self.claims_since_ms, self.waits_told_ms) = (NodeState::Claiming, now.monotonic_ms, 0);
        self.heard_itself_ms = now.monotonic_ms;
        self.unclaimed = (0..self.config.partitions).collect();
        out.push(Out::Note(Note::Claims { from: self.last_owner.take() }));
        self.beat(now, out);
        self.claim_next(now, out);
    }

    pub(super) fn claim_next(&mut self, now: Now, out: &mut Vec<Out>) {
        let is_busy = |partition: &&Partition| matches!(partition.state(), State::Claiming | State::Loading { .. });
        // Those that wait for a leader must not keep the others from their turn.
        let took_ms = now.monotonic_ms.saturating_sub(self.claims_since_ms);
        let busy_max = CLAIMING_MAX * (1 + (took_ms / CLAIMING_MS_MAX) as usize);
        while self.state == NodeState::Claiming
            && self.partitions.iter().filter(is_busy).count() < busy_max
            && let Some(number) = self.unclaimed.pop_first()
        {
            self.nonce = self.nonce.wrapping_add(1);
            self.partition(number, partition::Input::Claim { nonce: self.nonce }, now, out);
        }
    }

    pub(super) fn look_whether_all_are_open(&mut self, now: Now, out: &mut Vec<Out>) {
        if self.state != NodeState::Claiming {
            return;
        }
        let took_ms = now.monotonic_ms.saturating_sub(self.claims_since_ms);
        let is = |wanted: fn(State) -> bool| self.partitions.iter().any(|partition| wanted(partition.state()));
        // Of one that takes long the others' rooms are served meanwhile, and its own as soon as it is open.
        let takes_long = |state| matches!(state, State::Claiming | State::Loading { .. });
        let is_ready = |partition: &Partition| match partition.state() {
            State::Open { .. } | State::Broken => true,
            State::Claiming | State::Loading { .. } => took_ms >= CLAIMING_MS_MAX,
            State::Foreign | State::Releasing => false,
        };
        let is_in_vain = is(takes_long) && !is(|state| matches!(state, State::Open { .. }));
        if is_in_vain || !self.unclaimed.is_empty() || !self.partitions.iter().all(is_ready) {
            self.tell_that_it_waits(took_ms, out);
            return;
        }
        self.state = NodeState::Serving;
        out.push(Out::Serve);
        let missing = self.partitions.iter().zip(0..).filter(|(it, _)| !matches!(it.state(), State::Open { .. }));
        let missing = missing.map(|(_, number)| engine::Partition(number)).collect();
        out.push(Out::Note(Note::Serves { took_ms, read: std::mem::take(&mut self.read), missing }));
        self.beat(now, out);
    }

    /// Taking over takes seconds: behind [`WAITS_TOLD_MS`] of it, and each time as long again, it is told what it waits for.
    fn tell_that_it_waits(&mut self, took_ms: u64, out: &mut Vec<Out>) {
        if took_ms < self.waits_told_ms + WAITS_TOLD_MS {
            return;
        }
        self.waits_told_ms = took_ms;
        let count = |is: fn(State) -> bool| self.partitions.iter().filter(|partition| is(partition.state())).count();
        out.push(Out::Note(Note::Waits {
            took_ms,
            open: count(|state| matches!(state, State::Open { .. })),
            claimed: count(|state| state == State::Claiming),
            read: count(|state| matches!(state, State::Loading { .. })),
        }));
    }

    /// Tries again partitions of whose streams a late server may have lacked something.
    pub(super) fn mend(&mut self, now: Now, out: &mut Vec<Out>) {
        if self.state != NodeState::Serving || now.monotonic_ms < self.mend_ms {
            return;
        }
        self.mend_ms = now.monotonic_ms + MEND_MS;
        let to_mend = self.partitions.iter().zip(0..).filter(|(partition, _)| partition.may_be_mended());
        let to_mend: Vec<u16> = to_mend.map(|(_, number)| number).collect();
        for number in to_mend {
            self.nonce = self.nonce.wrapping_add(1);
            self.partition(number, partition::Input::Claim { nonce: self.nonce }, now, out);
        }
    }
}
