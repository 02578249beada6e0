//! Readers that come and go by the clock, in rooms of a live load.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::fault::LoadFault;
use crate::fleet::Fleet;
use crate::followers::{Followers, Told};
use crate::identities::{CLIENTS, Identities};
use crate::measure::Latencies;
use crate::run::Run;
use crate::schedule::Schedule;

/// Joins and leaves begun between two looks at the live load.
const ACTS_A_TURN_MAX: usize = 4;
/// Who leaves waits so long for what stands in the room; behind that the run is over.
const OWED_MAX: Duration = Duration::from_secs(10);

/// How they come and go.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// How many they are.
    pub count: usize,
    /// Joins a second, and as many leaves.
    pub joins_per_s: u64,
    /// With their connections.
    pub reconnects: bool,
}

/// See the module. Half of them read at a time.
pub struct Churners {
    followers: Followers,
    rooms: Vec<String>,
    habit: Habit,
    schedule: Schedule,
    started: Instant,
    /// Joins that are due and not begun.
    due: VecDeque<Duration>,
    away: VecDeque<usize>,
    reading: VecDeque<usize>,
    /// When each was meant to join.
    intended: Vec<Duration>,
    /// From the intended time to `joined`; of a connection that is new, with its opening.
    pub joined: Latencies,
    /// Joins that were answered.
    pub joins: u64,
    /// Stays that ended with everything read.
    pub stays: u64,
    /// Joins that were begun.
    pub begun: u64,
    /// Stays that were to end.
    pub ending: u64,
}

impl Churners {
    /// Nobody is there yet.
    ///
    /// # Errors
    /// When the host gives no sockets, or the secret signs no token.
    pub fn new(live: &Run<'_>, rooms: &[String], payload_bytes: usize, habit: Habit) -> Result<Self, LoadFault> {
        let target = live.target();
        let identities = Identities::of(target, CLIENTS, habit.count)?;
        let fleet = Fleet::with_small_turns(target.wire, target.server)?.known_as(identities);
        let epochs = live.load.epochs().to_vec();
        let followers = Followers::new(fleet, epochs, payload_bytes, habit.count, |churner| churner % rooms.len());
        Ok(Churners {
            followers,
            rooms: rooms.to_vec(),
            habit,
            schedule: Schedule::new(habit.joins_per_s),
            started: Instant::now(),
            due: VecDeque::new(),
            away: (0..habit.count).collect(),
            reading: VecDeque::new(),
            intended: vec![Duration::ZERO; habit.count],
            joined: Latencies::default(),
            joins: 0,
            stays: 0,
            begun: 0,
            ending: 0,
        })
    }

    /// They begin now; what was counted is forgotten.
    pub fn begin(&mut self) {
        self.schedule.skip_to(self.started.elapsed());
        self.joined = Latencies::default();
    }

    /// Who is there, for the checks.
    pub fn followers(&self) -> &Followers {
        &self.followers
    }

    /// Joins and leaves what is due, and reads what has come.
    ///
    /// # Errors
    /// When one is refused or lost.
    pub fn turn(&mut self, live: &Run<'_>) -> Result<usize, LoadFault> {
        let now = self.started.elapsed();
        while let Some((_, at)) = self.schedule.take_due(now) {
            self.due.push_back(at);
        }
        for _ in 0..ACTS_A_TURN_MAX {
            self.release_one(live);
            if !self.due.is_empty() {
                self.join_one()?;
            }
        }
        let found = self.followers.turn(Duration::ZERO, &live.load)?;
        self.hear()?;
        Ok(found)
    }

    /// The next who is away joins, if anybody is; otherwise the join stays due.
    fn join_one(&mut self) -> Result<(), LoadFault> {
        let Some(churner) = self.away.pop_front() else { return Ok(()) };
        self.intended[churner] = self.due.pop_front().unwrap_or_default();
        self.begun += 1;
        if churner >= self.followers.begun() {
            self.followers.connect()?;
        } else if self.habit.reconnects {
            self.followers.connect_again(churner)?;
        } else {
            self.followers.join(churner, &self.rooms)?;
        }
        Ok(())
    }

    /// Who has read for longest leaves, once it has what stands in its room now.
    fn release_one(&mut self, live: &Run<'_>) {
        if self.reading.len() <= self.habit.count / 2 {
            return;
        }
        let Some((churner, ledger)) = self.reading.pop_front().zip(live.load.ledger.as_ref()) else { return };
        self.ending += 1;
        self.followers.aim(churner, ledger.head(self.followers.room_of(churner)));
    }

    fn hear(&mut self) -> Result<(), LoadFault> {
        for (churner, told) in self.followers.take_told() {
            match told {
                Told::Connected => self.followers.enter(churner, &self.rooms)?,
                Told::Joined { .. } => {
                    self.joins += 1;
                    self.joined.record(self.started.elapsed().saturating_sub(self.intended[churner]));
                    self.reading.push_back(churner);
                }
                Told::Reached => self.go(churner)?,
                Told::Left => self.gone(churner),
                Told::Ended => {}
            }
        }
        Ok(())
    }

    fn go(&mut self, churner: usize) -> Result<(), LoadFault> {
        if self.habit.reconnects {
            self.followers.drop_connection(churner, false)?;
            self.gone(churner);
            Ok(())
        } else {
            self.followers.leave(churner, &self.rooms)
        }
    }

    fn gone(&mut self, churner: usize) {
        self.stays += 1;
        self.away.push_back(churner);
    }

    /// Nobody comes any more; who is leaving does, and who reads reads to the end. The load is silent.
    ///
    /// # Errors
    /// When one is refused or lost.
    pub fn finish(&mut self, live: &Run<'_>) -> Result<(), LoadFault> {
        let deadline = Instant::now() + OWED_MAX;
        while (self.joins < self.begun || self.stays < self.ending) && Instant::now() < deadline {
            self.followers.turn(Duration::from_millis(1), &live.load)?;
            self.hear()?;
        }
        self.followers.catch_up(&live.load, OWED_MAX)?;
        if let Some(ledger) = &live.load.ledger {
            self.followers.finish(ledger);
        }
        Ok(())
    }
}
