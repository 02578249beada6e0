//! One partition at one node: another node's, being claimed, being read, or served by this one.
//!
//! ```text
//!  Foreign ──claim──▶ Claiming ──claimed──▶ Loading ──loaded──▶ Preparing ──▶ Open
//!     ▲                                                                        │
//!     └───────────────── a foreign claim, a release, a stream that is broken ──┘
//! ```
//!
//! It is the disk of the partition's journal while it is open: what that asks goes to [`Store`], what it pushes to [`Appends`].

use std::ops::Bound;
use std::sync::Arc;

use banter_log::catalog::CutRooms;
use banter_log::index::IndexBuilder;
use banter_log::journal::{Answer as DiskAnswer, Ask as DiskAsk, JournalParts};

use banter_protocol::ids::Epoch;

use crate::appends::{self, Appends, Token};
use crate::cache::EngineCache;
use crate::engine::{Answer, Ask, Tail, Ticket};
use crate::entry::{NodeId, Said, StreamEpochs, StreamId};
use crate::keeping::{Keeping, Standing};
use crate::loading::{LoadFault, Loaded, Loading};
use crate::store::{Store, StoreConfig, StoredSegment};
use crate::terms::{TermClaim, Terms};

mod wiring;

/// What holds for every partition of a node.
#[derive(Clone, Copy, Debug)]
pub struct PartitionConfig {
    /// The node.
    pub by: NodeId,
    /// Appends in flight at most.
    pub appends_in_flight_max: usize,
    /// How the stream is written.
    pub store: StoreConfig,
    /// What epochs follow from in a partition of which nothing was ever said.
    pub epochs: StreamEpochs,
    /// Which rooms have which level and class, as a hash; not 0.
    pub levels: u64,
    /// What a journal is made of.
    pub journal: JournalLimits,
}

/// What a journal is made of, beside what is in the log.
#[derive(Clone, Copy, Debug)]
pub struct JournalLimits {
    /// As in [`JournalParts`].
    pub commit_bytes_max: usize,
    /// As in [`JournalParts`].
    pub reads_max: usize,
    /// As in [`JournalParts`].
    pub work_steps_max: usize,
    /// As in [`JournalParts`].
    pub cache_bytes_max: u64,
}

/// What happens.
#[derive(Debug)]
pub enum Input {
    /// It is to be this node's.
    Claim {
        /// By chance.
        nonce: u64,
    },
    /// Its journal asks.
    Disk(DiskAsk),
    /// The engine answered.
    Engine(Answer),
    /// Whether it is still this node's is to be looked at, ahead of anything else.
    Doubt,
    /// The same, if nothing is under way that would show it anyhow.
    Look,
    /// It is to be given up, to that node by the hash of its name; 0: to any. What the journal asked before is done first.
    Release {
        /// To whom.
        to: u64,
    },
    /// Those of its segments are too old, the oldest of each class first: they are forgotten.
    Forget {
        /// Their numbers.
        segments: Vec<u64>,
    },
    /// A segment that is written gets too old, as in [`DiskAnswer::Retire`].
    Retire {
        /// The segment.
        segment: u64,
        /// If its first message is at most of that time.
        first_ms: u64,
        /// Also where there is no next one, if its newest message is.
        newest_ms: u64,
    },
    /// It is given up without a word: nobody would hear one.
    Abandon,
    /// A pause is over.
    Wake,
}

/// What follows.
#[derive(Debug)]
pub enum Out {
    /// The engine is to do that.
    Ask(Ask),
    /// It is served by this node from now on.
    Opened {
        /// Its journal is made of that.
        parts: Box<JournalParts>,
        /// Messages of its stream that were read for it.
        read: u64,
    },
    /// The journal is told.
    Disk(DiskAnswer),
    /// It is not served by this node any more, or will not be.
    Closed(Closing),
    /// Whether it is still this node's is not known, or is known again.
    Doubtful(bool),
    /// An index is to be dropped where nobody waits.
    LetGo(Arc<IndexBuilder>),
    /// [`Input::Wake`] is due in so many milliseconds.
    WakeIn(u64),
}

