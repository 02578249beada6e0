//! Looks at the partitions by way of the engine: drives a [`Looking`] each, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use banter_cluster::engine::{Answer, Partition, Ticket};
use banter_cluster::entry::{StreamEpochs, StreamId};
use banter_cluster::loading::LoadFault;
use banter_cluster::looking::{Looked, Looking, Out, TICKET_BITS};
use banter_engine::{Engine, Founding};
use banter_log::reading::{FileRange, LogFile};

use super::ToolFault;

/// How long nothing may come of what is asked.
pub(super) const STALL_MAX: Duration = Duration::from_secs(60);
/// Bytes of a segment that are asked for at a time.
const READ_BYTES: u64 = 4 << 20;

/// The partitions, and the way to them.
pub(super) struct Looks<'a> {
    engine: &'a Engine,
    answers: &'a flume::Receiver<Answer>,
    founding: Founding,
    looking: BTreeMap<u16, Looking>,
    /// When the present one is to be woken.
    wakes: BTreeSet<Instant>,
}

impl<'a> Looks<'a> {
    /// Of that cluster.
    pub(super) fn new(engine: &'a Engine, answers: &'a flume::Receiver<Answer>, founding: Founding) -> Self {
        Looks { engine, answers, founding, looking: BTreeMap::new(), wakes: BTreeSet::new() }
    }

    /// What a partition holds by now.
    pub(super) async fn look(&mut self, partition: u16) -> Result<Looked, ToolFault> {
        let Founding { cluster_id: cluster, blank_epoch: blank, .. } = self.founding;
        let stream = StreamId { cluster, partition: Partition(partition) };
        let new = || Looking::new(stream, StreamEpochs { blank, ..StreamEpochs::default() });
        let mut out = Vec::new();
        self.looking.entry(partition).or_insert_with(new).look(&mut out);
        self.until(partition, out, |out| if let Out::Looked(looked) = out { Some(*looked) } else { None }).await
    }

    /// All bytes of a segment, up to there; none: some of them do not come, or do not check.
    pub(super) async fn segment(
        &mut self,
        partition: u16,
        segment: u64,
        end_offset: u64,
    ) -> Result<Option<Vec<u8>>, ToolFault> {
        let mut all = Vec::new();
        while (all.len() as u64) < end_offset {
            let (offset, file) = (all.len() as u64, LogFile::Segment);
            let range = FileRange { segment, file, offset, bytes: READ_BYTES.min(end_offset - offset) };
            match self.read(partition, range).await? {
                Some(bytes) if !bytes.is_empty() => all.extend_from_slice(&bytes),
                _ => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    async fn read(&mut self, partition: u16, range: FileRange) -> Result<Option<Vec<u8>>, ToolFault> {
        let mut out = Vec::new();
        if let Some(looking) = self.looking.get_mut(&partition) {
            looking.read(range, &mut out);
        }
        self.until(partition, out, |out| if let Out::Bytes(_, bytes) = out { Some(bytes) } else { None }).await
    }

    /// Goes on until that comes.
    async fn until<T>(
        &mut self,
        partition: u16,
        mut out: Vec<Out>,
        mut pick: impl FnMut(Out) -> Option<T>,
    ) -> Result<T, ToolFault> {
        self.wakes.clear();
        let (mut progress, mut moved_at) = ((0, 0), Instant::now());
        loop {
            for follow in std::mem::take(&mut out) {
                match follow {
                    Out::Ask(ask) => self.engine.ask(ask.with_ticket(|own| tagged(own, partition))),
                    Out::WakeIn(ms) => drop(self.wakes.insert(Instant::now() + Duration::from_millis(ms))),
                    Out::Broken(fault) => return Err(broken(partition, fault, &remove_streams(self.engine))),
                    follow => {
                        if let Some(found) = pick(follow) {
                            return Ok(found);
                        }
                    }
                }
            }
            let Some(looking) = self.looking.get_mut(&partition) else { return Err(stalled(partition)) };
            if looking.progress() != progress {
                (progress, moved_at) = (looking.progress(), Instant::now());
            }
            let stalls_at = moved_at + STALL_MAX;
            let due = self.wakes.first().map_or(stalls_at, |wake| stalls_at.min(*wake));
            tokio::select! {
                answer = self.answers.recv_async() => match answer.ok().and_then(|answer| untagged(answer, partition)) {
                    Some(answer) => looking.engine(answer, &mut out),
                    None => continue,
                },
                () = tokio::time::sleep_until(due.into()) => {
                    if stalls_at <= Instant::now() {
                        return Err(stalled(partition));
                    }
                    self.wakes.pop_first();
                    looking.wake(&mut out);
                }
            }
        }
    }
}

/// What to do about a cluster that holds what it should not.
pub(super) fn remove_streams(engine: &Engine) -> String {
    let cluster = engine.connection().names().cluster();
    format!(
        "if nothing in cluster {cluster} is needed, remove its streams (`for stream in $(nats stream ls --names | grep ^BANTER_{cluster}_); \
         do nats stream rm -f \"$stream\"; done`), make them anew with `banter cluster init`, and import again"
    )
}

/// The ticket, with the partition above it: an answer to what another one asked is nobody's.
pub(super) fn tagged(Ticket(own): Ticket, partition: u16) -> Ticket {
    Ticket(own | u64::from(partition) << TICKET_BITS)
}

/// Whose ask that ticket is of.
pub(super) fn partition_of(Ticket(ticket): Ticket) -> u16 {
    (ticket >> TICKET_BITS) as u16
}

/// The answer, if it is to what that partition's machine asked.
pub(super) fn untagged(mut answer: Answer, partition: u16) -> Option<Answer> {
    let ticket = answer.ticket_mut().filter(|ticket| partition_of(**ticket) == partition)?;
    ticket.0 &= (1 << TICKET_BITS) - 1;
    Some(answer)
}

fn broken(partition: u16, fault: LoadFault, of_unfinished: &str) -> ToolFault {
    let cure = match fault {
        LoadFault::Unfinished => of_unfinished,
        _ => "look at the servers' disks, and restore that stream from a backup",
    };
    ToolFault::NotMade(format!("partition {partition}: {fault}; {cure}"))
}

fn stalled(partition: u16) -> ToolFault {
    ToolFault::NotMade(format!(
        "nothing came of partition {partition} for {} s: see `banter cluster status`, and do it again when all is well",
        STALL_MAX.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use banter_cluster::engine::Tail;

    use super::*;

    #[test]
    fn the_remains_of_an_import_are_told_with_their_cure() {
        let told = broken(7, LoadFault::Unfinished, "make it anew").to_string();
        assert!(
            told.contains("partition 7: an import into it was broken off") && told.ends_with("make it anew"),
            "{told}"
        );
        assert!(broken(7, LoadFault::Block(9), "").to_string().contains("restore that stream"));
    }

    #[test]
    fn an_answer_to_what_another_partition_asked_is_nobodys() {
        let answer = |ticket| Answer::Tail { ticket, tail: Some(Tail { first: 1, last: 2, bytes: 3 }) };
        let ticket = tagged(Ticket(5), 9);
        assert_eq!((partition_of(ticket), untagged(answer(ticket), 9)), (9, Some(answer(Ticket(5)))));
        assert_eq!(untagged(answer(ticket), 8), None);
        assert_eq!(untagged(Answer::Beat { bytes: Default::default() }, 0), None);
    }
}
