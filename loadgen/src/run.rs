//! A load under way: members who read and post at a pace, and everything that is measured of it.

use std::time::{Duration, Instant};

use crate::args::{Pace, Plan, Target};
use crate::fault::{LoadFault, host};
use crate::fleet::Fleet;
use crate::identities::{Identities, MEMBERS};
use crate::load::{Load, Shape};
use crate::measure::{AllLatencies, Moment};
use crate::neighbours::streams;
use crate::opening::{self, Crowd, Joined};
use crate::process::{self, SoftirqThreads};
use crate::progress::Progress;
use crate::sampler::Sampler;
use crate::schedule::Schedule;
use crate::seating::Seating;
use crate::{seats, sys};

/// The longest wait for sockets: phases end and bars move meanwhile.
const TURN_MAX: Duration = Duration::from_millis(20);
/// Quiet for so long after everything has come: nothing comes twice.
const AFTERMATH: Duration = Duration::from_millis(100);

/// A load under way. Many scenarios have one beside something else.
pub struct Run<'a> {
    target: &'a Target,
    plan: &'a Plan,
    rooms: &'a [String],
    seating: Seating,
    fleet: Fleet,
    /// What its members were told.
    pub load: Load,
    /// When it began: times of posts count from here.
    pub started: Instant,
    /// What happened, interval by interval.
    pub sampler: Sampler,
    /// Publishers with something to flush, and when it was meant to be sent.
    unflushed: Vec<(usize, Duration)>,
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
        seating: Seating,
        joined: &[Joined],
    ) -> Self {
        let started = Instant::now();
        let (complete, schedule) = match plan.pace {
            Pace::Closed { complete, .. } => (Some(complete), None),
            Pace::Open { posts_per_s } => (None, Some(Schedule::new(posts_per_s))),
        };
        let shape = Shape { rooms, seating: &seating, payload_bytes: plan.payload_bytes, complete };
        let measured = plan.time.warmup..plan.time.warmup + plan.time.duration;
        let load = streams::follow(target.wire, plan, Load::new(shape, joined, started, measured));
        let server_softirq = target.pid.map(SoftirqThreads::beside).unwrap_or_default();
        let own_softirq = SoftirqThreads::beside(std::process::id());
        let sampler = Sampler::for_time(plan.time.warmup + plan.time.duration);
        let unflushed = Vec::new();
        Run {
            target,
            plan,
            rooms,
            seating,
            fleet,
            load,
            started,
            sampler,
            unflushed,
            schedule,
            server_softirq,
            own_softirq,
        }
    }

    /// Opens the members.
    ///
    /// # Errors
    /// When one is refused or lost.
    pub fn open(target: &'a Target, plan: &'a Plan, rooms: &'a [String]) -> Result<Self, LoadFault> {
        Self::open_in(Fleet::new(target.wire, target.server)?, target, plan, rooms)
    }

    /// Opens the members, of whose sockets few are looked at in a turn, so that it can be served beside others.
    ///
    /// # Errors
    /// When one is refused or lost.
    pub fn open_beside(target: &'a Target, plan: &'a Plan, rooms: &'a [String]) -> Result<Self, LoadFault> {
        Self::open_in(Fleet::with_small_turns(target.wire, target.server)?, target, plan, rooms)
    }

    fn open_in(fleet: Fleet, target: &'a Target, plan: &'a Plan, rooms: &'a [String]) -> Result<Self, LoadFault> {
        let seating = plan.seating()?;
        let connections = seating.connections();
        let identities = Identities::of(target, MEMBERS, connections)?;
        let mut fleet = fleet.keyed(target.keyed).known_as(identities);
        let progress = Progress::of_opening(connections);
        let block = &rooms[..seating.rooms_per_block()];
        let crowd = Crowd { rooms: block, members: seating.members(), connections, echo: true };
        let first = opening::open(&mut fleet, crowd, target.setup_rate, &progress)?;
        let joined = seats::join_the_rest(&mut fleet, &seating, rooms, first)?;
        progress.finish();
        Ok(Run::new(target, plan, rooms, fleet, seating, &joined))
    }

    /// Warms up, measures, drains. Says what happened in the measured window.
    ///
    /// # Errors
    /// When a connection is gone or refused something, or the server is too far behind.
    pub fn drive(&mut self) -> Result<Moment, LoadFault> {
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
            self.look(&progress, phase)?;
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

    /// The server.
    pub fn target(&self) -> &'a Target {
        self.target
    }

    /// Posts so many a second from now on, by the clock.
    pub fn post_at(&mut self, posts_per_s: u64) {
        let mut schedule = Schedule::new(posts_per_s);
        schedule.skip_to(self.started.elapsed());
        self.schedule = Some(schedule);
    }

    /// Posts nothing by the clock from now on.
    pub fn fall_silent(&mut self) {
        self.schedule = None;
    }

    /// The latencies so far, which begin anew.
    pub fn take_latencies(&mut self) -> AllLatencies {
        self.sampler.forget_latencies();
        std::mem::take(&mut self.load.latencies)
    }

    /// Notes what happened since the last interval, if it is over, and tells the person who watches.
    ///
    /// # Errors
    /// When the server's process is gone.
    pub fn look(&mut self, progress: &Progress, phase: &'static str) -> Result<(), LoadFault> {
        let now = self.started.elapsed();
        if self.sampler.is_due(now) {
            let resident_bytes = self.target.pid.map(process::resident_bytes_of).transpose()?;
            let moment = self.moment()?;
            self.sampler.take(moment, &self.load.latencies.delivered, resident_bytes);
        }
        progress.ran(phase, now, self.sampler.samples.last());
        Ok(())
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
        let connection = self.seating.connection_of(publisher);
        self.fleet.post(connection, &self.rooms[room], slot, body);
        self.unflushed.push((connection, intended));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LoadFault> {
        for (publisher, intended) in self.unflushed.drain(..) {
            self.fleet.flush(publisher)?;
            if self.schedule.is_some() && self.load.is_measured(intended) {
                self.load.latencies.late.record(self.started.elapsed().saturating_sub(intended));
            }
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

    /// What was counted and used up so far.
    ///
    /// # Errors
    /// When the server's process is gone.
    pub fn moment(&self) -> Result<Moment, LoadFault> {
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
