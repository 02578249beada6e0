//! A node of a cluster: hears which others live, claims the partitions when nobody has them, serves them, and steps down when another
//! has claimed one.
//!
//! All partitions belong to one node: it serves when each of them is open, and the others stand by. Who stands by claims when no living
//! node has the partitions or takes them: the first in rank at once, each further one later.
//!
//! Invariants:
//! - No clock is asked what may be done, only what is tried: two nodes that both think themselves the owner cost each other their
//!   terms, and nobody a message ([`crate::terms`]).
//! - One that has lost a partition gives up all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use banter_log::index::IndexBuilder;
use banter_log::journal::{Answer as DiskAnswer, Ask as DiskAsk, JournalParts};

use crate::cache::EngineCache;
use crate::engine::{self, Answer, Ask, Ticket};
use crate::entry::{NodeId, StreamId};
use crate::loading::LoadFault;
use crate::members::{Beat, Members, NodeState};
use crate::partition::{self, Closing, Partition, PartitionConfig, State};
use crate::store::StoredSegment;

mod claiming;

/// How often a node tells that it lives, in milliseconds.
pub const BEAT_MS: u64 = 500;
/// How much later than the one before it the next in rank claims, in milliseconds.
pub const RANK_MS: u64 = 500;
/// A node that has not heard itself over the engine for so long sends its clients away, if another may have its partitions by then,
/// in milliseconds: longer than the engine takes to start again, so that a restart of all of it disconnects nobody.
const CUT_OFF_MS: u64 = 15_000;
/// A node that does not know for so long whether partitions are still its own gives them up, if one stands by whom the engine
/// answers, in milliseconds: its own answers may be lost on their way, though all hear that it lives.
const DOUBTFUL_MS: u64 = 10_000;
/// For how long it counts that the engine answered one that stands by, in milliseconds.
const REACHED_MS: u64 = 3_000;
/// How often it looks whether partitions are still its own that it may have lost, in milliseconds.
const DOUBT_MS: u64 = 1_000;

/// Bits of a ticket below those that say which partition it is of.
const PARTITION_SHIFT: u32 = 56;
/// A ticket of an ask by which one that stands by looks whether the engine answers: no partition's.
const LOOK: u64 = (1 << PARTITION_SHIFT) - 1;

/// How a node is made.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster, by chance.
    pub cluster: u64,
    /// The node's name.
    pub name: String,
    /// Where clients reach it.
    pub addresses: Vec<String>,
    /// The version of the server.
    pub version: String,
    /// How many partitions the cluster has.
    pub partitions: u16,
    /// What holds for each.
    pub partition: PartitionConfig,
    /// A node that was not heard for so long is dead, in milliseconds.
    pub dead_after_ms: u64,
    /// Bytes that are kept of what was read of the engine.
    pub engine_cache_bytes: u64,
    /// Bytes of indexes of all partitions that the engine has not taken: from there on no segment begins, and posts that need one are
    /// answered `log_full`. They are in memory about twice.
    pub unkept_bytes_max: u64,
}

/// The time of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since some moment, never going back.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970: for people.
    pub unix_ms: u64,
}

/// What happens.
#[derive(Debug)]
pub enum Input {
    /// A partition's journal asks.
    Disk(engine::Partition, DiskAsk),
    /// The engine answered.
    Engine(Answer),
    /// Those segments of a partition are too old, the oldest of each class first.
    Forget(engine::Partition, Vec<u64>),
    /// A segment of a partition that is written gets too old, as in [`DiskAnswer::Retire`].
    Retire {
        /// The partition.
        partition: engine::Partition,
        /// The segment.
        segment: u64,
        /// If its first message is at most of that time.
        first_ms: u64,
        /// Also where there is no next one, if its newest message is.
        newest_ms: u64,
    },
    /// It is to own nothing any more. What the journals asked before is done first.
    Drain,
    /// The time has come that [`Node::next_due`] says.
    Tick,
}

/// What follows.
#[derive(Debug)]
pub enum Out {
    /// The engine is to do that.
    Ask(Ask),
    /// A partition is served by this node from now on; its journal is made of that.
    Opened(engine::Partition, Box<JournalParts>),
    /// A partition's journal is told.
    Disk(engine::Partition, DiskAnswer),
    /// A partition is not served any more; its journal is dropped.
    Closed(engine::Partition),
    /// All partitions are open: clients are served.
    Serve,
    /// They are not any more.
    StandBy,
    /// Where clients may go, the owner first.
    Nodes(Vec<String>),
    /// All that this node had is given up: it may end.
    Drained,
    /// An index is to be dropped where nobody waits.
    LetGo(Arc<IndexBuilder>),
    /// For the server's log.
    Note(Note),
}

