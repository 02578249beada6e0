//! `banter cluster export`: writes a data folder of what the partitions hold, for a server of its own.
//!
//! ```text
//!  looks (each partition, up to a tail) ─▶ plan (segments by time: ids, runs, ledger) ─▶ draft (files) ─▶ check ─▶ its name
//!     └──────── bytes of one segment after another ─▶ rewritten ──────────────────────────▲
//! ```
//!
//! Nothing is asked of the engine that changes anything, so nodes may serve meanwhile. What retention takes while it is copied is left
//! out: the oldest segments, which would be gone a moment later anyhow.
//!
//! Indexes are left out, as in a backup: the first start on the folder reads all of it once, and makes them.

mod draft;
mod plan;
mod rewritten;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use banter_cluster::looking::Looked;
use banter_engine::{Engine, Founding, streams};
use clap::Args;
use serde_json::json;

use self::draft::Draft;
use self::plan::{Plan, Planned};
use super::looks::Looks;
use super::whom::Told;
use super::{ToolFault, bytes, say};
use crate::log_tool::{LogFolder, Progress, check_quietly};

/// How often a segment is asked for that is there and does not come.
const READ_TRIES_MAX: u32 = 5;

/// Where it goes.
#[derive(Clone, Debug, Args)]
pub(super) struct ExportLine {
    /// The data folder that is written: new, or empty
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Say it as one JSON object
    #[arg(long)]
    json: bool,
}

/// Writes it.
pub(super) async fn run(told: &Told, line: &ExportLine) -> Result<bool, ToolFault> {
    let began = Instant::now();
    draft::is_free(&line.dir)?;
    let (to_me, answers) = flume::unbounded();
    let engine = Engine::connect(told.engine.clone(), to_me).await?;
    let founding = streams::describe(engine.connection()).await?.founding;
    let mut export = Export {
        looks: Looks::new(&engine, &answers, founding),
        founding,
        looked: Vec::new(),
        there: Vec::new(),
        draft: Draft::begin(&line.dir)?,
        written: Vec::new(),
    };
    let plan = export.look().await?;
    export.copy(&plan).await?;
    let exported = export.end(&plan, &line.dir)?;
    let text = if line.json { exported.json(&line.dir, began) } else { exported.text(&line.dir, began) };
    say(&text)?;
    Ok(true)
}

/// An export under way.
struct Export<'a> {
    looks: Looks<'a>,
    founding: Founding,
    /// What each partition held at first, and what it says by now.
    looked: Vec<Looked>,
    /// Its segments by now.
    there: Vec<BTreeSet<u64>>,
    draft: Draft,
    written: Vec<Written>,
}

/// A segment that was written.
#[derive(Clone, Copy)]
struct Written {
    partition: u16,
    source: u64,
    id: u64,
    messages: u64,
    bytes: u64,
}

