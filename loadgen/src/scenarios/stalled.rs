//! `stalled`: some readers stop reading their sockets, and read on later.
//!
//! The server may keep what they miss, tell them a gap, or end their connection: then they come back behind their cursor.
//! Nothing may be lost without a word.

use std::time::{Duration, Instant};

use crate::args::Stalled;
use crate::fanout::room_names;
use crate::fault::LoadFault;
use crate::fleet::Fleet;
use crate::followers::{Followers, Told};
use crate::identities::{CLIENTS, Identities};
use crate::measure::Latencies;
use crate::run::Run;
use crate::sheet::{Maker, Merging, Promise, Unit};
use crate::watch::{self, Phase, Turned};
use crate::{opening, output, process};

use super::storm::live_shape;

/// Those who stall.
struct Readers {
    followers: Followers,
    rooms: Vec<String>,
    reached: usize,
    ended: u64,
    behind_max: u64,
    read_on_at: Instant,
    caught_up: Latencies,
}

/// What the server's memory was.
#[derive(Clone, Copy, Default)]
struct Resident {
    before: Option<u64>,
    at_the_end: Option<u64>,
}

/// Runs the job. True when all got everything in order, or were told what they will not get.
///
/// # Errors
/// When the run could not be made.
pub fn run(job: &Stalled) -> Result<bool, LoadFault> {
    let (target, plan) = (&job.target, job.live.plan("stalled"));
    let live_members = plan.rooms as usize * plan.members as usize;
    opening::prepare(target, live_members + job.stalled as usize)?;
    target.pid.map(process::cpu_of).transpose()?;
    let rooms = room_names(&target.room_prefix, plan.rooms);
    let mut live = Run::open_beside(target, &plan, &rooms)?;
    live.load.keep_ledger();
    let identities = Identities::of(target, CLIENTS, job.stalled as usize)?;
    let fleet = Fleet::with_small_turns(target.wire, target.server)?.known_as(identities);
    let fleet = fleet.buffering(job.receive_bytes as usize).telling_ends();
    let epochs = live.load.epochs().to_vec();
    let count = job.stalled as usize;
    let mut followers =
        Followers::new(fleet, epochs, job.live.payload, count, |reader| reader % rooms.len()).allowing_gaps();
    followers.assemble(&rooms, target.setup_rate, &live.load)?;
    live.skip_to(live.started.elapsed());
    let mut readers = Readers::new(followers, rooms.clone());
    let (phases, resident) = phases(job, &mut live, &mut readers)?;
    live.drain()?;
    readers.catch_up(&live, job.catch_up_max)?;
    live.load.finish();
    let maker = sheet(job, &phases, resident, &live, &mut readers);
    output::tell(target, &maker.finish())
}

fn phases(job: &Stalled, live: &mut Run<'_>, readers: &mut Readers) -> Result<([Phase; 3], Resident), LoadFault> {
    let resident = |live: &Run<'_>| live.target().pid.map(process::resident_bytes_of).transpose();
    let mut reading = |live: &mut Run<'_>| readers.turn(live).map(Turned::On);
    watch::phase(live, "warm-up", job.live.warmup, &mut reading)?;
    let before = watch::phase(live, "before", job.live.before, &mut reading)?;
    let resident_before = resident(live)?;
    let stalled = watch::phase(live, "stalled", job.stall, &mut watch::nothing)?;
    let resident = Resident { before: resident_before, at_the_end: resident(live)? };
    readers.read_on(live);
    let catch_up = watch::phase(live, "catch-up", job.catch_up_max, &mut |live| {
        let ready = readers.turn(live)?;
        Ok(if readers.reached == readers.followers.count() { Turned::Over } else { Turned::On(ready) })
    })?;
    Ok(([before, stalled, catch_up], resident))
}

impl Readers {
    fn new(followers: Followers, rooms: Vec<String>) -> Self {
        let (read_on_at, caught_up) = (Instant::now(), Latencies::default());
        Readers { followers, rooms, reached: 0, ended: 0, behind_max: 0, read_on_at, caught_up }
    }

    /// They read on; each is to read what stands in its room now.
    fn read_on(&mut self, live: &Run<'_>) {
        self.read_on_at = Instant::now();
        let Some(ledger) = &live.load.ledger else { return };
        for reader in 0..self.followers.count() {
            let head = ledger.head(self.followers.room_of(reader));
            self.behind_max = self.behind_max.max(self.followers.behind(reader, head));
            self.followers.aim(reader, head);
        }
    }

    fn turn(&mut self, live: &Run<'_>) -> Result<usize, LoadFault> {
        let ready = self.followers.turn(Duration::ZERO, &live.load)?;
        for (reader, told) in self.followers.take_told() {
            match told {
                Told::Reached => {
                    self.reached += 1;
                    self.caught_up.record(self.read_on_at.elapsed());
                }
                Told::Ended => {
                    self.ended += 1;
                    self.followers.drop_connection(reader, true)?;
                    self.followers.connect_again(reader)?;
                }
                Told::Connected => self.followers.enter(reader, &self.rooms)?,
                Told::Joined { .. } | Told::Left => {}
            }
        }
        Ok(ready)
    }

    /// The load is silent; they read to the end.
    fn catch_up(&mut self, live: &Run<'_>, time_max: Duration) -> Result<(), LoadFault> {
        let deadline = Instant::now() + time_max;
        while self.reached < self.followers.count() && Instant::now() < deadline {
            self.turn(live)?;
        }
        self.followers.catch_up(&live.load, deadline.saturating_duration_since(Instant::now()))
    }
}

fn sheet(job: &Stalled, phases: &[Phase; 3], resident: Resident, live: &Run<'_>, readers: &mut Readers) -> Maker {
    let question = "What do readers that stop reading cost the others, and what do they get in the end?";
    let [before, stalled, catch_up] = phases;
    let mut maker = watch::maker(&job.target, "stalled", question, &[before, stalled, catch_up]);
    let (count, seconds) = (job.stalled, job.stall.as_secs_f64());
    maker.shape(format!("{count} readers of the live rooms do not read for {seconds} s, and then read on"));
    maker.shape(live_shape(&job.live));
    let (gaps, in_gaps) = readers.followers.gaps();
    let mut count = |name: &str, label: &str, value: u64| {
        maker.figure(name, label, value as f64, Unit::Count, Promise::Stands, Merging::Sum);
    };
    count("behind_messages_max", "behind at most, messages", readers.behind_max);
    count("gaps_told", "gaps told to them", gaps);
    count("messages_in_gaps", "messages in those gaps", in_gaps);
    count("connections_ended", "ended by the server", readers.ended);
    if let Some((before, after)) = resident.before.zip(resident.at_the_end) {
        let growth = after as f64 - before as f64;
        maker.figure(
            "resident_growth_bytes",
            "server memory, growth",
            growth,
            Unit::Bytes,
            Promise::Stands,
            Merging::Most,
        );
    }
    maker.latencies("caught_up", "reading on to caught up", &readers.caught_up);
    if let Some(ledger) = &live.load.ledger {
        readers.followers.finish(ledger);
    }
    maker.check("stalled readers caught up", readers.followers.count() as u64, readers.reached as u64);
    maker.verifier("stalled readers", readers.followers.verifier());
    maker.load("live members", &live.load);
    maker.samples(&live.sampler.samples);
    maker
}
