//! One call of a room's program: whether it may be called now, within what, and what a verdict or a fault leaves.

use banter_log::journal::Journal;
use banter_protocol::ids::UserName;
use banter_protocol::native::VIEWS_MAX;

use super::{Called, Noted};
use crate::program::{
    Budget, Call, Effects, Event, Fault, FaultKind, Hook, MESSAGE_BYTES_MAX, ProgramId, REASON_BYTES_MAX,
    REPLY_BYTES_MAX, RoomFacts, Spent, Verdict,
};
use crate::room::Room;
use crate::room_state::StateDraft;
use crate::rooms::Rooms;
use crate::turn::Turn;

/// Bytes of a message's frame beside its body and the names.
const FRAME_OVERHEAD_BYTES: usize = 256;
/// Bytes of a state's record beside what it counts itself: prefix, frame, archive, the room's name, version and counts.
const STATE_OVERHEAD_BYTES: usize = 256;

impl Rooms {
    /// Asks the room's program.
    pub(super) fn call(&mut self, slot: usize, event: &Event<'_>, turn: &mut Turn<'_>) -> Called {
        let Some(program) = self.slots[slot].program.as_ref().and_then(|kept| kept.program) else {
            return Called::NotAsked;
        };
        let Some(engine) = &self.programming.engine else { return Called::NotAsked };
        let facts = engine.facts(program);
        if !facts.hooks.has(event.hook()) {
            return Called::NotAsked;
        }
        // Ahead of all that counts as a fault: a body is its sender's.
        let body_bytes_max = self.programming.limits.body_bytes_max;
        if let Event::Post { body, .. } | Event::Signal { body, .. } = event
            && body_bytes_max != 0
            && body.bytes.len() > body_bytes_max as usize
        {
            return Called::TooLarge(body_bytes_max);
        }
        let (now_ms, per_second_max) = (turn.now.monotonic_ms, self.programming.limits.units_per_second_max);
        let is_logged = self.slots[slot].policy.durability.is_logged();
        let is_full = is_logged && self.commits.is_above(self.limits.log_waiting_bytes_max);
        let Some(kept) = self.slots[slot].program.as_deref_mut() else { return Called::NotAsked };
        if kept.faults.is_suspended(now_ms) {
            return self.failed(program, FaultKind::Suspended);
        }
        match kept.unread {
            None => {}
            Some(unread) if unread.is_damaged => return self.failed(program, FaultKind::State),
            Some(unread) => return Called::Unread(unread.again_ms.saturating_sub(now_ms).max(1)),
        }
        if let Err(retry_after_ms) = kept.units.look(per_second_max, now_ms) {
            return Called::Later(retry_after_ms);
        }
        // What it would remember of that has to wait for the disk, too. A post was looked at ahead of this.
        if let Event::Join { .. } | Event::Signal { .. } | Event::Fetch { .. } = event
            && is_full
        {
            return Called::Full;
        }
        if kept.state.version != facts.version {
            let to = facts.hooks.has(Hook::Upgrade).then_some(facts.version);
            if let Some(failed) = self.upgrade(slot, program, to, turn) {
                return failed;
            }
            if let Some(kept) = self.slots[slot].program.as_deref_mut() {
                kept.state.version = facts.version;
            }
        }
        self.call_hook(slot, program, event, turn)
    }

    /// Brings a state along to that version, where the program has a hook for it; `Some`: it could not be.
    fn upgrade(&mut self, slot: usize, program: ProgramId, to: Option<u32>, turn: &mut Turn<'_>) -> Option<Called> {
        let from = self.slots[slot].program.as_deref().map_or(0, |kept| kept.state.version);
        let to = to.filter(|_| from != 0)?;
        match self.call_hook(slot, program, &Event::Upgrade { from }, turn) {
            Called::Decided(_, effects) => {
                // It is said with the version that it is of now: said with the one before, it would be brought along twice.
                if let Some(kept) = self.slots[slot].program.as_deref_mut() {
                    (kept.state.version, kept.is_unsaid) = (to, true);
                }
                self.open_beside(slot, effects, turn);
                None
            }
            failed => {
                // The state stays as it is, and nothing is decided by it.
                let now_ms = turn.now.monotonic_ms;
                let for_ms = self.slots[slot].program.as_deref_mut().map(|kept| kept.faults.suspend(now_ms));
                self.suspended(slot, program, for_ms.unwrap_or_default());
                Some(failed)
            }
        }
    }

