//! What a program of a room is asked, and what it may answer: values alone. Who runs it is behind [`Engine`].
//!
//! ```text
//!  what happens ─Event─▶ Engine::call (reads RoomFacts, writes a StateDraft and Effects, within a Budget) ─▶ Verdict | Fault
//! ```
//!
//! Invariants:
//! - A program runs once, when a place is given; what it decided is what is kept. Nothing is run again on a read or a start.
//! - What a call wrote counts only when it ended with a verdict: a fault undoes the whole call.

use std::fmt;

use banter_protocol::ids::{Epoch, RoomName, Sequence, UserName};
use banter_protocol::native::{CLASS_BYTES_MAX, VIEW_OVERHEAD_BYTES, VIEWS_MAX};

use crate::parcel::OwnedBody;
use crate::policy::RoomPattern;
use crate::room_state::StateDraft;

/// Posts of its own that a call makes in its room at most.
pub const OWN_POSTS_MAX: usize = 8;
/// Posts to other rooms that a call makes at most.
pub const POSTS_TO_MAX: usize = 4;
/// Whispers of a call at most.
pub const WHISPERS_MAX: usize = 16;
/// Signals of a call at most.
pub const SIGNALS_MAX: usize = 4;
/// Lines that a call says in the server's log at most.
pub const LOG_LINES_MAX: usize = 4;
/// Bytes of such a line; what is longer is cut.
pub const LOG_LINE_BYTES_MAX: usize = 256;
/// Bytes of a reason that a program refuses with: a word for the client's code, not for people.
pub const REASON_BYTES_MAX: usize = 64;
/// Bytes of what a program says to people with it: the outbox keeps room for an answer of some hundred bytes, and not more.
pub const MESSAGE_BYTES_MAX: usize = 256;
/// Bytes of what a program replies to a post that it takes, for the same reason. What is longer can be whispered.
pub const REPLY_BYTES_MAX: usize = 256;

/// A program of those in force on a core: its place among [`crate::programs::Programs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramId(pub u16);

/// What a program may be asked about; it says itself for which of them it has a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Hook {
    /// A post, before it gets its place.
    Post = 0,
    /// A reader, before it is added.
    Join = 1,
    /// A reader that is gone.
    Leave = 2,
    /// A signal, before it is sent.
    Signal = 3,
    /// A page of the history, before it is read.
    Fetch = 4,
    /// A timer of the room that came due.
    Tick = 5,
    /// State of another version, before the room's first call.
    Upgrade = 6,
}

impl Hook {
    /// All of them.
    pub const ALL: [Hook; 7] =
        [Hook::Post, Hook::Join, Hook::Leave, Hook::Signal, Hook::Fetch, Hook::Tick, Hook::Upgrade];

    /// The name of its function.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Post => "post",
            Hook::Join => "join",
            Hook::Leave => "leave",
            Hook::Signal => "signal",
            Hook::Fetch => "fetch",
            Hook::Tick => "tick",
            Hook::Upgrade => "upgrade",
        }
    }
}

/// The hooks of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks(u8);

impl Hooks {
    /// These and that one.
    #[must_use]
    pub fn with(self, hook: Hook) -> Self {
        Hooks(self.0 | 1 << hook as u8)
    }

    /// Whether there is one for that.
    pub fn has(self, hook: Hook) -> bool {
        self.0 & 1 << hook as u8 != 0
    }
}

/// What is known of a program once it is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramFacts {
    /// For what it has hooks.
    pub hooks: Hooks,
    /// Of which version its rooms' state is: `version` of the program, 1 where it says none.
    pub version: u32,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Somebody wants to say something.
    Post {
        /// Who.
        user: &'a UserName,
        /// What makes it safe to repeat.
        key: Option<&'a str>,
        /// How many programs it came through already.
        hop: u8,
        /// What.
        body: &'a OwnedBody,
    },
    /// Somebody wants to read the room.
    Join {
        /// Who.
        user: &'a UserName,
    },
    /// Somebody reads it no longer with any connection.
    Leave {
        /// Who.
        user: &'a UserName,
    },
    /// Somebody wants to tell the members something.
    Signal {
        /// Who.
        user: &'a UserName,
        /// What.
        body: &'a OwnedBody,
    },
    /// Somebody wants a part of the history.
    Fetch {
        /// Who; none: a backend.
        user: Option<&'a UserName>,
    },
    /// A timer came due.
    Tick {
        /// Its name.
        name: &'a str,
    },
    /// The room's state is of another version.
    Upgrade {
        /// Of which.
        from: u32,
    },
}

