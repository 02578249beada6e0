//! Runs a fan-out: opens the rooms, posts at its pace, measures a window, drains, verifies, reports.

use std::time::{Duration, Instant};

use crate::args::{Complete, Pace, Plan, Target};
use crate::fault::{LoadFault, host};
use crate::fleet::Fleet;
use crate::identities::{Identities, MEMBERS};
use crate::load::{Load, Shape};
use crate::measure::Moment;
use crate::neighbours::streams;
use crate::opening::{self, Crowd, Joined};
use crate::process::{self, SoftirqThreads};
use crate::progress::Progress;
use crate::report::{FanoutReport, Outcome};
use crate::schedule::Schedule;
use crate::sys;

/// The longest wait for sockets: phases end and bars move meanwhile.
const TURN_MAX: Duration = Duration::from_millis(20);
/// Quiet for so long after everything has come: nothing comes twice.
const AFTERMATH: Duration = Duration::from_millis(100);

/// Runs the plan. True when everything was delivered as it must be.
///
/// # Errors
/// When the run could not be made.
pub fn run(target: &Target, plan: &Plan) -> Result<bool, LoadFault> {
    if plan.publishers > plan.members {
        return Err(LoadFault::TooManyPublishers { publishers: plan.publishers, members: plan.members });
    }
    let members = plan.members as usize;
    let connections = plan.rooms as usize * members;
    streams::check(target.wire, plan)?;
    opening::prepare(target, connections)?;
    target.pid.map(process::cpu_of).transpose()?;

    let rooms: Vec<String> = (0..plan.rooms).map(|room| format!("{}-{room}", target.room_prefix)).collect();
    let identities = Identities::of(target, MEMBERS, connections)?;
    let mut fleet = Fleet::new(target.wire, target.server)?.keyed(target.keyed).known_as(identities);
    let progress = Progress::of_opening(connections);
    let opened_at = Instant::now();
    let crowd = Crowd { rooms: &rooms, members, connections, echo: true };
    let joined = opening::open(&mut fleet, crowd, target.setup_rate, &progress)?;
    progress.finish();
    let setup = opened_at.elapsed();

    let mut run = Run::new(target, plan, &rooms, fleet, &joined);
    let window = run.drive()?;
    let verified = run.load.finish();
    let report = FanoutReport::new(Outcome { target, plan, setup, window, load: &run.load, verified });
    report.print(target.json);
    Ok(verified)
}