    fn call_hook(&mut self, slot: usize, program: ProgramId, event: &Event<'_>, turn: &mut Turn<'_>) -> Called {
        let state_bytes_max = self.state_bytes_max(slot);
        let frame_bytes_max = self.limits.frame_bytes_max as usize;
        let time_ms = self.clock.time_ms();
        let commit_bytes_max = self.logs.of(self.slots[slot].id).map_or(usize::MAX, Journal::commit_bytes_max);
        let seed = self.programming.next_seed();
        let (room, programming) = (&self.slots[slot], &mut self.programming);
        let Some(kept) = room.program.as_deref() else { return Called::NotAsked };
        let Some(rule) = programming.programs.rule(program) else { return Called::NotAsked };
        let Some(engine) = &mut programming.engine else { return Called::NotAsked };
        let body_bytes_max =
            frame_bytes_max.saturating_sub(room.name.as_str().len() + rule.user.as_str().len() + FRAME_OVERHEAD_BYTES);
        let mut state = StateDraft::new(&kept.state, state_bytes_max, time_ms);
        let (mut effects, mut spent) = (Effects::new(body_bytes_max, &rule.post_to), Spent::default());
        let has = |user: &str| UserName::new(user).is_ok_and(|user| room.has_member(&user));
        let facts = RoomFacts {
            name: room.name.as_str(),
            epoch: room.epoch,
            head: room.head(),
            members: room.members_count(),
            now_ms: time_ms,
            seed,
            has: &has,
        };
        let limits = programming.limits;
        let watch_us = (limits.watch_us != 0).then_some(limits.watch_us);
        let budget = Budget { units: limits.units_per_call_max, bytes: limits.call_bytes_max, watch_us };
        let (state_in, effects_in, spent_in) = (&mut state, &mut effects, &mut spent);
        let call = Call { event, room: facts, state: state_in, effects: effects_in, budget, spent: spent_in };
        let verdict = engine.call(program, call);
        let verdict = verdict.and_then(|verdict| checked(event, verdict, &effects));
        let verdict = verdict.map(|verdict| with_class(room, verdict));
        let said = said_bytes(event, verdict.as_ref().ok()) + effects.views_bytes();
        let beside = said + state.bytes() + STATE_OVERHEAD_BYTES;
        let verdict = verdict.and_then(|verdict| fits_commit(&effects, beside, commit_bytes_max).map(|()| verdict));
        // What a stopping server would begin nobody sees any more: its programs decide, and do nothing.
        let (changes, effects) = match self.draining {
            true => Default::default(),
            false => (state.into_changes(), effects.take()),
        };
        turn.counters.steps += 1;
        // What the watch ended took more than its units say: it has the rest of the turn, and its room pays for a whole one, but not
        // for more than it has a second.
        let over_time = limits.units_per_turn_max.min(limits.units_per_second_max);
        let (left, paid) = match spent.is_over_time {
            true => (0, over_time.max(spent.units)),
            false => (programming.units_left.saturating_sub(spent.units.max(1)), spent.units),
        };
        programming.units_left = left;
        if let Some(counts) = programming.counts.get_mut(usize::from(program.0)) {
            counts.calls += 1;
            counts.units += u64::from(spent.units);
            match &verdict {
                Ok(Verdict::Refuse { .. }) => counts.refusals += 1,
                Ok(Verdict::Edit(_)) => counts.edits += 1,
                Ok(Verdict::Take { .. }) => counts.takes += 1,
                _ => {}
            }
        }
        let Some(kept) = self.slots[slot].program.as_deref_mut() else { return Called::NotAsked };
        kept.units.take(paid);
        kept.usage.add(turn.now.monotonic_ms, paid, verdict.is_err());
        match verdict {
            Ok(verdict) => {
                if !changes.is_empty() {
                    kept.state.apply(changes);
                    kept.is_unsaid = true;
                    self.set_timer(slot);
                }
                Called::Decided(verdict, effects)
            }
            Err(fault) => self.faulted(slot, program, fault, turn),
        }
    }

    /// Bytes of a room's state at most: what is configured, as far as one state fits a commit beside a message.
    fn state_bytes_max(&self, slot: usize) -> usize {
        let configured = self.programming.limits.state_bytes_max as usize;
        let message_bytes_max = self.limits.frame_bytes_max as usize + FRAME_OVERHEAD_BYTES;
        let fits = self.logs.of(self.slots[slot].id).map(|journal| journal.state_bytes_max(message_bytes_max));
        fits.map_or(configured, |fits| configured.min(fits.saturating_sub(STATE_OVERHEAD_BYTES)))
    }

    fn faulted(&mut self, slot: usize, program: ProgramId, fault: Fault, turn: &mut Turn<'_>) -> Called {
        let kind = fault.kind;
        let room = &mut self.slots[slot];
        let name = self.programming.name_of(program);
        self.programming.note(&name, (&room.name, room.head()), Noted::Failed(fault));
        let suspended_ms = room.program.as_deref_mut().and_then(|kept| kept.faults.add(turn.now.monotonic_ms));
        if let Some(for_ms) = suspended_ms {
            self.suspended(slot, program, for_ms);
        }
        self.failed(program, kind)
    }

