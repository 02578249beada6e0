//! The counts that a judge of the log prints at its end, for people or as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use crate::ledger::{Answer, Fault, Ledger};

/// What a run was about, and what it found.
#[derive(Debug)]
pub struct Report {
    /// Runs the same choices again.
    pub seed: u64,
    /// Loads that were ended by a fault.
    pub rounds: usize,
    /// Posts that were sent.
    pub sent: usize,
    /// Posts that were acknowledged.
    pub acknowledged: usize,
    /// Posts that were refused.
    pub refused: usize,
    /// Posts without a key that were never answered: they may have landed once or not at all.
    pub unanswered: usize,
    /// Messages that the live members were shown.
    pub shown: usize,
    /// Faults by kind; a kind that was not found is not here.
    pub faults: BTreeMap<Fault, usize>,
    /// The first of them, in words.
    pub examples: Vec<String>,
    /// What is wrong beside what a ledger can find.
    pub troubles: Vec<String>,
    /// From the start of the process to its listening, recovery included.
    pub restart_ms_p50: u64,
    /// The longest of these.
    pub restart_ms_max: u64,
    /// What this judge counts besides.
    pub more: Vec<(String, u64)>,
}

impl Report {
    /// Of what a ledger holds.
    pub fn of(ledger: &Ledger, rounds: usize, restarts: &[Duration]) -> Self {
        let answered = |wanted: fn(&Answer) -> bool| ledger.posts().filter(|post| wanted(&post.answer)).count();
        let kinds: BTreeSet<Fault> = ledger.faults().map(|(fault, _)| *fault).collect();
        let mut restarts_ms: Vec<u64> = restarts.iter().map(|time| time.as_millis() as u64).collect();
        restarts_ms.sort_unstable();
        Report {
            seed: ledger.bodies.seed,
            rounds,
            sent: ledger.posts().count(),
            acknowledged: answered(|answer| matches!(answer, Answer::Posted(_))),
            refused: answered(|answer| matches!(answer, Answer::Refused(_))),
            unanswered: answered(|answer| *answer == Answer::Missing),
            shown: ledger.shown_count(),
            faults: kinds.iter().map(|&kind| (kind, ledger.count(kind))).collect(),
            examples: ledger.faults().take(10).map(|(kind, what)| format!("{kind:?}: {what}")).collect(),
            troubles: Vec::new(),
            restart_ms_p50: restarts_ms.get(restarts_ms.len() / 2).copied().unwrap_or(0),
            restart_ms_max: restarts_ms.last().copied().unwrap_or(0),
            more: Vec::new(),
        }
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.troubles.is_empty()
    }

    /// Every count with its name, faults with 0 too.
    fn counts(&self) -> Vec<(String, u64)> {
        let fault = |kind| self.faults.get(&kind).copied().unwrap_or(0);
        let counts = [
            ("rounds", self.rounds),
            ("posts_sent", self.sent),
            ("acknowledged", self.acknowledged),
            ("refused", self.refused),
            ("unanswered", self.unanswered),
            ("shown", self.shown),
            ("lost", fault(Fault::Lost)),
            ("repeated", fault(Fault::Repeated)),
            ("reordered", fault(Fault::Reordered)),
            ("shown_and_lost", fault(Fault::ShownAndLost)),
            ("altered", fault(Fault::Altered)),
            ("epochs_changed", fault(Fault::EpochChanged)),
            ("posted_after_failure", fault(Fault::PostedAfterFailure)),
            ("not_refused", fault(Fault::NotRefused)),
            ("two_owners", fault(Fault::TwoOwners)),
            ("cursors_refused", fault(Fault::CursorRefused)),
            ("false_gaps", fault(Fault::FalseGap)),
        ];
        let counts = counts.map(|(name, count)| (name.to_owned(), count as u64)).into_iter();
        let restarts = [("restart_ms_p50", self.restart_ms_p50), ("restart_ms_max", self.restart_ms_max)];
        // Not every judge measures them.
        let restarts = restarts.into_iter().filter(|_| self.restart_ms_max > 0);
        counts.chain(restarts.map(|(name, ms)| (name.to_owned(), ms))).chain(self.more.iter().cloned()).collect()
    }

    /// Prints it, and gives the program's end: a failure unless it is clean.
    pub fn tell(&self, as_json: bool) -> ExitCode {
        if as_json {
            let counts: BTreeMap<String, u64> = self.counts().into_iter().collect();
            println!(
                "{}",
                json!({"seed": self.seed, "counts": counts, "examples": self.examples, "troubles": self.troubles})
            );
        } else {
            self.counts().iter().for_each(|(name, count)| println!("{count:>10}  {name}"));
            self.examples.iter().chain(&self.troubles).for_each(|what| println!("{what}"));
            println!("{}", self.verdict());
        }
        if self.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// The whole in one line.
    fn verdict(&self) -> String {
        let counts: BTreeMap<String, u64> = self.counts().into_iter().collect();
        let named = ["rounds", "acknowledged", "lost", "repeated", "reordered", "shown_and_lost"];
        let counts: Vec<String> = named
            .iter()
            .map(|&name| format!("{} {}", counts.get(name).unwrap_or(&0), name.replace('_', " ")))
            .collect();
        let found = if self.is_clean() { "nothing found" } else { "FAILED" };
        format!("seed {}: {found}: {}", self.seed, counts.join(", "))
    }

    /// Prints it, and panics unless it is clean.
    #[track_caller]
    pub fn assert_clean(&self) {
        let _ = self.tell(false);
        assert!(self.is_clean(), "{:#?} {:#?}", self.examples, self.troubles);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_was_tried_and_what_was_found() {
        let mut report = Report {
            seed: 7,
            rounds: 3,
            sent: 60,
            acknowledged: 50,
            refused: 0,
            unanswered: 10,
            shown: 40,
            faults: BTreeMap::new(),
            examples: Vec::new(),
            troubles: Vec::new(),
            restart_ms_p50: 1,
            restart_ms_max: 2,
            more: Vec::new(),
        };
        let counts = "3 rounds, 50 acknowledged, 0 lost, 0 repeated, 0 reordered, 0 shown and lost";
        assert_eq!(report.verdict(), format!("seed 7: nothing found: {counts}"));
        report.faults = BTreeMap::from([(Fault::Lost, 2), (Fault::FalseGap, 1)]);
        let counts = counts.replace("0 lost", "2 lost");
        assert_eq!(report.verdict(), format!("seed 7: FAILED: {counts}"));
    }
}
