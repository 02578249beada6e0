//! Measures what honest clients feel of hostile ones, kind by kind, and what memory hostile ones cost the server.
//!
//! ```text
//!  fill ─▶ for each kind:  alone ─▶ company comes ─▶ attack: lead, measured, until nothing is owed ─▶ all go
//!       ─▶ many connections of mixed kinds at once: memory, and the sum of the limits ─▶ drain ─▶ verify, report
//! ```
//!
//! The honest connections have sockets of their own, which are looked at between any two steps of the attack: what they
//! wait for is then the server and not this program. How long it looked away is reported beside the latencies.

pub mod attack;
mod company;
mod honest;
pub mod kinds;
pub mod limits;
mod skim;

use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::args::{Hostile, Pace, Plan, Time};
use crate::fault::{LoadFault, host};
use crate::fill::{self, Filling};
use crate::identities::{ATTACKERS, Identities};
use crate::measure::{Latencies, Moment};
use crate::output::{WithSheet, write_page};
use crate::progress::Progress;
use crate::report::print_json;
use crate::report_hostile::{self, HostileReport};
use crate::{opening, process, sys};
use attack::{Attack, Deeds};
use company::{Company, Gathering};
pub use honest::Felt;
use honest::Honest;
use kinds::{Kind, Rooms, Script};
use limits::Bound;

/// A body's bytes, of the honest, of the history and of who is there besides.
pub(crate) const PAYLOAD_BYTES: usize = 128;
/// Posts under way while the history is made.
const FILL_OUTSTANDING: u64 = 100;
/// The longest wait for what the honest are owed while the attack goes on.
const OWED_MAX: Duration = Duration::from_secs(10);
/// The longest wait for sockets while nothing else is ready.
const LOOK_MAX: Duration = Duration::from_micros(100);
/// Between two looks at the server's memory.
const MEMORY_INTERVAL: Duration = Duration::from_millis(20);
/// Descriptors for all but the attackers and the large room.
const DESCRIPTORS_SPARE: u64 = 100;
/// The kinds that attack together: all that have something to hold of.
const MIXED: [Kind; 8] = [
    Kind::UnreadPings,
    Kind::SignalsAll,
    Kind::JoinLeave,
    Kind::Fetches,
    Kind::Members,
    Kind::Drip,
    Kind::Deaf,
    Kind::Connects,
];

/// What was seen of one attack.
pub struct Trial {
    /// The kind, or "mixed".
    pub name: &'static str,
    /// Hostile connections at a time.
    pub attackers: usize,
    /// Who was there besides.
    pub members: u32,
    /// What the honest felt before it, alone.
    pub alone: Felt,
    /// What happened in that time.
    pub alone_window: Moment,
    /// What they felt beside it.
    pub beside: Felt,
    /// What happened in that time.
    pub window: Moment,
    /// How long this program looked away from the honest in that time.
    pub looks_away: Latencies,
    /// The server's resident bytes before it, and the most beside it.
    pub resident_bytes: Option<(u64, u64)>,
    /// What the attackers did, also before and behind the measured time.
    pub deeds: Deeds,
    /// What was wrong with who was there besides.
    pub described: Vec<String>,
}

/// All that was seen.
pub struct Outcome<'a> {
    /// What was asked for.
    pub job: &'a Hostile,
    /// Kind by kind.
    pub trials: Vec<Trial>,
    /// Of mixed kinds at once, and the bound for their memory.
    pub memory: Option<(Trial, Bound)>,
    /// Whether all honest got all messages once and in order.
    pub verified: bool,
    /// What was wrong, in words.
    pub described: Vec<String>,
}

/// Runs the job. True when everything was delivered as it must be to the honest and to who was there besides.
///
/// # Errors
/// When the run could not be made.
pub fn run(job: &Hostile) -> Result<bool, LoadFault> {
    let target = &job.target;
    let large_room = prepare(job)?;
    let rooms = Rooms::of(&target.room_prefix);
    let limits = limits::ask(target)?;
    fill_history(job, &rooms)?;
    let (plan, pair) = (pair_plan(job), [format!("{}-honest", target.room_prefix)]);
    let honest = Honest::open(target, &plan, &pair, job.rate)?;
    let mut stage = Stage { job, rooms, large_room, honest };
    let mut trials = Vec::new();
    for kind in kinds_of(job) {
        trials.push(stage.attack_of(kind)?);
    }
    let memory = match job.memory {
        0 => None,
        count => Some((stage.attack_of_all()?, Bound::of(&limits, count.into(), job.cores.into()))),
    };
    let outcome = stage.finish(trials, memory)?;
    let (report, sheet) = (HostileReport::new(&outcome), report_hostile::sheet(&outcome));
    match target.json {
        true => print_json(&WithSheet { report: &report, limited: &sheet.limited, sheet: &sheet }),
        false => print!("{}", report.table()),
    }
    write_page(target, &sheet)?;
    Ok(outcome.verified)
}