/// What the server's log is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The partitions are being taken over.
    Claims {
        /// Who had them last, if that was heard.
        from: Option<String>,
    },
    /// They are open.
    Serves {
        /// How long it took, in milliseconds.
        took_ms: u64,
        /// Messages of streams that were read.
        read: u64,
        /// Those that are not open, and whose rooms are not served.
        missing: Vec<engine::Partition>,
    },
    /// Taking them over takes long.
    Waits {
        /// How long so far, in milliseconds.
        took_ms: u64,
        /// Partitions that are open.
        open: usize,
        /// Those whose stream does not take the claim.
        claimed: usize,
        /// Those that are being read.
        read: usize,
    },
    /// A partition is open that was not when the others began to be served.
    Opened {
        /// Which.
        partition: engine::Partition,
    },
    /// They are another's.
    StepsDown {
        /// Why.
        why: SteppedDown,
    },
    /// A partition's stream is not what it should be.
    Broken {
        /// Which.
        partition: engine::Partition,
        /// Why.
        fault: LoadFault,
    },
    /// The engine does not answer for a partition: whether it is still this node's is not known.
    Doubtful {
        /// Which.
        partition: engine::Partition,
    },
    /// It is.
    Trusted {
        /// Which.
        partition: engine::Partition,
    },
}

/// Why a node steps down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteppedDown {
    /// Another claimed a partition.
    Lost {
        /// Which.
        partition: engine::Partition,
    },
    /// The engine cannot be reached from here, or its answers do not come; others may have claimed, or will.
    CutOff,
    /// It is stopping.
    Drains,
}

/// The machine.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    id: NodeId,
    cache: EngineCache,
    members: Members,
    partitions: Vec<Partition>,
    state: NodeState,
    /// Since when it listens, or nobody owns the partitions.
    ownerless_since_ms: Option<u64>,
    claims_since_ms: u64,
    /// How long it took when it was told last that it takes long.
    waits_told_ms: u64,
    beat_ms: u64,
    doubt_ms: u64,
    /// Another was heard that thinks itself the owner.
    has_rival: bool,
    /// The partition that is looked at next.
    looked_at: u16,
    /// When the engine answered it last while it stood by.
    reached_ms: Option<u64>,
    /// Since when partitions are doubtful.
    doubtful_since_ms: Option<u64>,
    /// When a stream's leader answered it last.
    answered_ms: u64,
    /// When broken partitions are tried again.
    mend_ms: u64,
    /// When it heard itself last.
    heard_itself_ms: u64,
    wakes: BTreeSet<(u64, u16)>,
    /// Partitions that are claimed, in turn.
    unclaimed: BTreeSet<u16>,
    read: u64,
    nonce: u64,
    told_nodes: Vec<String>,
    last_owner: Option<String>,
    is_drained: bool,
}

impl Node {
    /// A node that starts now, and stands by.
    pub fn new(config: NodeConfig, now: Now) -> Self {
        let id = config.partition.by;
        let stream = |number| StreamId { cluster: config.cluster, partition: engine::Partition(number) };
        let partitions =
            (0..config.partitions).map(|number| Partition::new(stream(number), config.partition)).collect();
        Node {
            id,
            cache: EngineCache::new(config.engine_cache_bytes),
            members: Members::new(config.cluster, config.dead_after_ms),
            partitions,
            state: NodeState::Standby,
            ownerless_since_ms: Some(now.monotonic_ms),
            claims_since_ms: 0,
            waits_told_ms: 0,
            beat_ms: now.monotonic_ms,
            doubt_ms: 0,
            has_rival: false,
            looked_at: 0,
            reached_ms: None,
            doubtful_since_ms: None,
            answered_ms: now.monotonic_ms,
            mend_ms: 0,
            heard_itself_ms: now.monotonic_ms,
            wakes: BTreeSet::new(),
            unclaimed: BTreeSet::new(),
            read: 0,
            nonce: id.run,
            told_nodes: Vec::new(),
            last_owner: None,
            is_drained: false,
            config,
        }
    }

