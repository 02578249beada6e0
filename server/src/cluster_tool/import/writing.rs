//! Writes to all partitions at once by way of the engine: drives an [`Appends`] each, as a node does, until what was pushed lies there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use banter_cluster::appends::{Appends, Input, Out, Token};
use banter_cluster::engine::{Answer, Partition};
use banter_cluster::entry::{NodeId, Said, StreamId};
use banter_engine::{Engine, Founding};

use crate::cluster_tool::ToolFault;
use crate::cluster_tool::looks::{STALL_MAX, partition_of, remove_streams, tagged, untagged};

/// Appends of a partition in flight at most, as a node has them.
const IN_FLIGHT_MAX: usize = 4;
/// Bytes that wait for the engine at most, over all partitions.
const OPEN_BYTES_MAX: usize = 16 << 20;

/// The partitions, and the way to them.
pub(super) struct Writing<'a> {
    engine: &'a Engine,
    answers: &'a flume::Receiver<Answer>,
    partitions: Vec<Appends>,
    /// What was pushed and is not done, and its bytes.
    open: BTreeMap<(u16, Token), usize>,
    open_bytes: usize,
    /// By which claim each is ours.
    terms: BTreeMap<u16, u64>,
    wakes: BTreeSet<(Instant, u16)>,
    pushed: u64,
    moved_at: Instant,
}

impl<'a> Writing<'a> {
    /// To that cluster, by somebody of that name.
    pub(super) fn new(
        engine: &'a Engine,
        answers: &'a flume::Receiver<Answer>,
        founding: Founding,
        by: NodeId,
    ) -> Self {
        let stream = |partition| StreamId { cluster: founding.cluster_id, partition: Partition(partition) };
        let partitions = (0..founding.partitions).map(|partition| Appends::new(stream(partition), by, IN_FLIGHT_MAX));
        Writing {
            engine,
            answers,
            partitions: partitions.collect(),
            open: BTreeMap::new(),
            open_bytes: 0,
            terms: BTreeMap::new(),
            wakes: BTreeSet::new(),
            pushed: 0,
            moved_at: Instant::now(),
        }
    }

    /// Claims all of them, and says by which claims.
    pub(super) async fn claim(&mut self, nonce: u64) -> Result<Vec<u64>, ToolFault> {
        for partition in 0..self.partitions.len() as u16 {
            self.handle(partition, Input::Claim { nonce })?;
        }
        while self.terms.len() < self.partitions.len() {
            self.step().await?;
        }
        Ok(self.terms.values().copied().collect())
    }

    /// Has that said behind all that was pushed before, as soon as there is room for it on the way.
    pub(super) async fn push(&mut self, partition: u16, said: Said) -> Result<(), ToolFault> {
        // What was done ahead of this took its own time.
        self.moved_at = Instant::now();
        while self.open_bytes > OPEN_BYTES_MAX {
            self.step().await?;
        }
        let bytes = if let Said::Block { bytes, .. } = &said { bytes.len() } else { 0 };
        self.pushed += 1;
        let token = Token(self.pushed);
        self.open.insert((partition, token), bytes);
        self.open_bytes += bytes;
        self.handle(partition, Input::Push(token, said))
    }

    /// Until all that was pushed is done.
    pub(super) async fn settle(&mut self) -> Result<(), ToolFault> {
        self.moved_at = Instant::now();
        while !self.open.is_empty() {
            self.step().await?;
        }
        Ok(())
    }

    /// Takes what comes next.
    async fn step(&mut self) -> Result<(), ToolFault> {
        let stalls_at = self.moved_at + STALL_MAX;
        let due = self.wakes.first().map_or(stalls_at, |(wake, _)| stalls_at.min(*wake));
        tokio::select! {
            answer = self.answers.recv_async() => {
                let Ok(mut answer) = answer else { return Err(self.stalled()) };
                let Some(partition) = answer.ticket_mut().map(|ticket| partition_of(*ticket)) else { return Ok(()) };
                match untagged(answer, partition) {
                    Some(answer) => self.handle(partition, Input::Engine(answer)),
                    None => Ok(()),
                }
            }
            () = tokio::time::sleep_until(due.into()) => match self.wakes.pop_first() {
                Some((wake, partition)) if wake <= Instant::now() => self.handle(partition, Input::Wake),
                _ => Err(self.stalled()),
            }
        }
    }

    fn handle(&mut self, partition: u16, input: Input) -> Result<(), ToolFault> {
        let Some(appends) = self.partitions.get_mut(usize::from(partition)) else { return Ok(()) };
        let mut out = Vec::new();
        appends.handle(input, &mut out);
        for follow in out {
            match follow {
                Out::Ask(ask) => self.engine.ask(ask.with_ticket(|own| tagged(own, partition))),
                Out::WakeIn(ms) => drop(self.wakes.insert((Instant::now() + Duration::from_millis(ms), partition))),
                Out::Claimed { term } => {
                    self.moved_at = Instant::now();
                    self.terms.insert(partition, term);
                }
                Out::Done { token, .. } => {
                    self.moved_at = Instant::now();
                    self.open_bytes -= self.open.remove(&(partition, token)).unwrap_or(0);
                }
                // It is claimed anew, and what is not done is said again.
                Out::Doubtful => {}
                Out::Full(..) => {
                    let why =
                        format!("the stream of partition {partition} is full: it needs a larger --stream-bytes-max");
                    return Err(self.broken_off(&why));
                }
                Out::Lost { .. } => {
                    return Err(
                        self.broken_off(&format!("somebody else has claimed partition {partition}: stop all nodes"))
                    );
                }
                Out::Broken(fault) => return Err(self.broken_off(&format!("partition {partition}: {fault}"))),
            }
        }
        Ok(())
    }

    fn stalled(&self) -> ToolFault {
        self.broken_off(&format!(
            "nothing came of the engine for {} s: see `banter cluster status`",
            STALL_MAX.as_secs()
        ))
    }

    fn broken_off(&self, why: &str) -> ToolFault {
        ToolFault::NotMade(format!("the import is broken off. {why}; {}", remove_streams(self.engine)))
    }
}
