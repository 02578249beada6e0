//! What becomes of a decision: what is answered, what stands instead of a post or behind it, and what is committed with it or alone.

use banter_log::key::body_hash;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::event::Message;
use banter_protocol::ids::{RoomId, RoomName, Sequence, UserName};
use banter_protocol::native::{self, Views};
use banter_protocol::request::Body;
use bytes::Bytes;

use super::{Called, Noted};
use crate::address::{Core, Peer};
use crate::backend::BACKEND;
use crate::commits::{Decided, Open, log_is_full};
use crate::pages::{PageAsk, refuse_fetch};
use crate::parcel::{Answer, FetchAsk, JoinAsk, OwnedBody, Record, Refusal, SayAsk, Up};
use crate::program::{ClassName, Effect, Event, FaultKind, Verdict};
use crate::programs::{By, OnFault, ProgramRule};
use crate::room_program::RoomProgram;
use crate::rooms::{Post, Rooms};
use crate::turn::Turn;

/// Programs that a post may come through on its way from room to room; what comes through more is dropped, and counted.
const HOPS_MAX: u8 = 3;
/// The reason of a refusal behind [`HOPS_MAX`] programs.
const TOO_MANY_HOPS: &str = "hops";
/// The reason of a refusal above `body_bytes_max`.
const TOO_LARGE: &str = "too_large";
/// When to try again what a program could not route, since the lane was full, in milliseconds.
const ROUTE_RETRY_AFTER_MS: u64 = 100;

/// On which conditions a program lets somebody read.
#[derive(Default)]
pub(crate) struct Admission {
    /// Nothing before that place is given.
    from: Sequence,
    class: Option<ClassName>,
}

/// What a program made of a post.
pub(crate) struct PostDecided {
    /// What stands instead of its body.
    pub(crate) body: Option<OwnedBody>,
    /// What classes of readers are shown instead of that, as [`Views`](banter_protocol::native::Views) has it.
    pub(crate) views: Vec<u8>,
    /// What goes with its place.
    pub(crate) decided: Box<Decided>,
    /// What the program says behind it, and as whom.
    pub(crate) own: Vec<Bytes>,
    pub(crate) user: Option<UserName>,
    /// It is said in that room instead.
    pub(crate) route: Option<RoomName>,
}

impl PostDecided {
    fn routed(room: RoomName) -> Self {
        let (body, views, decided, own, user) = (None, Vec::new(), Box::default(), Vec::new(), None);
        PostDecided { body, views, decided, own, user, route: Some(room) }
    }
}

impl Rooms {
    fn on_fault(&self, slot: usize) -> OnFault {
        let program = self.slots[slot].program.as_ref().and_then(|kept| kept.program);
        program
            .and_then(|program| self.programming.programs.rule(program))
            .map_or(OnFault::Refuse, |rule| rule.on_fault)
    }

    fn suspended_for_ms(&self, slot: usize) -> Option<u64> {
        let (kept, now_ms) = (self.slots[slot].program.as_deref()?, self.programming.now_ms);
        kept.faults.suspended_until(now_ms).map(|until_ms| until_ms - now_ms)
    }