    /// What it does.
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// What each partition is doing.
    pub fn partitions(&self) -> impl Iterator<Item = State> {
        self.partitions.iter().map(Partition::state)
    }

    /// Partitions whose posts find no space.
    pub fn full(&self) -> impl Iterator<Item = engine::Partition> {
        let full = self.partitions.iter().zip(0..).filter(|(partition, _)| partition.lacks_space());
        full.map(|(_, number)| engine::Partition(number))
    }

    /// The segments of a partition, while it is open.
    pub fn segments(&self, partition: engine::Partition) -> impl Iterator<Item = &StoredSegment> {
        self.partitions.get(partition.index()).into_iter().flat_map(Partition::segments)
    }

    /// The nodes that were heard.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// When [`Input::Tick`] is due.
    pub fn next_due(&self) -> u64 {
        let wake_ms = self.wakes.first().map_or(u64::MAX, |(due_ms, _)| *due_ms);
        wake_ms.min(self.beat_ms)
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: Input, now: Now, out: &mut Vec<Out>) {
        match input {
            Input::Disk(partition, ask) => self.partition(partition.0, partition::Input::Disk(ask), now, out),
            Input::Forget(partition, segments) => {
                self.partition(partition.0, partition::Input::Forget { segments }, now, out);
            }
            Input::Retire { partition, segment, first_ms, newest_ms } => {
                self.partition(partition.0, partition::Input::Retire { segment, first_ms, newest_ms }, now, out);
            }
            Input::Engine(Answer::Beat { bytes }) => self.heard(&bytes, now, out),
            Input::Engine(answer) => self.answered(answer, now, out),
            Input::Drain => self.drain(now, out),
            Input::Tick => self.tick(now, out),
        }
    }

    fn answered(&mut self, mut answer: Answer, now: Now, out: &mut Vec<Out>) {
        if let Answer::Appended { .. } | Answer::Refused { .. } | Answer::Tail { tail: Some(_), .. } = answer {
            self.answered_ms = now.monotonic_ms;
        }
        let Some(&mut Ticket(ticket)) = answer.ticket_mut() else { return };
        if ticket & LOOK == LOOK {
            if let Answer::Tail { tail: Some(_), .. } = answer {
                self.reached_ms = Some(now.monotonic_ms);
            }
            return;
        }
        answer.ticket_mut().into_iter().for_each(|own| own.0 = ticket & LOOK);
        self.partition((ticket >> PARTITION_SHIFT) as u16, partition::Input::Engine(answer), now, out);
    }

    fn partition(&mut self, number: u16, input: partition::Input, now: Now, out: &mut Vec<Out>) {
        let Some(partition) = self.partitions.get_mut(usize::from(number)) else { return };
        let mut follows = Vec::new();
        partition.handle(input, now.unix_ms, &mut self.cache, &mut follows);
        for follow in follows {
            self.follow(number, follow, now, out);
        }
    }

    fn follow(&mut self, number: u16, follow: partition::Out, now: Now, out: &mut Vec<Out>) {
        let partition = engine::Partition(number);
        match follow {
            partition::Out::Ask(ask) => {
                let tagged = |Ticket(ticket)| Ticket(ticket | u64::from(number) << PARTITION_SHIFT);
                out.push(Out::Ask(ask.with_ticket(tagged)));
            }
            partition::Out::Disk(answer) => out.push(Out::Disk(partition, answer)),
            partition::Out::LetGo(index) => out.push(Out::LetGo(index)),
            partition::Out::WakeIn(ms) => drop(self.wakes.insert((now.monotonic_ms + ms, number))),
            partition::Out::Doubtful(is_doubtful) => out.push(Out::Note(match is_doubtful {
                true => Note::Doubtful { partition },
                false => Note::Trusted { partition },
            })),
            partition::Out::Opened { parts, read } => {
                self.read += read;
                out.push(Out::Opened(partition, parts));
                if self.state == NodeState::Serving {
                    out.push(Out::Note(Note::Opened { partition }));
                }
                self.claim_next(now, out);
                self.look_whether_all_are_open(now, out);
            }
            partition::Out::Closed(closing) => self.closed(partition, closing, now, out),
        }
    }

