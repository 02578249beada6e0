//! `run`: the parts of a mix at the same time, each as processes of its own.

use std::fs;
use std::time::{Duration, Instant};

use crate::args::Mixed;
use crate::children::{self, Children, Did};
use crate::fault::LoadFault;
use crate::merging;
use crate::mix::{self, Process};
use crate::output;
use crate::progress::Progress;
use crate::sheet::Sheet;

/// Lines of each part's stderr that are kept for a fault.
const LINES_KEPT_MAX: usize = 50;
/// The longest wait for a child: the next may have to be started meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is known of a child.
#[derive(Default)]
struct Part {
    told: Vec<String>,
    sheets: Option<Vec<Sheet>>,
}

/// Runs the mix. True when every part was verified.
///
/// # Errors
/// When it is no mix, or a part could not be run: the others are ended then.
pub fn run(job: &Mixed) -> Result<bool, LoadFault> {
    let unreadable = |why: String| LoadFault::MixFile { path: job.file.clone(), why };
    let text = fs::read_to_string(&job.file).map_err(|error| unreadable(error.to_string()))?;
    let mut processes = mix::read(&text, job).map_err(|fault| unreadable(fault.to_string()))?;
    processes.sort_by(|one, other| one.after_s.total_cmp(&other.after_s));
    let parts = run_all(&processes)?;
    let sheets = parts.into_iter().filter_map(|part| part.sheets).flatten().collect();
    let mut merged = merging::by_name(sheets)?;
    let place = |sheet: &Sheet| processes.iter().position(|process| process.name == sheet.name);
    merged.sort_by_key(place);
    output::tell_all(&job.output, &merged)
}

fn run_all(processes: &[Process]) -> Result<Vec<Part>, LoadFault> {
    let mut children = Children::default();
    let mut parts: Vec<Part> = processes.iter().map(|_| Part::default()).collect();
    let (started, mut ended) = (Instant::now(), 0);
    let progress = Progress::of_parts(processes.len());
    while ended < processes.len() {
        let now = started.elapsed().as_secs_f64();
        while let Some(next) = processes.get(children.len()).filter(|next| next.after_s <= now) {
            children.start(&next.words, false)?;
        }
        progress.ended(ended, now);
        match children.next(PATIENCE) {
            Some((number, Did::Told(line))) => tell(&mut parts[number], &processes[number], line, &progress),
            Some((number, Did::Ended(code, said))) => {
                let name = &processes[number].name;
                let is_run = matches!(code, Some(0 | 1));
                let sheets = output::sheets_in(&said).ok().filter(|_| is_run);
                let fault = || children::fault(name, code, &parts[number].told);
                parts[number].sheets = Some(sheets.ok_or_else(fault)?);
                ended += 1;
            }
            Some((_, Did::Joined(_))) | None => {}
        }
    }
    progress.finish();
    Ok(parts)
}

/// A part's line goes on to the person, with its name.
fn tell(part: &mut Part, process: &Process, line: String, progress: &Progress) {
    progress.say(&format!("{}: {line}", process.name));
    if part.told.len() == LINES_KEPT_MAX {
        part.told.remove(0);
    }
    part.told.push(line);
}