/// Why a partition is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Another node claimed it.
    Lost {
        /// Which; 0 and 0: nobody knows.
        by: NodeId,
    },
    /// It was given up.
    Released,
    /// Its stream is not what it should be.
    Broken(LoadFault),
}

/// What a partition's machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is another node's, or nobody's.
    Foreign,
    /// It is being claimed.
    Claiming,
    /// Its stream is being read.
    Loading {
        /// Up to there.
        through: u64,
        /// Of so much.
        of: u64,
    },
    /// It is served.
    Open {
        /// The term.
        term: u64,
        /// Whether that is in doubt.
        is_doubtful: bool,
    },
    /// It is being given up.
    Releasing,
    /// Its stream is not what it should be.
    Broken,
}

/// Whose answer an answer of the engine is, by its ticket: `[ partition 8 ][ purpose 3 ][ generation 5 ][ of that machine 48 ]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Appends = 0,
    Loading = 1,
    Store = 2,
    Keeping = 3,
    Own = 4,
}

const PURPOSE_SHIFT: u32 = 53;
/// Bits of a ticket that say which of the machine's lives it is of: an answer to what was asked in an earlier one is nobody's.
const GENERATION_SHIFT: u32 = 48;
const GENERATIONS: u64 = 32;
/// Tokens of this machine's own entries, apart from those of the store.
const OWN_TOKEN: u64 = 1 << 63;
const RELEASE: Token = Token(OWN_TOKEN);
const PREPARE: Token = Token(OWN_TOKEN | 1);
const FORGET: Token = Token(OWN_TOKEN | 2);
/// How long until an own entry is said again that found no space, in milliseconds.
const SPACE_RETRY_MS: u64 = 1_000;

/// The machine.
#[derive(Debug)]
pub struct Partition {
    stream: StreamId,
    config: PartitionConfig,
    appends: Appends,
    claim: TermClaim,
    stage: Stage,
    is_doubtful: bool,
    is_releasing: bool,
    generation: u64,
    /// The largest run or epoch that was given.
    number: u64,
    epochs: StreamEpochs,
    /// Own entries that found no space.
    unsaid: Vec<(Token, Said)>,
}

#[derive(Debug)]
enum Stage {
    Foreign,
    Claiming,
    Loading(Box<Loading>),
    /// What epochs follow from is being said, ahead of anything else.
    Preparing(Box<Loaded>),
    Open(Box<Open>),
    Broken {
        may_pass: bool,
    },
}

#[derive(Debug)]
struct Open {
    store: Store,
    keeping: Keeping,
    /// Segments that are to be forgotten, and the epochs that are being said ahead of that.
    forgetting: Option<(Vec<u64>, StreamEpochs)>,
}

impl Partition {
    /// Nobody's, as far as this node knows.
    pub fn new(stream: StreamId, config: PartitionConfig) -> Self {
        Partition {
            stream,
            config,
            appends: Appends::new(stream, config.by, config.appends_in_flight_max),
            claim: TermClaim { term: 0, by: config.by, nonce: 0 },
            stage: Stage::Foreign,
            is_doubtful: false,
            is_releasing: false,
            generation: 0,
            number: 0,
            epochs: config.epochs,
            unsaid: Vec::new(),
        }
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        match &self.stage {
            Stage::Foreign => State::Foreign,
            _ if self.is_releasing => State::Releasing,
            Stage::Claiming => State::Claiming,
            Stage::Loading(loading) => {
                let (through, of) = loading.progress();
                State::Loading { through, of }
            }
            Stage::Preparing(_) => State::Loading { through: self.claim.term, of: self.claim.term },
            Stage::Open(_) => State::Open { term: self.claim.term, is_doubtful: self.is_doubtful },
            Stage::Broken { .. } => State::Broken,
        }
    }

    /// Bytes of objects that it holds in memory until the engine has taken them.
    pub fn unkept_bytes(&self) -> u64 {
        if let Stage::Open(open) = &self.stage { open.store.unkept_bytes() } else { 0 }
    }