    fn closed(&mut self, partition: engine::Partition, closing: Closing, now: Now, out: &mut Vec<Out>) {
        out.push(Out::Closed(partition));
        match closing {
            Closing::Released => {}
            Closing::Lost { .. } => self.step_down(SteppedDown::Lost { partition }, now, out),
            Closing::Broken(fault) => {
                out.push(Out::Note(Note::Broken { partition, fault }));
                self.claim_next(now, out);
                self.look_whether_all_are_open(now, out);
            }
        }
        self.look_whether_drained(now, out);
    }

    fn look_whether_drained(&mut self, now: Now, out: &mut Vec<Out>) {
        let has_none = || self.partitions.iter().all(|it| matches!(it.state(), State::Foreign | State::Broken));
        if self.state == NodeState::Draining && !self.is_drained && has_none() {
            self.is_drained = true;
            self.beat(now, out);
            out.push(Out::Drained);
        }
    }

    fn step_down(&mut self, why: SteppedDown, now: Now, out: &mut Vec<Out>) {
        if matches!(self.state, NodeState::Standby) || (self.state == NodeState::Draining && why != SteppedDown::Drains)
        {
            return;
        }
        self.state = if why == SteppedDown::Drains { NodeState::Draining } else { NodeState::Standby };
        self.ownerless_since_ms = Some(now.monotonic_ms);
        self.unclaimed.clear();
        (self.doubtful_since_ms, self.reached_ms) = (None, None);
        out.push(Out::StandBy);
        out.push(Out::Note(Note::StepsDown { why }));
        for number in 0..self.config.partitions {
            let input = match why {
                // Nobody would hear a release.
                SteppedDown::CutOff => partition::Input::Abandon,
                SteppedDown::Lost { .. } | SteppedDown::Drains => partition::Input::Release { to: 0 },
            };
            self.partition(number, input, now, out);
        }
        self.beat(now, out);
    }

    fn drain(&mut self, now: Now, out: &mut Vec<Out>) {
        match self.state {
            NodeState::Draining => {}
            NodeState::Standby => {
                self.state = NodeState::Draining;
                self.look_whether_drained(now, out);
            }
            NodeState::Claiming | NodeState::Serving => {
                self.step_down(SteppedDown::Drains, now, out);
                self.look_whether_drained(now, out);
            }
        }
    }

    fn heard(&mut self, bytes: &[u8], now: Now, out: &mut Vec<Out>) {
        let Some(beat) = self.members.heard(bytes, now.monotonic_ms) else { return };
        if beat.id() == self.id {
            self.heard_itself_ms = now.monotonic_ms;
            return;
        }
        if beat.state == NodeState::Serving {
            self.last_owner = Some(beat.node.clone());
        }
        let is_rival = matches!(beat.state, NodeState::Serving | NodeState::Claiming);
        match self.state {
            // Two that think themselves the owner: the streams say who is. Also behind a rival that gave up: it may have claimed.
            NodeState::Serving if is_rival || self.has_rival => {
                self.has_rival = is_rival;
                self.doubt(now, out);
            }
            NodeState::Standby => self.look_for_an_owner(now, out),
            _ => {}
        }
    }

