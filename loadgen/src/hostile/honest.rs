//! The honest connections: a pair in a small room, of whom one posts, and one that pings. What they feel is measured.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::args::{Plan, Target};
use crate::fault::LoadFault;
use crate::fleet::{Fleet, Sink};
use crate::identities::{Identities, MEMBERS};
use crate::measure::{Latencies, Moment};
use crate::opening::{self, Crowd};
use crate::progress::Progress;
use crate::run::Run;
use crate::scan::Seen;
use crate::scan_json::Openings;
use crate::schedule::Schedule;

/// The longest wait for the pair's sockets while a pong may come to the other: much less than a ping takes.
const PONG_LOOK_MAX: Duration = Duration::from_micros(20);

/// What the honest connections felt.
#[derive(Clone, Debug, Default)]
pub struct Felt {
    /// From the intended time of a post to the message at both of the pair.
    pub message: Latencies,
    /// From the intended time of a `ping` to its `pong`.
    pub ping: Latencies,
}

/// Hears the answers to the pings.
struct Pings {
    openings: Openings,
    started: Instant,
    /// When each was meant to be sent, and whether it counts; the request's number is its place here.
    intended: Vec<(Duration, bool)>,
    /// Pings that have no answer.
    owed: usize,
    latencies: Latencies,
    refused: Option<LoadFault>,
}

impl Sink for Pings {
    fn openings(&self, _connection: usize) -> &Openings {
        &self.openings
    }

    fn seen(&mut self, _connection: usize, seen: Seen<'_>, now: Instant) {
        match seen {
            Seen::Pong { id } => {
                let number = usize::try_from(id).unwrap_or(usize::MAX);
                self.owed = self.owed.saturating_sub(1);
                if let Some((intended, is_measured)) = self.intended.get_mut(number)
                    && std::mem::take(is_measured)
                {
                    self.latencies.record((now - self.started).saturating_sub(*intended));
                }
            }
            Seen::Refused { code, message } => self.refused = Some(LoadFault::Refused { code, message }),
            _ => {}
        }
    }
}

/// See the module.
pub(crate) struct Honest<'a> {
    pair: Run<'a>,
    fleet: Fleet,
    pings: Pings,
    schedule: Schedule,
    measured: Range<Duration>,
    /// They say nothing that was not meant to be said in the measured time.
    is_silent: bool,
    looked_at: Instant,
    /// How long each look away from these connections was.
    pub(crate) looks_away: Latencies,
}

impl<'a> Honest<'a> {
    /// Opens them. They post and ping as often as the plan's pace says.
    pub(crate) fn open(
        target: &'a Target,
        plan: &'a Plan,
        rooms: &'a [String],
        pings_per_s: u64,
    ) -> Result<Self, LoadFault> {
        let identities = Identities::of(target, MEMBERS, 1)?;
        let mut fleet = Fleet::with_small_turns(target.wire, target.server)?.known_as(identities);
        let crowd = Crowd { rooms: &[format!("{}-ping", target.room_prefix)], members: 1, connections: 1, echo: true };
        let progress = Progress::of_opening(1);
        let joined = opening::open(&mut fleet, crowd, target.setup_rate, &progress)?;
        progress.finish();
        let pair = Run::open_beside(target, plan, rooms)?;
        let pings = Pings {
            openings: Openings::new(&crowd.rooms[0], joined[0].epoch, plan.payload_bytes),
            started: pair.started,
            intended: Vec::new(),
            owed: 0,
            latencies: Latencies::default(),
            refused: None,
        };
        let (schedule, looked_at) = (Schedule::new(pings_per_s), Instant::now());
        let (measured, looks_away) = (Duration::ZERO..Duration::ZERO, Latencies::default());
        Ok(Honest { pair, fleet, pings, schedule, measured, is_silent: false, looked_at, looks_away })
    }

    /// From the start on.
    pub(crate) fn now(&self) -> Duration {
        self.pair.started.elapsed()
    }

    /// They go on; nothing was said while something else was done, and nothing of that is made up for.
    pub(crate) fn skip_to_now(&mut self) {
        let now = self.now();
        self.pair.skip_to(now);
        self.schedule.skip_to(now);
        self.looked_at = Instant::now();
        self.is_silent = false;
    }

    /// Until they go on, they only wait for what they are owed.
    pub(crate) fn fall_silent(&mut self) {
        self.is_silent = true;
    }

    /// Posts and pings what is due, and reads what has come, for at most so long.
    pub(crate) fn look(&mut self, patience: Duration) -> Result<(), LoadFault> {
        self.looks_away.record(self.looked_at.elapsed());
        let now = if self.is_silent { self.measured.end - Duration::from_nanos(1) } else { self.now() };
        self.pair.post_what_is_due(now)?;
        self.ping_what_is_due(now)?;
        let due = self.schedule.next_at().saturating_sub(now);
        let patience = if self.pings.owed > 0 { patience.min(PONG_LOOK_MAX) } else { patience };
        self.pair.turn(patience.min(due))?;
        let turned = self.fleet.turn(Duration::ZERO, &mut self.pings);
        self.looked_at = Instant::now();
        self.pings.refused.take().map_or(Ok(()), Err)?;
        turned.map(drop)
    }

    fn ping_what_is_due(&mut self, now: Duration) -> Result<(), LoadFault> {
        while let Some((_, at)) = self.schedule.take_due(now) {
            let is_measured = self.measured.contains(&at);
            self.fleet.ping(0, self.pings.intended.len() as u64);
            self.pings.intended.push((at, is_measured));
            self.pings.owed += 1;
        }
        self.fleet.flush(0)
    }

    /// Times what is meant to be sent within that time.
    pub(crate) fn measure(&mut self, window: Range<Duration>) {
        self.pair.load.measure(window.clone());
        self.measured = window;
        self.looks_away = Latencies::default();
    }

    /// Whether a ping or a post is still on its way, and may come.
    pub(crate) fn is_owed(&self) -> bool {
        let is_whole = self.pair.load.verifier.broken.is_nothing();
        is_whole && (self.pings.owed > 0 || self.pair.load.under_way() > 0)
    }

    /// What they felt of what was measured; measured pings that were not answered by now took until now.
    pub(crate) fn take(&mut self) -> Felt {
        let now = self.now();
        for (intended, is_measured) in &mut self.pings.intended {
            if std::mem::take(is_measured) {
                self.pings.latencies.record(now.saturating_sub(*intended));
            }
        }
        let message = std::mem::take(&mut self.pair.load.latencies).delivered;
        Felt { message, ping: std::mem::take(&mut self.pings.latencies) }
    }

    pub(crate) fn moment(&self) -> Result<Moment, LoadFault> {
        self.pair.moment()
    }

    /// The end: true when the pair got every message once and in order.
    pub(crate) fn finish(&mut self) -> Result<bool, LoadFault> {
        self.pair.drain()?;
        Ok(self.pair.load.finish())
    }

    /// What was wrong, in words.
    pub(crate) fn described(&self) -> &[String] {
        &self.pair.load.verifier.described
    }
}
