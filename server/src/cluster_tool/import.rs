//! `banter cluster import`: appends what the data folder of a stopped server holds to a cluster that is empty.
//!
//! ```text
//!  look (proved? no node? empty?) ─▶ source (whole? judged as a start does) ─▶ fits? ─▶ claim all partitions
//!       ─▶ for each segment: records by partition ─▶ target: segments, blocks ─▶ said ─▶ epochs, last ─▶ release
//! ```
//!
//! A segment that holds nothing is said first in each partition, and what epochs follow from last, when all else lies there. A node says
//! that first, so a partition that has a segment and lacks it is what an import left that was broken off: no node serves it, and the
//! next import tells.
//!
//! Nothing in the folder changes. Indexes are made by the first node, which reads all of it once.

mod source;
mod target;
mod writing;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use banter_chat::address::Placement;
use banter_cluster::entry::{NodeId, Said, StreamEpochs};
use banter_cluster::looking::Looked;
use banter_cluster::members::name_hash;
use banter_cluster::store::RESERVED_BYTES;
use banter_engine::{Engine, Founding};
use banter_log::index::Entry;
use banter_log::record::{Record, RecordKind};
use banter_log::scan::Scan;
use banter_protocol::ids::Epoch;
use banter_protocol::native::{State, read_kept, read_state, write_kept, write_state};
use clap::Args;
use serde_json::json;

use self::source::{Source, SourceSegment, id_of};
use self::target::{Moved, Target};
use self::writing::Writing;
use super::look::Looking;
use super::looks::{Looks, remove_streams};
use super::whom::Told;
use super::{ToolFault, bytes, say};
use crate::log_tool::Progress;
use crate::wall_clock;

/// What an import goes by in the streams.
const NAME: &str = "banter cluster import";
/// Bytes of a message around the records of its block.
const MESSAGE_BYTES_BESIDE: u64 = 4 << 10;

/// What goes in.
#[derive(Clone, Debug, Args)]
pub(super) struct ImportLine {
    /// The data folder of a server that is stopped
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Say it as one JSON object
    #[arg(long)]
    json: bool,
}

/// Imports it.
pub(super) async fn run(told: &Told, line: &ImportLine) -> Result<bool, ToolFault> {
    let began = Instant::now();
    told.needs_monitoring()?;
    let cluster = Cluster::look(told).await?;
    let source = Source::open(&line.dir, cluster.placement, cluster.number())?;
    cluster.has_room_for(told, &source)?;
    if let Some(doubt) = source.doubt {
        eprintln!("banter: {doubt}");
    }
    let imported = cluster.take(told, &source).await?;
    let (rooms, seconds) = (source.rooms(), began.elapsed().as_millis() as f64 / 1_000.0);
    let text = if line.json { imported.json(rooms, seconds) } else { imported.text(told, &line.dir, rooms, seconds) };
    say(&text)?;
    Ok(true)
}

/// An empty cluster.
struct Cluster {
    founding: Founding,
    placement: Placement,
    /// Bytes of a partition's stream at most.
    stream_bytes_max: u64,
    looked: Vec<Looked>,
}

/// What went in.
#[derive(Default)]
struct Imported {
    messages: u64,
    bytes: u64,
}

impl Cluster {
    /// Looks whether all is as it has to be, and touches nothing.
    async fn look(told: &Told) -> Result<Self, ToolFault> {
        let seen = Looking::open(told).await?.look().await;
        let streams = seen.streams?;
        if !seen.faults.is_empty() {
            let faults: String = seen.faults.iter().map(|fault| format!("\n- {fault}")).collect();
            return Err(ToolFault::NotMade(format!(
                "the NATS servers do not prove that they keep what they acknowledge:{faults}"
            )));
        }
        if let Some(heard) = seen.nodes.first() {
            let what =
                format!("node {} runs: stop all nodes, and start them when the import has ended", heard.beat.node);
            return Err(ToolFault::NotMade(what));
        }
        let founding = streams.founding;
        let sizes =
            streams.partitions.iter().flatten().map(|stream| u64::try_from(stream.config.max_bytes).unwrap_or(0));
        let stream_bytes_max = sizes.min().unwrap_or(0);
        let placement = Placement::in_cluster(1, founding.partitions)
            .ok_or_else(|| ToolFault::NotMade(format!("no cluster has {} partitions", founding.partitions)))?;
        let looked = look(told, founding).await?;
        Ok(Cluster { founding, placement, stream_bytes_max, looked })
    }