fn kinds_of(job: &Hostile) -> Vec<Kind> {
    if job.kinds.is_empty() { Kind::value_variants().into() } else { job.kinds.clone() }
}

/// Readies this process, and says how many the large room may have.
fn prepare(job: &Hostile) -> Result<u32, LoadFault> {
    let limit = sys::raise_descriptor_limit().map_err(host("raising the descriptor limit"))?;
    let left = limit.saturating_sub(DESCRIPTORS_SPARE);
    let large_room = if kinds_of(job).contains(&Kind::LargeRoom) { job.large_room } else { 0 };
    let large_room = large_room.min(u32::try_from(left).unwrap_or(u32::MAX));
    let attacked = (job.attackers + job.crowd).max(job.memory).max(large_room) as usize;
    opening::prepare(&job.target, attacked)?;
    job.target.pid.map(process::cpu_of).transpose()?;
    Ok(large_room)
}

fn fill_history(job: &Hostile, rooms: &Rooms) -> Result<(), LoadFault> {
    let rooms = std::slice::from_ref(&rooms.history);
    let (payload_bytes, outstanding) = (PAYLOAD_BYTES, FILL_OUTSTANDING);
    let filling = Filling { rooms, messages: job.messages, payload_bytes, outstanding };
    fill::fill(&job.target, filling, &mut |_| true).map(drop)
}

fn pair_plan(job: &Hostile) -> Plan {
    Plan {
        name: "hostile",
        rooms: 1,
        rooms_each: 1,
        members: 2,
        publishers: 1,
        payload_bytes: PAYLOAD_BYTES,
        pace: Pace::Open { posts_per_s: job.rate },
        time: Time { duration: job.duration, warmup: Duration::ZERO, drain: OWED_MAX },
    }
}

/// The most that was seen of the server's memory.
struct Peak {
    pid: Option<u32>,
    bytes: u64,
    looked_at: Instant,
}

impl Peak {
    fn from_now(pid: Option<u32>) -> Result<Self, LoadFault> {
        let bytes = pid.map(process::resident_bytes_of).transpose()?.unwrap_or_default();
        Ok(Peak { pid, bytes, looked_at: Instant::now() })
    }

    fn look(&mut self) -> Result<(), LoadFault> {
        let Some(pid) = self.pid else { return Ok(()) };
        if self.looked_at.elapsed() >= MEMORY_INTERVAL {
            self.bytes = self.bytes.max(process::resident_bytes_of(pid)?);
            self.looked_at = Instant::now();
        }
        Ok(())
    }
}

/// One attack.
struct Assault {
    name: &'static str,
    attackers: usize,
    time: Duration,
}

/// Who is there besides the honest, for a while.
#[derive(Default)]
struct Party<'p, 'a> {
    company: Option<&'p mut Company<'a>>,
    attack: Option<&'p mut Attack>,
    peak: Option<&'p mut Peak>,
}

/// The honest, and all that is needed to attack them.
struct Stage<'a> {
    job: &'a Hostile,
    rooms: Rooms,
    large_room: u32,
    honest: Honest<'a>,
}

impl<'a> Stage<'a> {
    fn attack_of(&mut self, kind: Kind) -> Result<Trial, LoadFault> {
        let gathering = Gathering::of(kind, self.job, &self.rooms, self.large_room);
        let attackers = kind.attackers(self.job.attackers as usize);
        let identities = Identities::of(&self.job.target, ATTACKERS, attackers)?;
        let scripts = vec![Script::of(kind, self.job.target.server, &self.rooms, identities)];
        // In the large room the one who posts is the attacker, and is one of its members.
        let connections = if kind == Kind::LargeRoom { 0 } else { attackers };
        let attack = Attack::new(self.job.target.server, scripts, connections, self.job.attack_rate)?;
        let assault = Assault { name: kind.name(), attackers, time: self.job.duration };
        self.attack(assault, gathering.as_ref(), attack)
    }

    /// All at once; what is said into a room goes into the busy one.
    fn attack_of_all(&mut self) -> Result<Trial, LoadFault> {
        let rooms = Rooms { crowd: self.rooms.busy.clone(), ..self.rooms.clone() };
        let (gathering, count) = (Gathering::busy(&rooms), self.job.memory as usize);
        let identities = Identities::of(&self.job.target, ATTACKERS, count)?;
        let scripts = MIXED.map(|kind| Script::of(kind, self.job.target.server, &rooms, identities.clone())).into();
        let attack = Attack::new(self.job.target.server, scripts, count, self.job.attack_rate)?;
        let assault = Assault { name: "mixed", attackers: count, time: self.job.memory_duration };
        self.attack(assault, Some(&gathering), attack)
    }