impl Event<'_> {
    /// The hook for it.
    pub fn hook(&self) -> Hook {
        match self {
            Event::Post { .. } => Hook::Post,
            Event::Join { .. } => Hook::Join,
            Event::Leave { .. } => Hook::Leave,
            Event::Signal { .. } => Hook::Signal,
            Event::Fetch { .. } => Hook::Fetch,
            Event::Tick { .. } => Hook::Tick,
            Event::Upgrade { .. } => Hook::Upgrade,
        }
    }
}

/// What a program may know of its room.
#[derive(Clone, Copy)]
pub struct RoomFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its history.
    pub epoch: Epoch,
    /// The last place that was given.
    pub head: Sequence,
    /// Users that read it.
    pub members: u64,
    /// The clock of the room's log, milliseconds since 1970: that of the message that the call is about.
    pub now_ms: u64,
    /// What the call's random numbers come from: given, so that a call can be made again.
    pub seed: u64,
    /// Whether a user reads it.
    pub has: &'a dyn Fn(&str) -> bool,
}

impl fmt::Debug for RoomFacts<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, epoch, head, members, now_ms, seed, has: _ } = self;
        write!(out, "RoomFacts({name} {epoch:?} {head:?} {members} {now_ms} {seed})")
    }
}

/// How much a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Units: a step of a loop is one, and what walks an argument costs by its length.
    pub units: u32,
    /// Bytes that it may have at a time.
    pub bytes: u32,
    /// CPU time of the thread in microseconds, for what is charged too little; none in the simulated world, which has no clock.
    pub watch_us: Option<u32>,
}

/// What a call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Units.
    pub units: u32,
    /// Whether [`Budget::watch_us`] ended it: its units do not say what it took then.
    pub is_over_time: bool,
}

/// One call: what it reads, and where it writes.
#[derive(Debug)]
pub struct Call<'c, 'e> {
    /// What happened.
    pub event: &'e Event<'e>,
    /// The room.
    pub room: RoomFacts<'e>,
    /// The room's state, with what the call changes.
    pub state: &'c mut StateDraft<'e>,
    /// What is to be done beside.
    pub effects: &'c mut Effects<'e>,
    /// How much it may take.
    pub budget: Budget,
    /// How much it took, also when it failed.
    pub spent: &'c mut Spent,
}

/// What a program decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it is.
    Pass,
    /// Of a post: with this JSON value instead of its body.
    Edit(Vec<u8>),
    /// Not at all.
    Refuse {
        /// A word for the client's code; at most [`REASON_BYTES_MAX`].
        reason: Box<str>,
        /// For people; at most [`MESSAGE_BYTES_MAX`].
        message: Option<Box<str>>,
        /// When to try again.
        retry_after_ms: Option<u64>,
    },
    /// Of a post: the program has it, and nobody else sees it.
    Take {
        /// A JSON value for its author.
        reply: Option<Vec<u8>>,
    },
    /// Of a post: it is said in another room instead.
    Route(RoomName),
    /// Of a join or a fetch: so far, and not without conditions.
    Admit {
        /// Nothing before that place is given; 0: all that there is.
        from: Sequence,
        /// Of a join: which views the reader is shown.
        class: Option<ClassName>,
    },
}

/// The name of a class of readers, for which a message may have a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassName(Box<str>);

/// A class has no name, or one that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a class has a name of 1 to {CLASS_BYTES_MAX} bytes")]
pub struct ClassFault;

impl ClassName {
    /// Of that name.
    ///
    /// # Errors
    /// It is empty, or longer than [`CLASS_BYTES_MAX`].
    pub fn new(name: &str) -> Result<Self, ClassFault> {
        if (1..=CLASS_BYTES_MAX).contains(&name.len()) { Ok(ClassName(name.into())) } else { Err(ClassFault) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a call came to no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Fault {
    /// Which kind.
    pub kind: FaultKind,
    /// With line and trace, for the program's author.
    pub message: String,
}

impl Fault {
    /// Of that kind.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Fault { kind, message: message.into() }
    }
}

/// The kinds of faults, and of what stands for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FaultKind {
    /// More units or time than it may take.
    Cpu = 0,
    /// More bytes than it may have.
    Memory = 1,
    /// The room's state would be larger than it may be.
    State = 2,
    /// More effects than a call may have, or one that it has no grant for.
    Effects = 3,
    /// An error of the program, or a verdict that is none.
    Error = 4,
    /// It failed too often, and is not called for a while.
    Suspended = 5,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 6] = [
        FaultKind::Cpu,
        FaultKind::Memory,
        FaultKind::State,
        FaultKind::Effects,
        FaultKind::Error,
        FaultKind::Suspended,
    ];