    /// Has every partition look whether it is still this node's, now and then.
    fn doubt(&mut self, now: Now, out: &mut Vec<Out>) {
        if now.monotonic_ms < self.doubt_ms {
            return;
        }
        self.doubt_ms = now.monotonic_ms + DOUBT_MS;
        for number in 0..self.config.partitions {
            self.partition(number, partition::Input::Doubt, now, out);
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Out>) {
        while let Some(&(due_ms, number)) = self.wakes.first()
            && due_ms <= now.monotonic_ms
        {
            self.wakes.pop_first();
            self.partition(number, partition::Input::Wake, now, out);
        }
        if self.beat_ms <= now.monotonic_ms {
            self.beat_ms = now.monotonic_ms + BEAT_MS;
            self.beat(now, out);
            self.look_around(now, out);
            self.hold();
        }
    }

    /// What is sealed while the engine takes no index, as where the stream of the indexes is full, must not fill the memory.
    fn hold(&mut self) {
        let unkept_bytes: u64 = self.partitions.iter().map(Partition::unkept_bytes).sum();
        let is_held = unkept_bytes >= self.config.unkept_bytes_max;
        self.partitions.iter_mut().for_each(|partition| partition.hold(is_held));
    }

    fn look_around(&mut self, now: Now, out: &mut Vec<Out>) {
        let now_ms = now.monotonic_ms;
        match self.state {
            NodeState::Standby => {
                self.look_whether_the_engine_answers(out);
                self.look_for_an_owner(now, out);
            }
            NodeState::Serving | NodeState::Claiming => {
                self.claim_next(now, out);
                self.look_whether_all_are_open(now, out);
                self.mend(now, out);
                let silent_ms = now_ms.saturating_sub(self.heard_itself_ms);
                if silent_ms >= CUT_OFF_MS || self.is_doubtful_for_long(now) {
                    self.step_down(SteppedDown::CutOff, now, out);
                } else if silent_ms >= self.config.dead_after_ms {
                    self.doubt(now, out);
                } else {
                    // One that nobody posts to would never hear that it is another's.
                    self.looked_at = (self.looked_at + 1) % self.config.partitions;
                    self.partition(self.looked_at, partition::Input::Look, now, out);
                }
            }
            NodeState::Draining => {}
        }
        self.tell_nodes(now, out);
    }

    fn look_whether_the_engine_answers(&mut self, out: &mut Vec<Out>) {
        self.looked_at = (self.looked_at + 1) % self.config.partitions;
        let partition = engine::Partition(self.looked_at);
        out.push(Out::Ask(Ask::Tail { partition, ticket: Ticket(u64::from(partition.0) << PARTITION_SHIFT | LOOK) }));
    }

    /// Whether another would know better than this one does by now.
    fn is_doubtful_for_long(&mut self, now: Now) -> bool {
        let is_doubtful = |partition: &Partition| match partition.state() {
            State::Open { is_doubtful, .. } => is_doubtful,
            State::Claiming => true,
            State::Foreign | State::Loading { .. } | State::Releasing | State::Broken => false,
        };
        if !self.partitions.iter().any(is_doubtful) {
            self.doubtful_since_ms = None;
            return false;
        }
        let since_ms = *self.doubtful_since_ms.get_or_insert(now.monotonic_ms);
        let is_long = now.monotonic_ms.saturating_sub(since_ms) >= DOUBTFUL_MS;
        // One stream without a leader is nobody's fault: whom no leader answers is cut off.
        let is_unanswered = now.monotonic_ms.saturating_sub(self.answered_ms) >= REACHED_MS;
        is_long && is_unanswered && self.members.has_heir(self.id, now.monotonic_ms)
    }

    fn tell_nodes(&mut self, now: Now, out: &mut Vec<Out>) {
        let nodes = self.members.addresses(now.monotonic_ms);
        if nodes != self.told_nodes {
            self.told_nodes.clone_from(&nodes);
            out.push(Out::Nodes(nodes));
        }
    }

    fn beat(&mut self, now: Now, out: &mut Vec<Out>) {
        let states = || self.partitions.iter().map(Partition::state);
        let count = |is: fn(State) -> bool| states().filter(|state| is(*state)).count() as u16;
        let term = |state| if let State::Open { term, .. } = state { term } else { 0 };
        let beat = Beat {
            cluster: self.config.cluster,
            node: self.config.name.clone(),
            run: self.id.run,
            state: self.state,
            addresses: self.config.addresses.clone(),
            open: count(|state| matches!(state, State::Open { .. })),
            doubtful: count(|state| matches!(state, State::Open { is_doubtful: true, .. })),
            broken: count(|state| state == State::Broken),
            term: states().map(term).max().unwrap_or(0),
            reaches_engine: self.reached_ms.is_some_and(|at_ms| now.monotonic_ms.saturating_sub(at_ms) < REACHED_MS),
            levels: self.config.partition.levels,
            unix_ms: now.unix_ms,
            version: self.config.version.clone(),
        };
        out.push(Out::Ask(Ask::Beat { bytes: beat.write().into() }));
    }
}

/// Partitions by what they are doing, for who looks at a node.
pub fn counted(states: impl Iterator<Item = State>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for state in states {
        let name = match state {
            State::Foreign => "foreign",
            State::Claiming => "claiming",
            State::Loading { .. } => "loading",
            State::Open { is_doubtful: false, .. } => "open",
            State::Open { is_doubtful: true, .. } => "doubtful",
            State::Releasing => "releasing",
            State::Broken => "broken",
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}