    /// The largest number that was given in it.
    fn number(&self) -> u64 {
        self.looked.iter().map(|seen| seen.number).max().unwrap_or(self.founding.blank_epoch)
    }

    /// Whether each partition takes its share: better told before than in the midst.
    fn has_room_for(&self, told: &Told, source: &Source) -> Result<(), ToolFault> {
        let record_bytes_max = told.append_bytes_max - MESSAGE_BYTES_BESIDE;
        if source.record_bytes_max as u64 > record_bytes_max {
            return Err(ToolFault::NotMade(format!(
                "a message of {} bytes is longer than a node appends: raise [limits] frame_bytes_max in the nodes' file, and name it with \
                 --config",
                source.record_bytes_max
            )));
        }
        let largest = source.partition_bytes.iter().max().copied().unwrap_or(0);
        // Headers of entries and blocks come on top: less than an eighth, unless messages are very short.
        let needed = largest + largest / 8 + RESERVED_BYTES;
        if needed > self.stream_bytes_max {
            return Err(ToolFault::NotMade(format!(
                "one partition gets {}, and may hold {}: give the streams more with `banter cluster init --stream-bytes-max` first",
                bytes::shown(needed),
                bytes::shown(self.stream_bytes_max)
            )));
        }
        Ok(())
    }

    /// Writes all of it.
    async fn take(&self, told: &Told, source: &Source) -> Result<Imported, ToolFault> {
        let (to_me, answers) = flume::unbounded();
        let engine = Engine::connect(told.engine.clone(), to_me).await?;
        let by = NodeId { name: name_hash(NAME), run: random()? };
        let mut writing = Writing::new(&engine, &answers, self.founding, by);
        let terms = writing.claim(random()?).await?;
        let is_as_it_was = |(seen, term): (&Looked, &u64)| seen.through + 1 == *term;
        let looked = if self.looked.iter().zip(&terms).all(is_as_it_was) {
            self.looked.clone()
        } else {
            // What lies before a claim stays as it is. A node may have come in between, and said something, or this one claimed twice.
            look(told, self.founding).await?
        };
        let body_bytes_max = (told.append_bytes_max - MESSAGE_BYTES_BESIDE) as usize;
        let target = |seen: &Looked| Target::new(seen.next_segment, body_bytes_max);
        let mut import =
            Import { source, writing, targets: looked.iter().map(target).collect(), imported: Imported::default() };
        import.begin(&looked).await?;
        import.copy(self.placement).await?;
        import.end().await?;
        Ok(import.imported)
    }
}

/// What the partitions hold, all of which have to be empty.
async fn look(told: &Told, founding: Founding) -> Result<Vec<Looked>, ToolFault> {
    let (to_me, answers) = flume::unbounded();
    let engine = Engine::connect(told.engine.clone(), to_me).await?;
    let mut looks = Looks::new(&engine, &answers, founding);
    let (mut looked, mut progress) = (Vec::new(), Progress::of(founding.partitions.into(), "partitions"));
    for partition in 0..founding.partitions {
        progress.tell(partition.into(), 0);
        let seen = looks.look(partition).await?;
        if !seen.segments.is_empty() || seen.epochs.dropped > 0 {
            let cure = remove_streams(&engine);
            let what =
                format!("partition {partition} holds messages, and an import goes into an empty cluster; {cure}");
            return Err(ToolFault::NotMade(what));
        }
        looked.push(seen);
    }
    progress.clear();
    Ok(looked)
}

/// An import under way.
struct Import<'a> {
    source: &'a Source,
    writing: Writing<'a>,
    targets: Vec<Target>,
    imported: Imported,
}