    /// As clients and metrics are told.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Cpu => "cpu",
            FaultKind::Memory => "memory",
            FaultKind::State => "state",
            FaultKind::Effects => "effects",
            FaultKind::Error => "error",
            FaultKind::Suspended => "suspended",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Something that a call does beside its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Says a JSON value in its own room, behind what it is about, in the same commit.
    Post(Vec<u8>),
    /// Says a JSON value in another room, once this call's own place is kept; at most once.
    PostTo(RoomName, Vec<u8>),
    /// Tells the connections of one user that read the room a JSON value that nobody keeps.
    Whisper(UserName, Vec<u8>),
    /// Tells the members a JSON value that nobody keeps.
    Signal(Vec<u8>),
    /// Of a post: readers of that class are shown this JSON value instead of its body, now and whenever they read it again.
    View(ClassName, Vec<u8>),
    /// Says a line in the server's log.
    Log(Box<str>),
}

impl Effect {
    /// Bytes of what it says.
    pub fn body_bytes(&self) -> usize {
        match self {
            Effect::Post(body) | Effect::PostTo(_, body) | Effect::Whisper(_, body) | Effect::Signal(body) => {
                body.len()
            }
            Effect::View(class, body) => view_bytes(class, body),
            Effect::Log(line) => line.len(),
        }
    }
}

/// What a call does beside its verdict, within the limits of this module.
#[derive(Debug)]
pub struct Effects<'a> {
    list: Vec<Effect>,
    /// Bytes of a body at most.
    body_bytes_max: usize,
    /// Rooms that it may say something in.
    post_to: &'a [RoomPattern],
}

fn view_bytes(class: &ClassName, body: &[u8]) -> usize {
    VIEW_OVERHEAD_BYTES + class.as_str().len() + body.len()
}

/// Why an effect is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectFault {
    /// There are as many of its kind as a call may have.
    #[error("a call may do this {0} times at most")]
    TooMany(usize),
    /// The body is too large for a frame.
    #[error(
        "the body, or all that a call says in its room, or all views, are larger than the {0} bytes that fit a frame"
    )]
    TooLarge(usize),
    /// Nobody gave it that room.
    #[error("`grants` of this program names no room like that in `post_to`")]
    NoGrant,
}

impl<'a> Effects<'a> {
    /// None yet, of a program that may post to those rooms beside its own.
    pub fn new(body_bytes_max: usize, post_to: &'a [RoomPattern]) -> Self {
        Effects { list: Vec::new(), body_bytes_max, post_to }
    }

    /// One more.
    ///
    /// # Errors
    /// It is too large, with the call's other posts too, one too many, or of a room that the program has no grant for.
    pub fn push(&mut self, effect: Effect) -> Result<(), EffectFault> {
        let (body, max) = match &effect {
            Effect::Post(body) => (body.len(), OWN_POSTS_MAX),
            Effect::PostTo(room, body) => {
                self.may_reach(room)?;
                (body.len(), POSTS_TO_MAX)
            }
            Effect::Whisper(_, body) => (body.len(), WHISPERS_MAX),
            Effect::Signal(body) => (body.len(), SIGNALS_MAX),
            Effect::View(class, body) => {
                self.list.retain(|effect| !matches!(effect, Effect::View(there, _) if there == class));
                (view_bytes(class, body), VIEWS_MAX)
            }
            Effect::Log(_) => (0, LOG_LINES_MAX),
        };
        let kind = std::mem::discriminant(&effect);
        // A call's posts together are no larger than one, so that they fit a commit with what they are about; and so are the views
        // of a message, which is one frame with them.
        let said = |there: &Effect| match there {
            _ if std::mem::discriminant(there) != kind => 0,
            Effect::Post(body) => body.len(),
            Effect::View(class, body) => view_bytes(class, body),
            _ => 0,
        };
        if body + self.list.iter().map(said).sum::<usize>() > self.body_bytes_max {
            return Err(EffectFault::TooLarge(self.body_bytes_max));
        }
        if self.list.iter().filter(|there| std::mem::discriminant(*there) == kind).count() >= max {
            return Err(EffectFault::TooMany(max));
        }
        self.list.push(effect);
        Ok(())
    }