    fn attack(
        &mut self,
        assault: Assault,
        gathering: Option<&Gathering>,
        mut attack: Attack,
    ) -> Result<Trial, LoadFault> {
        let Assault { name, attackers, time } = assault;
        let (alone, alone_window, _) = self.measure("alone", self.job.duration, Party::default())?;
        let mut company = gathering.map(|gathering| gathering.open(&self.job.target)).transpose()?;
        self.honest.skip_to_now();
        let mut peak = Peak::from_now(self.job.target.pid)?;
        let resident_before_bytes = peak.bytes;
        let party = Party { company: company.as_mut(), attack: Some(&mut attack), peak: Some(&mut peak) };
        let (beside, window, looks_away) = self.measure(name, time, party)?;
        let deeds = attack.deeds;
        drop(attack);
        let described = company.map(Company::finish).transpose()?.unwrap_or_default();
        self.honest.skip_to_now();
        self.run_for(name, self.job.lead, &mut Party::default())?;
        Ok(Trial {
            name,
            attackers,
            members: gathering.map_or(0, Gathering::members),
            alone,
            alone_window,
            beside,
            window,
            looks_away,
            resident_bytes: self.job.target.pid.map(|_| (resident_before_bytes, peak.bytes)),
            deeds,
            described,
        })
    }

    /// What the honest feel beside that party, what happened meanwhile, and how long this program looked away.
    fn measure(
        &mut self,
        name: &'static str,
        time: Duration,
        mut party: Party<'_, '_>,
    ) -> Result<(Felt, Moment, Latencies), LoadFault> {
        let begins_at = self.honest.now() + self.job.lead;
        self.honest.measure(begins_at..begins_at + time);
        self.run_for(name, self.job.lead, &mut party)?;
        let before = self.honest.moment()?;
        self.run_for(name, time, &mut party)?;
        let window = self.honest.moment()?.since(&before);
        let looks_away = std::mem::take(&mut self.honest.looks_away);
        self.wait_for_what_is_owed(&mut party)?;
        Ok((self.honest.take(), window, looks_away))
    }

    fn run_for(&mut self, name: &'static str, time: Duration, party: &mut Party<'_, '_>) -> Result<(), LoadFault> {
        let progress = Progress::of_run(time);
        let started = Instant::now();
        let mut patience = Duration::ZERO;
        while started.elapsed() < time {
            patience = self.turn(patience, party)?;
            progress.ran(name, started.elapsed(), None);
        }
        progress.finish();
        Ok(())
    }

    /// The attack goes on: what comes late because of it is late in the figures.
    fn wait_for_what_is_owed(&mut self, party: &mut Party<'_, '_>) -> Result<(), LoadFault> {
        let deadline = Instant::now() + OWED_MAX;
        self.honest.fall_silent();
        // The last that was meant to be said may not have been said yet.
        let mut patience = self.turn(Duration::ZERO, party)?;
        while self.honest.is_owed() && Instant::now() < deadline {
            patience = self.turn(patience, party)?;
        }
        Ok(())
    }

    /// One step of everybody. Says how long the next may wait.
    fn turn(&mut self, patience: Duration, party: &mut Party<'_, '_>) -> Result<Duration, LoadFault> {
        self.honest.look(patience)?;
        let mut found = 0;
        if let Some(company) = &mut party.company {
            found += company.turn()?;
            self.honest.look(Duration::ZERO)?;
        }
        if let Some(attack) = &mut party.attack {
            found += attack.turn(Instant::now())?;
        }
        if let Some(peak) = &mut party.peak {
            peak.look()?;
        }
        Ok(if found == 0 { LOOK_MAX } else { Duration::ZERO })
    }

    fn finish(mut self, trials: Vec<Trial>, memory: Option<(Trial, Bound)>) -> Result<Outcome<'a>, LoadFault> {
        let is_whole = self.honest.finish()?;
        let mut described = if is_whole { Vec::new() } else { self.honest.described().to_vec() };
        let all = trials.iter().chain(memory.as_ref().map(|(trial, _)| trial));
        for trial in all {
            described.extend(trial.described.iter().map(|text| format!("{}: {text}", trial.name)));
        }
        let verified = is_whole && described.is_empty();
        Ok(Outcome { job: self.job, trials, memory, verified, described })
    }
}