impl Import<'_> {
    /// Says what keeps nodes from serving the partitions until all of it is there, and carries the largest number that was given.
    async fn begin(&mut self, looked: &[Looked]) -> Result<(), ToolFault> {
        let (number, now_ms) = (self.source.number, wall_clock::unix_ms());
        for (partition, seen) in (0..).zip(looked) {
            // A node that served no message has said it.
            if seen.epochs.levels != 0 {
                let unsaid = StreamEpochs { levels: 0, ..seen.epochs };
                self.writing.push(partition, Said::Epochs(unsaid)).await?;
            }
            let carrier = self.targets[usize::from(partition)].carrier(number, now_ms, random()?);
            self.writing.push(partition, carrier).await?;
        }
        self.writing.settle().await
    }

    async fn copy(&mut self, placement: Placement) -> Result<(), ToolFault> {
        let segments = self.source.segments();
        let mut progress = Progress::new(segments.len());
        for (number, &id) in segments.iter().enumerate() {
            progress.tell(number, self.imported.messages);
            self.copy_segment(&self.source.segment(id)?, placement).await?;
        }
        self.writing.settle().await?;
        progress.clear();
        Ok(())
    }

    async fn copy_segment(&mut self, segment: &SourceSegment, placement: Placement) -> Result<(), ToolFault> {
        let Ok(mut scan) = Scan::new(&segment.bytes) else { return Ok(()) };
        let header = *scan.header();
        let mut shares: Vec<Vec<Moved<'_>>> = self.targets.iter().map(|_| Vec::new()).collect();
        let mut ids = HashMap::new();
        for record in scan.by_ref().flat_map(|block| block.records()).flatten() {
            let Some((entry, _)) = Entry::read(&record, |room| id_of(&mut ids, room)) else { continue };
            if let Some(share) = shares.get_mut(usize::from(placement.partition_of(entry.room)))
                && segment.counts(&entry)
            {
                share.push(self.moved(record, &entry));
            }
        }
        for (partition, share) in (0..).zip(shares) {
            for moved in &share {
                self.imported.messages +=
                    u64::from(matches!(moved.record.kind, RecordKind::Message | RecordKind::Viewed));
            }
            let said = self.targets[usize::from(partition)].add(&header, &share, random()?);
            for said in said {
                self.imported.bytes += if let Said::Block { bytes, .. } = &said { bytes.len() as u64 } else { 0 };
                self.writing.push(partition, said).await?;
            }
        }
        Ok(())
    }

    /// A record, under the epoch that its room goes on under.
    fn moved<'r>(&self, record: Record<'r>, entry: &Entry) -> Moved<'r> {
        let epoch = self.source.epoch_of(entry.room).filter(|epoch| *epoch != entry.epoch);
        Moved { record, frame: epoch.and_then(|epoch| under(record.frame, epoch)), room: entry.room }
    }

    /// Says what tells nodes that all of it is there, and gives the partitions up.
    async fn end(&mut self) -> Result<(), ToolFault> {
        let ledger = &self.source.ledger;
        let epochs = StreamEpochs {
            blank: self.source.blank().0,
            lowered: ledger.levels.epoch.0,
            dropped: ledger.dropped.0,
            levels: ledger.levels.hash.max(1),
        };
        for said in [Said::Epochs(epochs), Said::Release { to: 0 }] {
            for partition in 0..self.targets.len() as u16 {
                self.writing.push(partition, said.clone()).await?;
            }
            self.writing.settle().await?;
        }
        Ok(())
    }
}

/// The frame under another epoch; `None`: it is none that has one.
fn under(frame: &[u8], epoch: Epoch) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match (read_kept(frame), read_state(frame)) {
        (Ok(kept), _) => write_kept(&kept.under(epoch), &mut out),
        (_, Ok(state)) => write_state(&State { epoch, ..state }, &mut out),
        _ => return None,
    }
    Some(out)
}

impl Imported {
    fn text(&self, told: &Told, dir: &Path, rooms: usize, seconds: f64) -> String {
        let (cluster, dir, bytes) = (&told.engine.cluster, dir.display(), bytes::shown(self.bytes));
        let messages = self.messages;
        format!(
            "imported {dir} into cluster {cluster}: {rooms} rooms, {messages} messages, {bytes}, in {seconds:.1} s\n\
             start the nodes now; never start a server on {dir} again: both would give the same places to different messages\n"
        )
    }

    fn json(&self, rooms: usize, seconds: f64) -> String {
        let said = json!({ "rooms": rooms, "messages": self.messages, "bytes": self.bytes, "seconds": seconds });
        format!("{said}\n")
    }
}

fn random() -> Result<u64, ToolFault> {
    let mut bytes = [0; 8];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_err(|_| ToolFault::NotMade("the generator of random numbers failed: try again".to_owned()))?;
    Ok(u64::from_le_bytes(bytes))
}