    fn suspended(&mut self, slot: usize, program: ProgramId, for_ms: u64) {
        let room = &self.slots[slot];
        let name = self.programming.name_of(program);
        self.programming.note(&name, (&room.name, room.head()), Noted::Suspended(for_ms));
        if let Some(counts) = self.programming.counts.get_mut(usize::from(program.0)) {
            counts.suspensions += 1;
        }
        self.tally(slot);
    }

    fn failed(&mut self, program: ProgramId, kind: FaultKind) -> Called {
        if let Some(counts) = self.programming.counts.get_mut(usize::from(program.0)) {
            counts.faults[kind as usize] += 1;
        }
        Called::Failed(kind)
    }
}

/// A verdict that belongs to what was asked, and is not too long.
fn checked(event: &Event<'_>, verdict: Verdict, effects: &Effects<'_>) -> Result<Verdict, Fault> {
    let body_bytes_max = effects.body_bytes_max();
    let hook = event.hook();
    let fault = |message: String| Err(Fault::new(FaultKind::Error, message));
    match &verdict {
        Verdict::Pass => match event {
            Event::Post { body, .. } if effects.views_bytes() > 0 => {
                let bytes = body.bytes.len() + effects.views_bytes();
                if bytes > body_bytes_max {
                    let message = format!("the body, with its views, is larger than {body_bytes_max} bytes");
                    return Err(Fault::new(FaultKind::Effects, message));
                }
            }
            _ => {}
        },
        Verdict::Edit(_) | Verdict::Take { .. } | Verdict::Route(_) if hook != Hook::Post => {
            return fault(format!("`{}` has a verdict that only `post` can have", hook.name()));
        }
        Verdict::Route(room) => {
            let granted = effects.may_reach(room);
            granted.map_err(|why| Fault::new(FaultKind::Effects, format!("route: {why}")))?;
        }
        Verdict::Edit(body) if body.len() + effects.views_bytes() > body_bytes_max => {
            return Err(Fault::new(
                FaultKind::Effects,
                format!("the edited body, with its views, is larger than {body_bytes_max} bytes"),
            ));
        }
        Verdict::Take { reply: Some(reply) } if reply.len() > REPLY_BYTES_MAX => {
            return Err(Fault::new(FaultKind::Effects, format!("the reply is larger than {REPLY_BYTES_MAX} bytes")));
        }
        Verdict::Edit(_) | Verdict::Take { .. } => {}
        Verdict::Refuse { .. } if matches!(hook, Hook::Leave | Hook::Tick | Hook::Upgrade) => {
            return fault(format!("`{}` has nothing to refuse", hook.name()));
        }
        Verdict::Refuse { reason, message, .. } => {
            let message_bytes = message.as_deref().map_or(0, str::len);
            if reason.len() > REASON_BYTES_MAX || message_bytes > MESSAGE_BYTES_MAX {
                return fault(format!(
                    "a refusal has a reason of {REASON_BYTES_MAX} bytes at most, and a message of {MESSAGE_BYTES_MAX}"
                ));
            }
        }
        Verdict::Admit { class: Some(_), .. } if hook != Hook::Join => {
            return fault(format!("`{}` has no reader to put into a class", hook.name()));
        }
        Verdict::Admit { .. } if !matches!(hook, Hook::Join | Hook::Fetch) => {
            return fault(format!("`{}` has no beginning to move", hook.name()));
        }
        Verdict::Admit { .. } => {}
    }
    Ok(verdict)
}

/// A reader for whom the room has no class left is refused. That is no fault of the program's: who comes in is not its choice.
fn with_class(room: &Room, verdict: Verdict) -> Verdict {
    match &verdict {
        Verdict::Admit { class: Some(class), .. } if !room.takes_class(class) => Verdict::Refuse {
            reason: "classes".into(),
            message: Some(format!("the readers of a room are of {VIEWS_MAX} classes at a time at most").into()),
            retry_after_ms: None,
        },
        _ => verdict,
    }
}

/// Bytes of what a call is about, where that gets a place.
fn said_bytes(event: &Event<'_>, verdict: Option<&Verdict>) -> usize {
    match (event, verdict) {
        (Event::Post { .. }, Some(Verdict::Edit(body))) => body.len(),
        (Event::Post { body, .. }, _) => body.bytes.len(),
        _ => 0,
    }
}

/// That what a call says fits one commit, with what it is about and the room's state.
fn fits_commit(effects: &Effects<'_>, beside_bytes: usize, commit_bytes_max: usize) -> Result<(), Fault> {
    let (posts, bytes) = effects.own_posts();
    if posts == 0 || bytes + beside_bytes + (posts + 1) * FRAME_OVERHEAD_BYTES <= commit_bytes_max {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::Effects,
        "its posts do not fit one commit of the log with this one: log_commit_bytes_max",
    ))
}
