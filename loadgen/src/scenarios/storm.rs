//! `storm`: everybody who reads loses the connection at once and comes back where they were.
//!
//! ```text
//!  clients read ─▶ warm-up ─▶ before ─▶ all dropped ─ away ─▶ storm: connect, join behind the cursor ─▶ catch up ─▶ verify
//!  posters post all the time; a live load in rooms of its own is measured before and during
//! ```

use std::time::{Duration, Instant};

use crate::args::{Pace, Plan, Storm, Time};
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

/// Connections begun, or dropped, between two looks at the live load: about 100 us of work.
const CONNECTS_A_TURN_MAX: usize = 4;
const DROPS_A_TURN_MAX: usize = 32;

/// The clients on their way back.
struct Return {
    followers: Followers,
    rooms: Vec<String>,
    /// Who comes when, from the drop on; the last is next.
    due: Vec<(Duration, usize)>,
    due_at: Vec<Duration>,
    opening: usize,
    opening_max: usize,
    done: usize,
    dropped: usize,
    dropped_at: Instant,
    missed: u64,
    from_drop: Latencies,
    from_return: Latencies,
}

/// Runs the job. True when everything was delivered as it must be, to the clients and to the live members.
///
/// # Errors
/// When the run could not be made.
pub fn run(job: &Storm) -> Result<bool, LoadFault> {
    if !job.clients.is_multiple_of(job.client_rooms) {
        return Err(LoadFault::UnevenClients { clients: job.clients, rooms: job.client_rooms });
    }
    let (target, plan, posting) = (&job.target, job.live.plan("storm"), posters_plan(job));
    let live_members = plan.rooms as usize * plan.members as usize;
    opening::prepare(target, live_members + (job.clients + job.client_rooms) as usize)?;
    target.pid.map(process::cpu_of).transpose()?;

    let rooms = room_names(&target.room_prefix, job.client_rooms);
    let mut posters = Run::open_beside(target, &posting, &rooms)?;
    posters.load.keep_ledger();
    let identities = Identities::of(target, CLIENTS, job.clients as usize)?;
    let fleet = Fleet::with_small_turns(target.wire, target.server)?.known_as(identities);
    let epochs = posters.load.epochs().to_vec();
    let mut clients =
        Followers::new(fleet, epochs, job.live.payload, job.clients as usize, |client| client % rooms.len());
    let first_heads = clients.assemble(&rooms, target.setup_rate, &posters.load)?;

    let live_rooms = room_names(&format!("{}-live", target.room_prefix), plan.rooms);
    let mut live = Run::open_beside(target, &plan, &live_rooms)?;
    posters.skip_to(posters.started.elapsed());
    let mut coming = Return::new(job, clients, rooms.clone());
    let phases = phases(job, &mut live, &mut posters, &mut coming)?;

    posters.drain()?;
    coming.followers.catch_up(&posters.load, plan.time.drain)?;
    live.drain()?;
    let _ = (live.load.finish(), posters.load.finish());
    let mut maker = sheet(job, &phases, &coming);
    verdict(&mut maker, &live, &posters, &mut coming, &first_heads);
    output::tell(target, &maker.finish())
}

fn posters_plan(job: &Storm) -> Plan {
    let time = Time { duration: Duration::ZERO, warmup: Duration::ZERO, drain: Duration::from_secs(10) };
    let pace = Pace::Open { posts_per_s: job.client_rate };
    let (rooms, payload_bytes) = (job.client_rooms, job.live.payload);
    Plan { name: "storm", rooms, rooms_each: 1, members: 1, publishers: 1, payload_bytes, pace, time }
}

fn phases(
    job: &Storm,
    live: &mut Run<'_>,
    posters: &mut Run<'_>,
    coming: &mut Return,
) -> Result<[Phase; 2], LoadFault> {
    let mut quiet = |_: &mut Run<'_>| {
        let ready = post(posters)? + coming.followers.turn(Duration::ZERO, &posters.load)?;
        Ok(Turned::On(ready))
    };
    watch::phase(live, "warm-up", job.live.warmup, &mut quiet)?;
    let before = watch::phase(live, "before", job.live.before, &mut quiet)?;
    coming.begin();
    let storm = watch::phase(live, "storm", job.storm_max, &mut |_| {
        let ready = post(posters)?;
        coming.turn(posters, ready)
    })?;
    Ok([before, storm])
}

fn post(posters: &mut Run<'_>) -> Result<usize, LoadFault> {
    posters.post_what_is_due(posters.started.elapsed())?;
    posters.turn(Duration::ZERO)
}

impl Return {
    fn new(job: &Storm, followers: Followers, rooms: Vec<String>) -> Self {
        let due_at: Vec<Duration> =
            (0..job.clients).map(|client| job.away + job.jitter.mul_f64(spread(client))).collect();
        let mut due: Vec<(Duration, usize)> = due_at.iter().copied().zip(0..).collect();
        due.sort_by(|one, other| other.cmp(one));
        Return {
            followers,
            rooms,
            due,
            due_at,
            opening: 0,
            opening_max: job.opening as usize,
            done: 0,
            dropped: 0,
            dropped_at: Instant::now(),
            missed: 0,
            from_drop: Latencies::default(),
            from_return: Latencies::default(),
        }
    }

