//! What a run found: how long each kind of fault kept posts waiting, and the verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::acks::Pauses;
use super::faults::Kind;
use crate::report::Report;

/// One round: the faults that went together, and what was seen of it.
#[derive(Clone, Debug)]
pub struct Round {
    /// The faults.
    pub kinds: Vec<Kind>,
    /// How long posts waited.
    pub pauses: Pauses,
}

/// What the run found.
#[derive(Debug)]
pub struct Outcome {
    /// What was promised, and what of it was not kept.
    pub report: Report,
    /// All rounds.
    pub rounds: Vec<Round>,
    /// The logs, configurations and data of all servers, where something was found.
    pub kept: Option<PathBuf>,
    /// What of the run was asked for, and could not be tried here.
    pub left_out: Vec<String>,
}

impl Outcome {
    /// Prints it, and gives the program's end: a failure unless it is clean.
    pub fn tell(&mut self, as_json: bool) -> ExitCode {
        let rows = self.rows();
        if as_json {
            for (name, row) in &rows {
                let figures =
                    [("count", row.count as u64), ("pause_ms_max", row.all_max), ("pause_ms_p50", row.all_p50)];
                let figures = figures.into_iter().chain([("room_pause_ms_max", row.room_max)]);
                self.report.more.extend(figures.map(|(figure, count)| (format!("{name}.{figure}"), count)));
            }
        } else {
            println!("{:<20} {:>5}  {:>22}  {:>22}", "fault", "count", "no acks at all, s", "a room without, s");
            println!("{:<20} {:>5}  {:>11} {:>10}  {:>11} {:>10}", "", "", "p50", "max", "p50", "max");
            for (name, row) in &rows {
                let [all_p50, all_max, room_p50, room_max] =
                    [row.all_p50, row.all_max, row.room_p50, row.room_max].map(|ms| format!("{:.1}", ms as f64 / 1e3));
                println!("{name:<20} {:>5}  {all_p50:>11} {all_max:>10}  {room_p50:>11} {room_max:>10}", row.count);
            }
        }
        let end = self.report.tell(as_json);
        self.left_out.iter().for_each(|what| eprintln!("NOT TRIED: {what}"));
        if let Some(kept) = &self.kept {
            eprintln!("what all servers logged: {}; again: --seed {}", kept.display(), self.report.seed);
        }
        end
    }

    /// Prints it, and panics unless it is clean.
    #[track_caller]
    pub fn assert_clean(&mut self) {
        let _ = self.tell(false);
        self.report.assert_clean();
    }

    fn rows(&self) -> BTreeMap<String, Row> {
        let mut by_name: BTreeMap<String, Vec<Pauses>> = BTreeMap::new();
        for round in &self.rounds {
            let name = match *round.kinds {
                [one] => one.to_string(),
                _ => "two at once".to_owned(),
            };
            by_name.entry(name).or_default().push(round.pauses);
        }
        by_name.into_iter().map(|(name, pauses)| (name, Row::of(&pauses))).collect()
    }
}

struct Row {
    count: usize,
    all_p50: u64,
    all_max: u64,
    room_p50: u64,
    room_max: u64,
}

impl Row {
    fn of(pauses: &[Pauses]) -> Self {
        let (all_p50, all_max) = p50_and_max_ms(pauses.iter().map(|pauses| pauses.all));
        let (room_p50, room_max) = p50_and_max_ms(pauses.iter().map(|pauses| pauses.room));
        Row { count: pauses.len(), all_p50, all_max, room_p50, room_max }
    }
}

/// The median and the longest, in milliseconds.
pub fn p50_and_max_ms(times: impl Iterator<Item = Duration>) -> (u64, u64) {
    let mut times_ms: Vec<u64> = times.map(|time| time.as_millis() as u64).collect();
    times_ms.sort_unstable();
    (times_ms.get(times_ms.len() / 2).copied().unwrap_or(0), times_ms.last().copied().unwrap_or(0))
}