    /// What is answered where the program decided against it, or did not decide; none: it goes on.
    fn refusal_of_call(&self, slot: usize, called: &Called) -> Option<Refusal> {
        match called {
            Called::NotAsked => None,
            Called::Decided(Verdict::Refuse { reason, message, retry_after_ms }, _) => Some(Refusal {
                code: ErrorCode::ProgramRefused,
                message: message.as_deref().unwrap_or("the room's program refused it").to_owned().into(),
                retry_after_ms: *retry_after_ms,
                scope: None,
                reason: Some(reason.clone()),
            }),
            Called::Decided(..) => None,
            Called::Failed(_) if self.on_fault(slot) == OnFault::Pass => None,
            Called::Failed(kind) => Some(Refusal {
                code: ErrorCode::ProgramFailed,
                message: "the room's program failed, and nothing passes without it".into(),
                retry_after_ms: self.suspended_for_ms(slot).filter(|_| *kind == FaultKind::Suspended),
                scope: None,
                reason: Some(kind.name().into()),
            }),
            Called::Unread(retry_after_ms) => Some(Refusal {
                code: ErrorCode::Overloaded,
                message: "the log could not be read for what the room's program remembers: try again".into(),
                retry_after_ms: Some(*retry_after_ms),
                scope: Some(Scope::Server),
                reason: None,
            }),
            Called::Full => Some(log_is_full()),
            Called::TooLarge(body_bytes_max) => Some(Refusal {
                code: ErrorCode::ProgramRefused,
                message: format!(
                    "this room's program decides of bodies of {body_bytes_max} bytes at most: body_bytes_max"
                )
                .into(),
                retry_after_ms: None,
                scope: None,
                reason: Some(TOO_LARGE.into()),
            }),
            Called::Later(retry_after_ms) => Some(Refusal {
                code: ErrorCode::RateLimited,
                message: "the room's program has taken what it may of a second: units_per_second_max".into(),
                retry_after_ms: Some(*retry_after_ms),
                scope: Some(Scope::Room),
                reason: None,
            }),
        }
    }

    /// Has the program decide of a post, ahead of its place.
    pub(crate) fn decide_post(
        &mut self,
        slot: usize,
        (user, key, body, hop): (&UserName, Option<&str>, &OwnedBody, u8),
        turn: &mut Turn<'_>,
    ) -> Result<Option<PostDecided>, Answer> {
        if hop >= HOPS_MAX {
            self.count_dropped(slot);
            let message = "this post came through more rooms with programs than it may";
            let refusal = Refusal::new(ErrorCode::ProgramRefused, message);
            return Err(Answer::PostRefused(Refusal { reason: Some(TOO_MANY_HOPS.into()), ..refusal }));
        }
        let called = self.call(slot, &Event::Post { user, key, hop, body }, turn);
        if let Some(refusal) = self.refusal_of_call(slot, &called) {
            if let Called::Decided(_, effects) = called {
                self.open_beside(slot, effects, turn);
            }
            return Err(Answer::PostRefused(refusal));
        }
        let Called::Decided(verdict, effects) = called else { return Ok(None) };
        let edited = match verdict {
            Verdict::Edit(body) => Some(OwnedBody::json(body.into())),
            Verdict::Take { reply } => {
                self.open_beside(slot, effects, turn);
                let room = self.slots[slot].name.clone();
                return Err(Answer::Taken { room, reply: reply.map(Bytes::from) });
            }
            Verdict::Route(room) => {
                self.open_beside(slot, effects, turn);
                return Ok(Some(PostDecided::routed(room)));
            }
            _ => None,
        };
        let sent_body_hash = edited.as_ref().filter(|_| key.is_some()).map(|_| body_hash(&body.bytes).into());
        let user = self.user_of_program(slot);
        let (own, views, effects) = split(effects);
        let (state, is_own, is_behind) = (self.unsaid_state(slot), false, false);
        let decided = Box::new(Decided { state, effects, sent_body_hash, is_own, is_behind, hop, by: self.by(slot) });
        Ok(Some(PostDecided { body: edited, views, decided, own, user, route: None }))
    }

