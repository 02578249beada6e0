//! Looks at a partition without claiming it: what counts in its stream up to an end that it had, and the bytes of its segments.
//!
//! ```text
//!  tail ─▶ Loading, as of a claim right behind the tail ─▶ Looked ─▶ read a range of a segment ─▶ Bytes
//!    ▲                    │ an owner was quicker
//!    └────────────────────┘
//! ```
//!
//! It asks for tails, messages and objects, and for nothing that changes anything: the partition may be served meanwhile. What counts is
//! decided by [`Loading`], as for a node, and bytes come from [`Store`], as for a journal.

use banter_log::journal::{Answer as DiskAnswer, Ask as DiskAsk};
use banter_log::reading::FileRange;
use banter_log::segment::SegmentHeader;

use crate::cache::EngineCache;
use crate::engine::{Answer, Ask, Tail, Ticket};
use crate::entry::{NodeId, StreamEpochs, StreamId};
use crate::loading::{self, LoadFault, Loaded, Loading};
use crate::store::{self, Store, StoreConfig, StoredSegment};
use crate::terms::TermClaim;

/// How long until the ends of the stream are asked for again, in milliseconds.
const RETRY_MS: u64 = 100;
/// Bytes of pieces and messages that are kept for the next reading.
const CACHE_BYTES_MAX: u64 = 512 << 10;
/// Bits of a ticket that are the machine's own; what is above says which machine's.
const LIFE_SHIFT: u32 = 28;
/// Bits of a ticket that are used at all: above them whoever looks at several partitions may say which.
pub const TICKET_BITS: u32 = 48;

/// What follows.
#[derive(Debug)]
pub enum Out {
    /// The engine is to do that.
    Ask(Ask),
    /// What the partition holds.
    Looked(Box<Looked>),
    /// What was to be read; none: it cannot be, or is there no more.
    Bytes(FileRange, Option<Vec<u8>>),
    /// The stream is not what it should be.
    Broken(LoadFault),
    /// [`Looking::wake`] is due in so many milliseconds.
    WakeIn(u64),
}

/// What a partition holds, as of the end that its stream had.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// The last sequence that was looked at.
    pub through: u64,
    /// The segments that hold something and are not forgotten, by their numbers.
    pub segments: Vec<LookedSegment>,
    /// Rooms in them.
    pub rooms: usize,
    /// What epochs follow from.
    pub epochs: StreamEpochs,
    /// The largest run or epoch that was given.
    pub number: u64,
    /// The number of the next segment.
    pub next_segment: u64,
}

/// A segment of a partition.
#[derive(Clone, Copy, Debug)]
pub struct LookedSegment {
    /// Its header.
    pub header: SegmentHeader,
    /// Where its blocks end.
    pub end_offset: u64,
    /// The time of its newest record, milliseconds since 1970.
    pub newest_ms: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Looking {
    stream: StreamId,
    /// Of a partition of which nothing was ever said.
    epochs: StreamEpochs,
    lives: u64,
    /// The ends of the stream are asked for, in that life, or to be asked for again.
    tail: Option<Asked>,
    stage: Stage,
    cache: EngineCache,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    In(u64),
    Again,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Loading { life: u64, through: u64, loading: Box<Loading> },
    Open { life: u64, store: Box<Store> },
}

impl Looking {
    /// At that stream; `epochs` are those of a partition of which nothing was ever said.
    pub fn new(stream: StreamId, epochs: StreamEpochs) -> Self {
        let cache = EngineCache::new(CACHE_BYTES_MAX);
        Looking { stream, epochs, lives: 0, tail: None, stage: Stage::Idle, cache }
    }

    /// Looks, also again: [`Out::Looked`] or [`Out::Broken`] comes.
    pub fn look(&mut self, out: &mut Vec<Out>) {
        self.stage = Stage::Idle;
        self.ask_tail(out);
    }

    /// Reads bytes of a segment that was seen at the last look: [`Out::Bytes`] comes.
    pub fn read(&mut self, range: FileRange, out: &mut Vec<Out>) {
        let Stage::Open { store, .. } = &mut self.stage else { return out.push(Out::Bytes(range, None)) };
        let mut follows = Vec::new();
        store.disk(DiskAsk::Read(range), 0, &mut self.cache, &mut follows);
        self.store_outs(follows, out);
    }

    /// How far the stream was read, and up to where it is: moves on while there is anything new.
    pub fn progress(&self) -> (u64, u64) {
        match &self.stage {
            Stage::Loading { loading, .. } => loading.progress(),
            Stage::Idle | Stage::Open { .. } => (0, 0),
        }
    }

    /// The engine answered.
    pub fn engine(&mut self, mut answer: Answer, out: &mut Vec<Out>) {
        let Some(Ticket(ticket)) = answer.ticket_mut() else { return };
        let (of, own) = (*ticket >> LIFE_SHIFT, *ticket & ((1 << LIFE_SHIFT) - 1));
        *ticket = own;
        if let Answer::Tail { tail, .. } = answer {
            if self.tail == Some(Asked::In(of)) {
                self.take_tail(tail, out);
            }
            return;
        }
        match &mut self.stage {
            Stage::Loading { life, loading, .. } if *life == of => {
                let mut follows = Vec::new();
                loading.engine(answer, &mut follows);
                self.loading_outs(follows, out);
            }
            Stage::Open { life, store } if *life == of => {
                let mut follows = Vec::new();
                store.engine(answer, &mut self.cache, &mut follows);
                self.store_outs(follows, out);
            }
            _ => {}
        }
    }

