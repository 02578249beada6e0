//! What programs did, as the text of metrics.

use std::fmt::Write as _;

use banter_chat::program::FaultKind;
use banter_chat::programming::ProgramCounts;
use banter_chat::programs::ProgramRule;

use super::{CoreReport, head};

/// A metric of a program: its name, kind and help, and how its value is read.
type ProgramMetric = (&'static str, &'static str, &'static str, fn(&ProgramCounts) -> u64);

const PROGRAM_METRICS: [ProgramMetric; 10] = [
    ("banter_program_calls_total", "counter", "Calls of programs.", |counts| counts.calls),
    ("banter_program_units_total", "counter", "Units that they took.", |counts| counts.units),
    ("banter_program_refusals_total", "counter", "Posts and others that they refused.", |counts| counts.refusals),
    ("banter_program_edits_total", "counter", "Posts that they edited.", |counts| counts.edits),
    ("banter_program_takes_total", "counter", "Posts that they kept for themselves.", |counts| counts.takes),
    ("banter_program_posts_total", "counter", "Posts of their own.", |counts| counts.posts),
    ("banter_program_dropped_total", "counter", "Lines of theirs that were lost.", |counts| counts.dropped),
    ("banter_program_suspensions_total", "counter", "Times that a room's program was suspended.", |counts| {
        counts.suspensions
    }),
    ("banter_program_suspended_rooms", "gauge", "Rooms in which it is suspended.", |counts| counts.suspended_rooms),
    ("banter_program_state_bytes", "gauge", "Bytes of committed state of its rooms in memory.", |counts| {
        counts.state_bytes
    }),
];

/// Appends a line for each program of each core.
pub(super) fn render<'r>(text: &mut String, cores: impl Iterator<Item = (usize, &'r CoreReport)> + Clone) {
    for (name, kind, help, read) in PROGRAM_METRICS {
        head(text, name, kind, help);
        for (index, core) in cores.clone() {
            for (program, counts) in core.programs.iter().map(named) {
                let _ = writeln!(text, "{name}{{core=\"{index}\",program=\"{program}\"}} {}", read(counts));
            }
        }
    }
    let name = "banter_program_faults_total";
    head(
        text,
        name,
        "counter",
        "Calls that came to no decision, and those that were not made since it is suspended, by kind.",
    );
    for (index, core) in cores {
        for (program, counts) in core.programs.iter().map(named) {
            for kind in FaultKind::ALL {
                let (count, kind) = (counts.faults[kind as usize], kind.name());
                let _ = writeln!(text, "{name}{{core=\"{index}\",program=\"{program}\",kind=\"{kind}\"}} {count}");
            }
        }
    }
}

fn named((rule, counts): &(ProgramRule, ProgramCounts)) -> (&str, &ProgramCounts) {
    (&rule.name, counts)
}