impl Export<'_> {
    async fn look(&mut self) -> Result<Plan, ToolFault> {
        let mut progress = Progress::of(self.founding.partitions.into(), "partitions");
        for partition in 0..self.founding.partitions {
            progress.tell(partition.into(), 0);
            let looked = self.looks.look(partition).await?;
            self.there.push(ids(&looked));
            self.looked.push(looked);
        }
        progress.clear();
        Ok(plan::of(&self.looked))
    }

    async fn copy(&mut self, plan: &Plan) -> Result<(), ToolFault> {
        let mut progress = Progress::new(plan.segments.len());
        let mut messages = 0;
        for (number, planned) in plan.segments.iter().enumerate() {
            progress.tell(number, messages);
            if let Some(bytes) = self.bytes_of(planned).await? {
                messages += self.write(planned, &bytes)?;
            }
        }
        progress.clear();
        Ok(())
    }

    /// The bytes of a segment; none: retention has taken it.
    async fn bytes_of(&mut self, planned: &Planned) -> Result<Option<Vec<u8>>, ToolFault> {
        let &Planned { partition, source, end_offset, .. } = planned;
        for _ in 0..READ_TRIES_MAX {
            if !self.there[usize::from(partition)].contains(&source) {
                return Ok(None);
            }
            if let Some(bytes) = self.looks.segment(partition, source, end_offset).await? {
                return Ok(Some(bytes));
            }
            self.look_again(partition).await?;
        }
        Err(damaged(planned))
    }

    /// What retention took since goes from what was written too: a folder lacks the oldest segments of a class, and none in the midst.
    async fn look_again(&mut self, partition: u16) -> Result<(), ToolFault> {
        let now = self.looks.look(partition).await?;
        if !plan::follow(&mut self.looked[usize::from(partition)], &now) {
            let what = "the configuration of the nodes' rooms changed while they were read: export again";
            return Err(ToolFault::NotMade(what.to_owned()));
        }
        let there = ids(&now);
        let is_gone = |written: &Written| written.partition == partition && !there.contains(&written.source);
        for written in self.written.extract_if(.., |written| is_gone(written)) {
            self.draft.remove_segment(written.id)?;
        }
        self.there[usize::from(partition)] = there;
        Ok(())
    }

    /// Writes a segment; how many messages it has.
    fn write(&mut self, planned: &Planned, bytes: &[u8]) -> Result<u64, ToolFault> {
        let made = rewritten::of(bytes, planned).ok_or_else(|| damaged(planned))?;
        let (id, messages) = (planned.header.id, made.messages);
        self.draft.write_segment(id, &made.bytes)?;
        let &Planned { partition, source, .. } = planned;
        self.written.push(Written { partition, source, id, messages, bytes: made.bytes.len() as u64 });
        Ok(messages)
    }

    /// Checks what was written, and gives it its name.
    fn end(self, plan: &Plan, dir: &Path) -> Result<Exported, ToolFault> {
        let newest = self.written.last().map_or(0, |written| written.id);
        let ledger = plan.ledger(&self.looked, self.founding.blank_epoch);
        self.draft.end_run(ledger, plan.largest, newest)?;
        let checked = check_quietly(&LogFolder::open(self.draft.path())?)?;
        if !checked.is_whole() {
            let path = self.draft.keep();
            let what = format!(
                "what was written to {} does not check: see what `banter log check` says of it, and whether the disk is well (`dmesg`)",
                path.display()
            );
            return Err(ToolFault::NotMade(what));
        }
        self.draft.finish(dir)?;
        Ok(Exported {
            rooms: checked.rooms,
            messages: self.written.iter().map(|written| written.messages).sum(),
            segments: self.written.len(),
            bytes: self.written.iter().map(|written| written.bytes).sum(),
        })
    }
}

/// What came of it.
struct Exported {
    rooms: usize,
    messages: u64,
    segments: usize,
    bytes: u64,
}

impl Exported {
    fn text(&self, dir: &Path, began: Instant) -> String {
        let Exported { rooms, messages, segments, bytes } = *self;
        let (dir, bytes, seconds) = (dir.display(), bytes::shown(bytes), seconds(began));
        format!(
            "exported to {dir}, and checked: {rooms} rooms, {messages} messages, {segments} segments, {bytes}, in {seconds:.1} s\n\
             it is a data folder: a server of its own starts on it with `banter --data {dir}`, and keeps the rooms' epochs; start none \
             while the cluster goes on\n"
        )
    }

    fn json(&self, dir: &Path, began: Instant) -> String {
        let Exported { rooms, messages, segments, bytes } = *self;
        let (folder, seconds) = (dir.display().to_string(), seconds(began));
        let said = json!({
            "folder": folder, "rooms": rooms, "messages": messages, "segments": segments, "bytes": bytes, "seconds": seconds
        });
        format!("{said}\n")
    }
}

fn seconds(began: Instant) -> f64 {
    began.elapsed().as_millis() as f64 / 1_000.0
}

fn ids(looked: &Looked) -> BTreeSet<u64> {
    looked.segments.iter().map(|segment| segment.header.id).collect()
}

fn damaged(planned: &Planned) -> ToolFault {
    ToolFault::NotMade(format!(
        "segment {} of partition {} cannot be read, though its stream names it: see `banter cluster status`, and export again when all \
         is well; where the stream is damaged, restore it from a backup",
        planned.source, planned.partition
    ))
}