    /// A pause is over.
    pub fn wake(&mut self, out: &mut Vec<Out>) {
        if self.tail == Some(Asked::Again) {
            self.ask_tail(out);
        }
        let mut follows = Vec::new();
        match &mut self.stage {
            Stage::Loading { loading, .. } => {
                loading.wake(&mut follows);
                self.loading_outs(follows, out);
            }
            Stage::Open { store, .. } => {
                let mut follows = Vec::new();
                store.wake(0, &mut self.cache, &mut follows);
                self.store_outs(follows, out);
            }
            Stage::Idle => {}
        }
    }

    fn life(&mut self) -> u64 {
        self.lives += 1;
        self.lives
    }

    fn ask_tail(&mut self, out: &mut Vec<Out>) {
        let life = self.life();
        self.tail = Some(Asked::In(life));
        let ask = Ask::Tail { partition: self.stream.partition, ticket: Ticket(0) };
        out.push(Out::Ask(tagged(ask, life)));
    }

    fn take_tail(&mut self, tail: Option<Tail>, out: &mut Vec<Out>) {
        let Some(Tail { last, .. }) = tail else {
            self.tail = Some(Asked::Again);
            return out.push(Out::WakeIn(RETRY_MS));
        };
        self.tail = None;
        match &self.stage {
            // It was in doubt, and nothing is new: it goes on by itself.
            Stage::Loading { through, .. } if *through >= last => {}
            _ => self.load(last, out),
        }
    }

    /// Reads what counts up to there, as who would claim it next.
    fn load(&mut self, through: u64, out: &mut Vec<Out>) {
        let life = self.life();
        let claim = TermClaim { term: through + 1, by: NodeId::default(), nonce: 0 };
        let mut follows = Vec::new();
        let loading = Box::new(Loading::new(self.stream, claim, self.epochs, &mut follows));
        self.stage = Stage::Loading { life, through, loading };
        self.loading_outs(follows, out);
    }

    fn loading_outs(&mut self, follows: Vec<loading::Out>, out: &mut Vec<Out>) {
        let Stage::Loading { life, through, .. } = self.stage else { return };
        for follow in follows {
            match follow {
                loading::Out::Ask(ask) => out.push(Out::Ask(tagged(ask, life))),
                loading::Out::WakeIn(ms) => out.push(Out::WakeIn(ms)),
                // An owner has made a newer checkpoint, or purged what an older one needs: it is looked as of now.
                loading::Out::Doubt if self.tail.is_none() => self.ask_tail(out),
                loading::Out::Doubt => {}
                loading::Out::Broken(fault) => {
                    self.stage = Stage::Idle;
                    return out.push(Out::Broken(fault));
                }
                loading::Out::Loaded(loaded) => return self.loaded(through, *loaded, out),
            }
        }
    }

    fn loaded(&mut self, through: u64, loaded: Loaded, out: &mut Vec<Out>) {
        let Loaded { catalog, segments, next_segment, epochs, number, .. } = loaded;
        let looked = Looked {
            through,
            segments: segments.values().map(looked).collect(),
            rooms: catalog.len(),
            epochs,
            number,
            next_segment,
        };
        // Nothing is ever written by it.
        let config = StoreConfig { segment_bytes: 0, stream_bytes_max: 0, seed: 0 };
        let claim = TermClaim { term: through + 1, by: NodeId::default(), nonce: 0 };
        let life = self.life();
        let store = Box::new(Store::new(self.stream, config, 0, claim, segments, next_segment));
        (self.stage, self.tail) = (Stage::Open { life, store }, None);
        out.push(Out::Looked(Box::new(looked)));
    }

    fn store_outs(&mut self, follows: Vec<store::Out>, out: &mut Vec<Out>) {
        let Stage::Open { life, .. } = self.stage else { return };
        for follow in follows {
            match follow {
                store::Out::Ask(ask) => out.push(Out::Ask(tagged(ask, life))),
                store::Out::WakeIn(ms) => out.push(Out::WakeIn(ms)),
                store::Out::Disk(DiskAnswer::Read { range, bytes }) => out.push(Out::Bytes(range, bytes)),
                // What only follows where something is written.
                store::Out::Push(..)
                | store::Out::Disk(_)
                | store::Out::Kept { .. }
                | store::Out::Released { .. }
                | store::Out::LetGo(_) => {}
            }
        }
    }
}

fn tagged(ask: Ask, life: u64) -> Ask {
    ask.with_ticket(|Ticket(own)| Ticket(life << LIFE_SHIFT | own))
}

fn looked(segment: &StoredSegment) -> LookedSegment {
    let StoredSegment { header, end_offset, newest_ms, .. } = *segment;
    LookedSegment { header, end_offset, newest_ms }
}