    /// Whether its posts find no space.
    pub fn lacks_space(&self) -> bool {
        if let Stage::Open(open) = &self.stage { open.store.lacks_space() } else { false }
    }

    /// While it is held no segment begins.
    pub fn hold(&mut self, is_held: bool) {
        if let Stage::Open(open) = &mut self.stage {
            open.store.hold(is_held);
        }
    }

    /// Whether it is broken in a way that may pass by itself: then it may be claimed again.
    pub fn may_be_mended(&self) -> bool {
        matches!(self.stage, Stage::Broken { may_pass: true })
    }

    /// Its segments, while it is open.
    pub fn segments(&self) -> impl Iterator<Item = &StoredSegment> {
        let open = if let Stage::Open(open) = &self.stage { Some(open) } else { None };
        open.into_iter().flat_map(|open| open.store.segments())
    }

    /// Takes what happened; `unix_ms` is the time for people.
    pub fn handle(&mut self, input: Input, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        match input {
            Input::Claim { nonce } if matches!(self.stage, Stage::Foreign | Stage::Broken { .. }) => {
                if matches!(self.stage, Stage::Broken { .. }) {
                    self.appends = Appends::new(self.stream, self.config.by, self.config.appends_in_flight_max);
                }
                (self.stage, self.claim.nonce) = (Stage::Claiming, nonce);
                self.generation = (self.generation + 1) % GENERATIONS;
                self.appends(appends::Input::Claim { nonce }, unix_ms, cache, out);
            }
            Input::Claim { .. } => {}
            Input::Disk(ask) => {
                let mut follows = Vec::new();
                if let Stage::Open(open) = &mut self.stage {
                    open.store.disk(ask, unix_ms, cache, &mut follows);
                }
                self.store_outs(follows, unix_ms, cache, out);
            }
            Input::Engine(answer) => self.engine(answer, unix_ms, cache, out),
            Input::Doubt => self.appends(appends::Input::Doubt, unix_ms, cache, out),
            Input::Look => {
                self.appends(appends::Input::Look, unix_ms, cache, out);
                self.measure(out);
            }
            Input::Release { .. } if self.is_releasing || !self.appends.is_ours() => {}
            Input::Release { to } => {
                self.is_releasing = true;
                self.push(RELEASE, Said::Release { to }, unix_ms, cache, out);
            }
            Input::Forget { segments } => self.forget(segments, unix_ms, cache, out),
            Input::Retire { segment, first_ms, newest_ms } => {
                if matches!(self.stage, Stage::Open(_)) {
                    out.push(Out::Disk(DiskAnswer::Retire { segment, first_ms, newest_ms }));
                }
            }
            Input::Abandon => self.abandon(out),
            Input::Wake => self.wake(unix_ms, cache, out),
        }
    }

    fn push(&mut self, token: Token, said: Said, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        self.appends(appends::Input::Push(token, said), unix_ms, cache, out);
    }

    /// A room of which nothing is left must not go on under an epoch that it had: which ones it may have is said first.
    fn forget(&mut self, segments: Vec<u64>, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        let Stage::Open(open) = &mut self.stage else { return };
        if open.forgetting.is_some() || segments.is_empty() {
            return;
        }
        self.number += 1;
        let epochs = StreamEpochs { blank: self.number, dropped: self.number, ..self.epochs };
        open.forgetting = Some((segments.clone(), epochs));
        self.push(FORGET, Said::Forget { epochs, segments }, unix_ms, cache, out);
    }

    fn may_forget(&mut self, out: &mut Vec<Out>) {
        let Stage::Open(open) = &mut self.stage else { return };
        let Some((segments, epochs)) = open.forgetting.take() else { return };
        self.epochs = epochs;
        for segment in segments {
            open.store.forget(segment);
            let (rooms, blank_epoch) = (CutRooms::Unknown(Bound::Unbounded), Epoch(epochs.blank));
            out.push(Out::Disk(DiskAnswer::Cut { segment, rooms, blank_epoch }));
        }
    }