    /// That the program may say something in that room.
    ///
    /// # Errors
    /// It may not.
    pub fn may_reach(&self, room: &RoomName) -> Result<(), EffectFault> {
        let is_granted = self.post_to.iter().any(|pattern| pattern.matches(room.as_str()));
        if is_granted { Ok(()) } else { Err(EffectFault::NoGrant) }
    }

    /// Posts in the room itself, and their bytes.
    pub fn own_posts(&self) -> (usize, usize) {
        let own =
            self.list.iter().filter_map(|effect| if let Effect::Post(body) = effect { Some(body.len()) } else { None });
        own.fold((0, 0), |(posts, bytes), body| (posts + 1, bytes + body))
    }

    /// Bytes of the views of what is posted.
    pub fn views_bytes(&self) -> usize {
        let bytes = |effect: &Effect| if let Effect::View(class, body) = effect { view_bytes(class, body) } else { 0 };
        self.list.iter().map(bytes).sum()
    }

    /// Bytes of a body at most.
    pub fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// What they are, in their order.
    pub fn take(self) -> Vec<Effect> {
        self.list
    }
}

/// Runs programs. One core has one, which nobody else touches; it is made on another thread.
pub trait Engine: Send {
    /// What is known of that program.
    fn facts(&self, program: ProgramId) -> ProgramFacts;

    /// Calls a hook that the program has.
    ///
    /// # Errors
    /// It came to no verdict; what it wrote into the call is worth nothing then.
    fn call(&mut self, program: ProgramId, call: Call<'_, '_>) -> Result<Verdict, Fault>;

    /// Does a small step of what is put off until nothing is called, like the collection of garbage; whether there is more of it.
    fn rest(&mut self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_effect_has_its_own_end_and_other_rooms_need_a_grant() {
        let granted = [RoomPattern::new("lobby"), RoomPattern::new("news-*")];
        let mut effects = Effects::new(10, &granted);
        effects.push(Effect::Post(vec![b'1'; 3])).unwrap();
        assert_eq!(effects.push(Effect::Post(vec![b'1'; 8])), Err(EffectFault::TooLarge(10)), "together");
        let room = |name| RoomName::new(name).unwrap();
        for _ in 1..OWN_POSTS_MAX {
            effects.push(Effect::Post(b"1".to_vec())).unwrap();
        }
        assert_eq!(effects.push(Effect::Post(Vec::new())), Err(EffectFault::TooMany(OWN_POSTS_MAX)));
        assert_eq!(effects.push(Effect::Signal(vec![b'1'; 11])), Err(EffectFault::TooLarge(10)));
        assert_eq!(effects.push(Effect::PostTo(room("news-1"), b"1".to_vec())), Ok(()));
        assert_eq!(effects.push(Effect::PostTo(room("staff"), b"1".to_vec())), Err(EffectFault::NoGrant));
        assert_eq!(effects.take().len(), OWN_POSTS_MAX + 1);
    }

    #[test]
    fn a_message_has_one_view_a_class_and_all_of_them_fit_a_frame() {
        let mut effects = Effects::new(200, &[]);
        let view = |class: usize, bytes| Effect::View(ClassName::new(&class.to_string()).unwrap(), vec![b'1'; bytes]);
        for bytes in [190, 1, 3] {
            effects.push(view(0, bytes)).unwrap();
        }
        assert_eq!(effects.views_bytes(), VIEW_OVERHEAD_BYTES + 1 + 3, "the last one counts");
        assert_eq!(effects.push(view(1, 186)), Err(EffectFault::TooLarge(200)));
        for class in 1..VIEWS_MAX {
            effects.push(view(class, 1)).unwrap();
        }
        assert_eq!(effects.push(view(VIEWS_MAX, 1)), Err(EffectFault::TooMany(VIEWS_MAX)));
        assert_eq!((ClassName::new(""), ClassName::new(&"c".repeat(65))), (Err(ClassFault), Err(ClassFault)));
    }

    #[test]
    fn hooks_are_told_apart() {
        let hooks = Hooks::default().with(Hook::Post).with(Hook::Upgrade);
        let has: Vec<bool> = Hook::ALL.into_iter().map(|hook| hooks.has(hook)).collect();
        assert_eq!(has, [true, false, false, false, false, false, true]);
    }
}