/// A fan-out under way. `resume` has one beside its storm.
pub struct Run<'a> {
    target: &'a Target,
    plan: &'a Plan,
    rooms: &'a [String],
    fleet: Fleet,
    /// What its members were told.
    pub load: Load,
    /// When it began: times of posts count from here.
    pub started: Instant,
    /// Publishers with something to flush.
    unflushed: Vec<usize>,
    schedule: Option<Schedule>,
    server_softirq: SoftirqThreads,
    own_softirq: SoftirqThreads,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        target: &'a Target,
        plan: &'a Plan,
        rooms: &'a [String],
        fleet: Fleet,
        joined: &[Joined],
    ) -> Self {
        let started = Instant::now();
        let (complete, schedule) = match plan.pace {
            Pace::Closed { complete, .. } => (Some(complete), None),
            Pace::Open { posts_per_s } => (None, Some(Schedule::new(posts_per_s))),
        };
        let shape = Shape { rooms, members: plan.members as usize, payload_bytes: plan.payload_bytes, complete };
        let measured = plan.time.warmup..plan.time.warmup + plan.time.duration;
        let load = streams::follow(target.wire, plan, Load::new(shape, joined, started, measured));
        let server_softirq = target.pid.map(SoftirqThreads::beside).unwrap_or_default();
        let own_softirq = SoftirqThreads::beside(std::process::id());
        Run { target, plan, rooms, fleet, load, started, unflushed: Vec::new(), schedule, server_softirq, own_softirq }
    }

    /// Opens the members, of whose sockets few are looked at in a turn, so that it can be served beside others.
    ///
    /// # Errors
    /// When one is refused or lost.
    pub fn open_beside(target: &'a Target, plan: &'a Plan, rooms: &'a [String]) -> Result<Self, LoadFault> {
        let members = plan.members as usize;
        let connections = rooms.len() * members;
        let identities = Identities::of(target, MEMBERS, connections)?;
        let mut fleet = Fleet::with_small_turns(target.wire, target.server)?.known_as(identities);
        let progress = Progress::of_opening(connections);
        let crowd = Crowd { rooms, members, connections, echo: true };
        let joined = opening::open(&mut fleet, crowd, target.setup_rate, &progress)?;
        progress.finish();
        Ok(Run::new(target, plan, rooms, fleet, &joined))
    }

    /// Warms up, measures, drains. Says what happened in the measured window.
    fn drive(&mut self) -> Result<Moment, LoadFault> {
        let end = self.plan.time.warmup + self.plan.time.duration;
        let progress = Progress::of_run(end);
        let mut before = None;
        self.start()?;
        loop {
            let now = self.started.elapsed();
            if before.is_none() && now >= self.plan.time.warmup {
                before = Some(self.moment()?);
            }
            // A broken promise ends the run at once: the rest of it would prove nothing.
            if !self.load.verifier.broken.is_nothing() {
                break;
            }
            if now >= end {
                // A program that was held up at the end still owes what was due before it.
                self.post_scheduled(end - Duration::from_nanos(1))?;
                self.flush()?;
                break;
            }
            self.post_what_is_due(now)?;
            let phase = if before.is_none() { "warm-up" } else { "measured" };
            progress.ran(phase, now, self.load.totals.deliveries as f64 / now.as_secs_f64());
            self.turn(end - now)?;
        }
        let after = self.moment()?;
        self.drain()?;
        progress.finish();
        Ok(after.since(&before.unwrap_or_default()))
    }

    /// The first posts of a closed loop.
    fn start(&mut self) -> Result<(), LoadFault> {
        let Pace::Closed { outstanding, .. } = self.plan.pace else { return Ok(()) };
        for _ in 0..outstanding {
            for index in 0..self.publishers() {
                self.post(self.publisher(index), self.started.elapsed())?;
            }
        }
        self.flush()
    }

    fn publishers(&self) -> u64 {
        u64::from(self.plan.rooms) * u64::from(self.plan.publishers)
    }

    /// The connection of a publisher. Neighbouring indexes are in different rooms, so that a clock that takes them in
    /// turn spreads its posts evenly.
    fn publisher(&self, index: u64) -> usize {
        let (rooms, members) = (u64::from(self.plan.rooms), u64::from(self.plan.members));
        (index % rooms * members + index / rooms) as usize
    }

    /// Leaves out what the clock was to post before that time.
    pub(crate) fn skip_to(&mut self, now: Duration) {
        self.schedule.iter_mut().for_each(|schedule| schedule.skip_to(now));
    }

    /// Posts what the clock, or a post that is complete, has made due by then.
    ///
    /// # Errors
    /// When a connection is gone, or the server is too far behind.
    pub fn post_what_is_due(&mut self, now: Duration) -> Result<(), LoadFault> {
        self.post_scheduled(now)?;
        let mut ready = std::mem::take(&mut self.load.ready);
        for (publisher, at) in ready.drain(..) {
            self.post(publisher as usize, at)?;
        }
        self.load.ready = ready;
        self.flush()
    }

    fn post_scheduled(&mut self, now: Duration) -> Result<(), LoadFault> {
        let publishers = self.publishers();
        while let Some((number, at)) = self.schedule.as_mut().and_then(|schedule| schedule.take_due(now)) {
            self.post(self.publisher(number % publishers), at)?;
        }
        Ok(())
    }

    fn post(&mut self, publisher: usize, intended: Duration) -> Result<(), LoadFault> {
        let (room, slot, body) = self.load.post(publisher, intended)?;
        self.fleet.post(publisher, &self.rooms[room], slot, body);
        self.unflushed.push(publisher);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LoadFault> {
        for publisher in self.unflushed.drain(..) {
            self.fleet.flush(publisher)?;
        }
        Ok(())
    }

    /// Reads what comes, until the next post is due at the latest. Says how many sockets were ready.
    ///
    /// # Errors
    /// When a connection is gone or refused something.
    pub fn turn(&mut self, patience: Duration) -> Result<usize, LoadFault> {
        let due = self.schedule.map(|schedule| schedule.next_at().saturating_sub(self.started.elapsed()));
        let patience = patience.min(TURN_MAX).min(due.unwrap_or(TURN_MAX));
        let turned = self.fleet.turn(patience, &mut self.load);
        // What the server said explains more than that it closed the connection.
        if let Some(refused) = self.load.refused.take() {
            return Err(refused);
        }
        turned
    }

    /// Posts nothing more, and waits for what is under way.
    ///
    /// # Errors
    /// When a connection is gone or refused something.
    pub fn drain(&mut self) -> Result<(), LoadFault> {
        self.schedule = None;
        let deadline = Instant::now() + self.plan.time.drain;
        let mut quiet_until = Instant::now() + AFTERMATH;
        while Instant::now() < deadline && self.load.verifier.broken.is_nothing() {
            let before = self.fleet.traffic.frames;
            self.turn(TURN_MAX)?;
            if self.load.under_way() > 0 || self.fleet.traffic.frames > before {
                quiet_until = Instant::now() + AFTERMATH;
            } else if Instant::now() >= quiet_until {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn moment(&self) -> Result<Moment, LoadFault> {
        let mut totals = self.load.totals;
        totals.traffic = self.fleet.traffic;
        Ok(Moment {
            at: self.started.elapsed(),
            totals,
            server_cpu: self.target.pid.map(process::cpu_of).transpose()?,
            server_waited: self.target.pid.and_then(process::waited_of),
            server_softirq: self.server_softirq.cpu(),
            own_cpu: sys::own_cpu().map_err(host("reading the CPU clock"))?,
            own_waited: process::waited_of(std::process::id()),
            own_softirq: self.own_softirq.cpu(),
        })
    }
}

/// When a post is complete, in words.
pub fn describe(complete: Complete) -> &'static str {
    match complete {
        Complete::All => "every member of its room has it",
        Complete::Echo => "its publisher has it back",
        Complete::Ack => "its publisher has the acknowledgement",
    }
}