    /// Has the program decide of something that gets no place.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn decide(&mut self, slot: usize, event: &Event<'_>, turn: &mut Turn<'_>) -> Result<Admission, Refusal> {
        let called = self.call(slot, event, turn);
        let refusal = self.refusal_of_call(slot, &called);
        let mut admission = Admission::default();
        if let Called::Decided(verdict, effects) = called {
            if let Verdict::Admit { from, class } = verdict {
                admission = Admission { from, class };
            }
            self.open_beside(slot, effects, turn);
        }
        refusal.map_or(Ok(admission), Err)
    }

    pub(super) fn by(&self, slot: usize) -> Option<By> {
        let program = self.slots[slot].program.as_ref()?.program?;
        Some(self.programming.programs.by(program))
    }

    fn user_of_program(&self, slot: usize) -> Option<UserName> {
        let program = self.slots[slot].program.as_ref()?.program?;
        self.programming.programs.rule(program).map(|rule| rule.user.clone())
    }

    /// The state as bytes, where the last commit does not have it.
    fn unsaid_state(&mut self, slot: usize) -> Option<Bytes> {
        let kept = self.slots[slot].program.as_deref_mut().filter(|kept| kept.is_unsaid)?;
        // What waits from here on has it; if that comes to nothing, it is unsaid again.
        kept.is_unsaid = false;
        Some(kept.state.encode().into())
    }

    /// Commits what a call did that has no place of its own: its posts in the room, its state, and then the rest.
    pub(super) fn open_beside(&mut self, slot: usize, effects: Vec<Effect>, turn: &mut Turn<'_>) {
        // Views are those of a message, and this has no place.
        let (own, _, effects) = split(effects);
        let state = self.unsaid_state(slot);
        let by = self.by(slot);
        let decided = Decided { state, effects, is_own: true, by, ..Decided::default() };
        if !own.is_empty()
            && let Some(user) = self.user_of_program(slot)
        {
            return self.open_own(slot, &user, own, Some(Box::new(decided)), turn);
        }
        if decided.state.is_some() || !decided.effects.is_empty() {
            self.open(Some(slot), Open::State { decided: Box::new(decided) });
        }
        self.is_used_by_program(slot);
    }

    /// Something that a program said came nowhere.
    pub(crate) fn count_dropped(&mut self, slot: usize) {
        if let Some(program) = self.slots[slot].program.as_deref().and_then(|kept| kept.program)
            && let Some(counts) = self.programming.counts.get_mut(usize::from(program.0))
        {
            counts.dropped += 1;
        }
    }

    /// The program says a line for the server's log.
    pub(crate) fn note_of_program(&mut self, slot: usize, rule: &ProgramRule, text: Box<str>) {
        let room = &self.slots[slot];
        self.programming.note(&rule.name, (&room.name, room.head()), Noted::Said(text));
    }

    fn is_used_by_program(&mut self, slot: usize) {
        if self.slots[slot].is_busy() {
            self.is_used(slot);
        }
    }

    /// Gives a program's own posts their places; what is beside goes with the first.
    pub(crate) fn open_own(
        &mut self,
        slot: usize,
        user: &UserName,
        own: Vec<Bytes>,
        mut beside: Option<Box<Decided>>,
        turn: &Turn<'_>,
    ) {
        let count = own.len() as u64;
        for bytes in own {
            let body = OwnedBody::json(bytes);
            let behind = || Box::new(Decided { is_own: true, is_behind: true, ..Decided::default() });
            let decided = beside.take().unwrap_or_else(behind);
            self.open_own_post(slot, user, &body, decided, turn);
        }
        self.is_used_by_program(slot);
        if let Some(program) = self.slots[slot].program.as_deref().and_then(|kept| kept.program)
            && let Some(counts) = self.programming.counts.get_mut(usize::from(program.0))
        {
            counts.posts += count;
        }
    }

    /// Has a post said in another room, as its room's program wants it: what comes of it there is the answer.
    pub(crate) fn route_post(&self, post: Post, room: RoomName, turn: &mut Turn<'_>) -> Result<(), Answer> {
        let Post { author, user, request, key, body, hop } = post;
        let core = self.placement.core_of(RoomId::of(room.as_str()));
        let ask = Box::new(SayAsk { room, author, user, request, key, body, hop: hop + 1 });
        if turn.lanes.try_send_up(core, || Up::Say(ask)) {
            return Ok(());
        }
        Err(Answer::PostRefused(Refusal {
            code: ErrorCode::Overloaded,
            message: "the way to the room that the program routes this to is full".into(),
            retry_after_ms: Some(ROUTE_RETRY_AFTER_MS),
            scope: Some(Scope::Server),
            reason: None,
        }))
    }

    /// Has a program's own user say something in another room: at most once, and nobody is told what came of it.
    pub(crate) fn post_to(
        &self,
        room: RoomName,
        user: UserName,
        body: OwnedBody,
        hop: u8,
        turn: &mut Turn<'_>,
    ) -> bool {
        let core = self.placement.core_of(RoomId::of(room.as_str()));
        let author = Peer { core: turn.lanes.own(), connection: BACKEND };
        let ask = Box::new(SayAsk { room, author, user, request: None, key: None, body, hop: hop + 1 });
        turn.lanes.try_send_up(core, || Up::Say(ask))
    }

    /// A fetch waits for its page, if the room's program has nothing against it.
    pub(crate) fn take_fetch(&mut self, mut ask: FetchAsk, slot: Option<usize>, turn: &mut Turn<'_>) {
        if let Some(slot) = slot
            && let Err(refusal) = self.judge_fetch(slot, &mut ask, turn)
        {
            return refuse_fetch(&ask, refusal, turn);
        }
        self.pages.push(PageAsk::Fetch(ask), turn);
    }

    /// Asks the room's program about a fetch, once.
    pub(crate) fn judge_fetch(&mut self, slot: usize, ask: &mut FetchAsk, turn: &mut Turn<'_>) -> Result<(), Refusal> {
        ask.is_judged = true;
        if self.slots[slot].program.is_some() {
            ask.least = self.decide(slot, &Event::Fetch { user: ask.user.as_ref() }, turn)?.from;
        }
        Ok(())
    }

    /// Where a reader begins by the word of the room's program, and its class; the program may refuse it.
    pub(crate) fn start_by_program(
        &mut self,
        slot: usize,
        start: Sequence,
        ask: &JoinAsk,
        turn: &mut Turn<'_>,
    ) -> Result<(Sequence, Option<ClassName>), Refusal> {
        if self.slots[slot].program.is_none() {
            return Ok((start, None));
        }
        let Admission { from, class } = self.decide(slot, &Event::Join { user: &ask.user }, turn)?;
        // Behind the room's head there is nothing to begin with.
        let shown = self.slots[slot].shown();
        Ok((start.max(from.previous().min(shown)), class))
    }

    /// Who says what a program says: no connection, so that every reader is told it.
    pub(crate) fn nobody() -> Peer {
        Peer { core: Core(0), connection: BACKEND }
    }

    /// Gives a post of a program its place.
    pub(crate) fn open_own_post(
        &mut self,
        slot: usize,
        user: &UserName,
        body: &OwnedBody,
        decided: Box<Decided>,
        turn: &Turn<'_>,
    ) {
        let (time_ms, sequence) = (self.clock.time_ms(), self.next_place(slot));
        let room = &mut self.slots[slot];
        self.scratch.clear();
        let (epoch, room, user) = (room.epoch, room.name.as_str(), user.as_str());
        let body = Body { format: body.format, bytes: &body.bytes };
        native::write_message(&Message { epoch, sequence, time_ms, room, user, key: None, body }, &mut self.scratch);
        let record = Record { sequence, frame: self.scratch[..].into(), author: Self::nobody() };
        let (request, key, since_us, decided) = (None, None, turn.now.monotonic_us, Some(decided));
        self.open(Some(slot), Open::Post { record, request, time_ms, key, since_us, decided, is_answered: false });
    }
}

/// A call's own posts, the views of what it is about, and the rest.
fn split(effects: Vec<Effect>) -> (Vec<Bytes>, Vec<u8>, Vec<Effect>) {
    let (mut own, mut views, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::Post(body) => own.push(body.into()),
            Effect::View(class, body) => {
                let is_written = Views::write(class.as_str(), &body, &mut views);
                debug_assert!(is_written, "a class has a name");
            }
            effect => rest.push(effect),
        }
    }
    (own, views, rest)
}

impl RoomProgram {
    /// What commits say of the room that say nothing new of its state: nothing, where there is none.
    pub(crate) fn carried(&self) -> Option<&Bytes> {
        Some(&self.committed).filter(|committed| !committed.is_empty())
    }
}