    fn abandon(&mut self, out: &mut Vec<Out>) {
        self.appends.abandon();
        self.is_releasing = false;
        if !matches!(self.stage, Stage::Foreign | Stage::Broken { .. }) {
            self.close(Stage::Foreign, Closing::Released, out);
        }
    }

    fn engine(&mut self, mut answer: Answer, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        let Some(Ticket(own)) = answer.ticket_mut() else { return };
        let ticket = *own;
        if (ticket >> GENERATION_SHIFT) % GENERATIONS != self.generation {
            return;
        }
        let purpose = ticket >> PURPOSE_SHIFT;
        *own = ticket & ((1 << GENERATION_SHIFT) - 1);
        if purpose == Purpose::Appends as u64 {
            return self.appends(appends::Input::Engine(answer), unix_ms, cache, out);
        }
        let standing = self.reader_standing();
        match &mut self.stage {
            Stage::Loading(loading) if purpose == Purpose::Loading as u64 => {
                let mut follows = Vec::new();
                loading.engine(answer, &mut follows);
                self.loading_outs(follows, unix_ms, cache, out);
            }
            Stage::Open(open) if purpose == Purpose::Store as u64 => {
                let mut follows = Vec::new();
                open.store.engine(answer, cache, &mut follows);
                self.store_outs(follows, unix_ms, cache, out);
            }
            Stage::Open(open) if purpose == Purpose::Keeping as u64 => {
                let mut follows = Vec::new();
                open.keeping.engine(answer, &mut follows);
                self.keeping_outs(follows, unix_ms, cache, out);
                self.purge(out);
            }
            Stage::Open(open) if purpose == Purpose::Own as u64 => {
                match answer {
                    Answer::Tail { tail: Some(Tail { bytes, .. }), .. } => {
                        open.store.set_stream_bytes(bytes);
                        let mut follows = Vec::new();
                        open.keeping.begin_if_due(&open.store, &standing, &mut follows);
                        self.keeping_outs(follows, unix_ms, cache, out);
                    }
                    // What was purged makes room.
                    Answer::Done { .. } => self.measure(out),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn wake(&mut self, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        self.appends(appends::Input::Wake, unix_ms, cache, out);
        for (token, said) in std::mem::take(&mut self.unsaid) {
            self.push(token, said, unix_ms, cache, out);
        }
        let standing = self.reader_standing();
        match &mut self.stage {
            Stage::Loading(loading) => {
                let mut follows = Vec::new();
                loading.wake(&mut follows);
                self.loading_outs(follows, unix_ms, cache, out);
            }
            Stage::Open(open) => {
                let (mut follows, mut kept) = (Vec::new(), Vec::new());
                open.store.wake(unix_ms, cache, &mut follows);
                open.keeping.wake(&open.store, &standing, &mut kept);
                self.store_outs(follows, unix_ms, cache, out);
                self.keeping_outs(kept, unix_ms, cache, out);
            }
            _ => {}
        }
    }

    /// Where a reader stands who knows all that is done.
    fn reader_standing(&self) -> Standing {
        let terms = Terms { through: self.appends.through(), claim: Some(self.claim), is_alive: true };
        Standing { terms, is_certain: !self.is_doubtful, number: self.number, epochs: self.epochs }
    }

    fn claimed(&mut self, term: u64, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        self.claim.term = term;
        if std::mem::take(&mut self.is_doubtful) {
            out.push(Out::Doubtful(false));
        }
        match &mut self.stage {
            Stage::Claiming => {
                let mut follows = Vec::new();
                let loading = Loading::new(self.stream, self.claim, self.config.epochs, &mut follows);
                self.stage = Stage::Loading(Box::new(loading));
                self.loading_outs(follows, unix_ms, cache, out);
            }
            Stage::Open(open) => open.store.claimed(self.claim),
            _ => {}
        }
    }

    /// What epochs follow from is said ahead of anything else, where it is another than before.
    fn loaded(&mut self, mut loaded: Box<Loaded>, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        (self.number, self.epochs) = (loaded.number, loaded.epochs);
        if self.epochs.levels == self.config.levels {
            return self.open(loaded, unix_ms, cache, out);
        }
        if self.epochs.levels != 0 {
            self.number += 1;
            self.epochs.lowered = self.number;
        }
        self.epochs.levels = self.config.levels;
        loaded.epochs = self.epochs;
        loaded.catalog.set_epochs(self.epochs.of_catalog());
        self.stage = Stage::Preparing(loaded);
        self.push(PREPARE, Said::Epochs(self.epochs), unix_ms, cache, out);
    }

    fn open(&mut self, loaded: Box<Loaded>, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        let Loaded {
            mut catalog, covered, indexes, segments, next_segment, newest_version, checkpoint, walked, ..
        } = *loaded;
        // Nothing is written under that number before a segment says it.
        self.number += 1;
        let run = self.number;
        let start_ms = catalog.runs().newest_ms().unwrap_or(0).max(unix_ms);
        catalog.begin(start_ms);
        let mut store = Store::new(self.stream, self.config.store, run, self.claim, segments, next_segment);
        let keeping = Keeping::new(self.stream, self.claim.term, covered, &store, (checkpoint, newest_version));
        let mut follows = Vec::new();
        indexes.iter().for_each(|(&segment, index)| store.keep_index(segment, index.clone(), &mut follows));
        self.stage = Stage::Open(Box::new(Open { store, keeping, forgetting: None }));
        let JournalLimits { commit_bytes_max, reads_max, work_steps_max, cache_bytes_max } = self.config.journal;
        let parts =
            JournalParts { run, commit_bytes_max, reads_max, work_steps_max, cache_bytes_max, catalog, indexes };
        out.push(Out::Opened { parts: Box::new(parts), read: walked });
        self.measure(out);
        self.store_outs(follows, unix_ms, cache, out);
    }

    /// Asks how much the stream holds, which the engine counts and purging lessens: a node by itself knows only what it added.
    fn measure(&mut self, out: &mut Vec<Out>) {
        if matches!(self.stage, Stage::Open(_)) {
            let tail = Ask::Tail { partition: self.stream.partition, ticket: Ticket(0) };
            out.push(Out::Ask(self.tagged(tail, Purpose::Own)));
        }
    }

    fn done(&mut self, token: Token, sequence: u64, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        match token {
            RELEASE => return self.close(Stage::Foreign, Closing::Released, out),
            FORGET => return self.may_forget(out),
            PREPARE => {
                if let Stage::Preparing(loaded) = std::mem::replace(&mut self.stage, Stage::Foreign) {
                    self.open(loaded, unix_ms, cache, out);
                }
                return;
            }
            Token(_) => {}
        }
        let mut follows = Vec::new();
        if let Stage::Open(open) = &mut self.stage {
            open.store.done(token, sequence, &mut follows);
        }
        self.store_outs(follows, unix_ms, cache, out);
    }

    fn full(&mut self, token: Token, said: Said, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        self.measure(out);
        if token.0 & OWN_TOKEN != 0 {
            self.unsaid.push((token, said));
            return out.push(Out::WakeIn(SPACE_RETRY_MS));
        }
        let mut follows = Vec::new();
        if let Stage::Open(open) = &mut self.stage {
            open.store.full(token, &mut follows);
        }
        self.store_outs(follows, unix_ms, cache, out);
    }

    /// Nothing more is said in its stream, not even that it is given up: it is nobody's until somebody claims it.
    fn broken(&mut self, fault: LoadFault, out: &mut Vec<Out>) {
        self.appends.abandon();
        self.close(Stage::Broken { may_pass: fault.may_pass() }, Closing::Broken(fault), out);
    }

    fn close(&mut self, stage: Stage, closing: Closing, out: &mut Vec<Out>) {
        (self.stage, self.is_doubtful, self.is_releasing) = (stage, false, false);
        self.unsaid.clear();
        out.push(Out::Closed(closing));
    }
}