    fn begin(&mut self) {
        self.dropped_at = Instant::now();
        self.followers.take_told();
    }

    fn turn(&mut self, posters: &Run<'_>, ready: usize) -> Result<Turned, LoadFault> {
        if self.dropped < self.followers.count() {
            return self.drop_some().map(|()| Turned::On(1));
        }
        self.connect_some()?;
        for (client, told) in self.followers.take_told() {
            self.hear(client, told)?;
        }
        let found = self.followers.turn(Duration::ZERO, &posters.load)?;
        let is_over = self.done == self.followers.count() || !self.followers.verifier().broken.is_nothing();
        Ok(if is_over { Turned::Over } else { Turned::On(ready + found) })
    }

    fn drop_some(&mut self) -> Result<(), LoadFault> {
        let until = self.followers.count().min(self.dropped + DROPS_A_TURN_MAX);
        for client in self.dropped..until {
            self.followers.drop_connection(client, true)?;
        }
        self.dropped = until;
        Ok(())
    }

    fn connect_some(&mut self) -> Result<(), LoadFault> {
        let now = self.dropped_at.elapsed();
        for _ in 0..CONNECTS_A_TURN_MAX {
            let Some((_, client)) = self.due.pop_if(|(at, _)| *at <= now && self.opening < self.opening_max) else {
                break;
            };
            self.followers.connect_again(client)?;
            self.opening += 1;
        }
        Ok(())
    }

    fn hear(&mut self, client: usize, told: Told) -> Result<(), LoadFault> {
        match told {
            Told::Connected => self.followers.enter(client, &self.rooms)?,
            Told::Joined { head, missed } => {
                self.opening -= 1;
                self.missed += missed;
                self.followers.aim(client, head);
            }
            Told::Reached => {
                self.done += 1;
                let since = self.dropped_at.elapsed();
                self.from_drop.record(since);
                self.from_return.record(since.saturating_sub(self.due_at[client]));
            }
            Told::Left | Told::Ended => {}
        }
        Ok(())
    }
}

/// A number from 0 to 1 for each client, the same in every run, near which no other's is on purpose.
fn spread(client: u32) -> f64 {
    let mut bits = u64::from(client).wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn sheet(job: &Storm, phases: &[Phase; 2], coming: &Return) -> Maker {
    let question = "How long until everybody is back, with all they missed, when all connections break at once?";
    let [before, storm] = phases;
    let mut maker = watch::maker(&job.target, "storm", question, &[before, storm]);
    let (clients, rooms, rate) = (job.clients, job.client_rooms, job.client_rate);
    maker.shape(format!("{clients} clients read {rooms} rooms with {rate} posts/s; all are dropped at once"));
    let (away, jitter) = (job.away.as_secs_f64(), job.jitter.as_secs_f64());
    maker.shape(format!("they come back {away} s later, spread over {jitter} s, each behind its cursor"));
    maker.shape(live_shape(&job.live));
    let all_s = coming.from_drop.max_us() / 1e6;
    maker.figure("all_back_s", "all back after", all_s, Unit::Seconds, Promise::AtMost, Merging::Most);
    maker.figure("clients_back", "clients back", coming.done as f64, Unit::Count, Promise::Stands, Merging::Sum);
    let missed = coming.missed as f64;
    maker.figure("missed_messages", "messages made up for", missed, Unit::Count, Promise::Stands, Merging::Sum);
    maker.latencies("back_from_drop", "drop to all read again", &coming.from_drop);
    maker.latencies("back_from_return", "return to all read", &coming.from_return);
    maker
}

/// The live load in a sentence.
pub fn live_shape(live: &crate::args::Live) -> String {
    let (rooms, members, rate) = (live.rooms, live.members, live.rate);
    format!("live: {rooms} rooms x {members} members, {rate} posts/s by the clock, {} bytes a body", live.payload)
}

fn verdict(maker: &mut Maker, live: &Run<'_>, posters: &Run<'_>, coming: &mut Return, first_heads: &[u64]) {
    let followers = &mut coming.followers;
    let mut expected = 0;
    if let Some(ledger) = &posters.load.ledger {
        followers.finish(ledger);
        let due = |(client, head): (usize, &u64)| ledger.head(followers.room_of(client)).saturating_sub(*head);
        expected = first_heads.iter().enumerate().map(due).sum();
    }
    maker.check("clients back", followers.count() as u64, coming.done as u64);
    maker.check("messages to clients across the storm, once and in order", expected, followers.deliveries());
    maker.verifier("clients", followers.verifier());
    maker.load("live members", &live.load);
    maker.load("posters", &posters.load);
    maker.samples(&live.sampler.samples);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_over_the_whole_jitter() {
        let mut places: Vec<f64> = (0..1000).map(spread).collect();
        places.sort_by(f64::total_cmp);
        assert!(places[0] >= 0.0 && places[999] < 1.0);
        for (index, place) in places.iter().enumerate() {
            assert!((place - index as f64 / 1000.0).abs() < 0.06, "{index}: {place}");
        }
    }
}
