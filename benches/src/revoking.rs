//! From the answer of the interface for backends to the closed socket, when a user or a range of addresses is revoked.
//!
//! ```text
//!  open: bystanders, the user's, those of the range ─▶ live load ─▶ before ─▶ POST user ─▶ meanwhile ─▶ before ─▶ POST range
//!  ─▶ meanwhile ─▶ drain ─▶ both come again ─▶ report
//! ```
//!
//! Everything is on one thread, which looks at the answer, the live load's sockets and a few of the others in turn; so what
//! the live members wait for is the server, and a socket's end is seen within some tens of microseconds.

mod args;
mod crowd;
mod report;

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use banter_loadgen::args::{Plan, Target};
use banter_loadgen::fault::LoadFault;
use banter_loadgen::identities::Identities;
use banter_loadgen::measure::Latencies;
use banter_loadgen::opening;
use banter_loadgen::progress::Progress;
use banter_loadgen::run::Run;

use crate::api::{Answer, Caller, read_key};
pub use args::{Args, Job, Measure, Refused};
pub use crowd::ComingAgain;
use crowd::{Crowd, Members, RANGE, RANGE_SOURCES, come_again};
pub use report::{Live, Report, Revoked};

/// What the names of those begin with whom nothing is revoked of, and of those who share the user that is revoked.
const BYSTANDERS: &str = "bystander";
const RANGED: &str = "ranged";
const VICTIMS: &str = "victim";
/// The user of all of them, as [`Identities`] makes it of the prefix.
const VICTIM: &str = "victim0";
/// What was posted before the end of a measured time is delivered behind it, within this.
const SETTLE: Duration = Duration::from_millis(300);
/// The live load runs so long before anything of it is measured.
const WARMUP: Duration = Duration::from_secs(2);
/// The longest wait for the live load's sockets while nothing else is ready.
const LOOK_MAX: Duration = Duration::from_micros(100);

/// Why nothing could be measured.
pub type Fault = Box<dyn Error>;

/// The three crowds, by what is revoked of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    User,
    Range,
    Nobody,
}

/// Everybody who is there.
struct Scene<'a> {
    args: &'a Measure,
    key: String,
    live: Run<'a>,
    crowds: [Crowd; 3],
}

/// Measures.
///
/// # Errors
/// When it could not be run: somebody is refused or lost, or the interface for backends answers no 200.
pub fn measure(args: &Measure) -> Result<Report, Fault> {
    let bystanders = args.bystanders().filter(|count| *count > 0);
    let bystanders =
        bystanders.ok_or("--connections must be more than --victims, --ranged and --live-members together")?;
    let target = &args.target;
    opening::prepare(target, args.connections as usize)?;
    let key = read_key(&args.key_file)?;
    let victims = identities_of_victims(args)?;
    let ranged = Identities::of(target, RANGED, args.ranged as usize)?;
    if let (Some(file), Some(token)) = (&args.token_out, victims.token(0)) {
        fs::write(file, token)?;
    }
    let crowds = open_crowds(args, bystanders as usize, &victims, &ranged)?;
    let (plan, rooms) = (args.live_plan(), [format!("{}-live", target.room_prefix)]);
    let mut scene = Scene { args, key, live: Run::open_beside(target, &plan, &rooms)?, crowds };
    scene.run_for("warm-up", WARMUP)?;
    let user = scene.revoke(Whom::User, &format!(r#"{{"user":"{VICTIM}"}}"#))?;
    let range = scene.revoke(Whom::Range, &format!(r#"{{"address":"{RANGE}"}}"#))?;
    scene.live.drain()?;
    let user = Revoked { came_again: is_refused(target, victims)?, ..user };
    let range = Revoked { came_again: is_shut_out(target, ranged)?, ..range };
    Ok(scene.report(&plan, user, range))
}

/// All of one user, each with a token of its own.
fn identities_of_victims(args: &Measure) -> Result<Identities, LoadFault> {
    let target = Target { users: Some(1), ..args.target.clone() };
    Identities::of(&target, VICTIMS, args.victims as usize)
}

fn open_crowds(
    args: &Measure,
    bystanders: usize,
    victims: &Identities,
    ranged: &Identities,
) -> Result<[Crowd; 3], LoadFault> {
    let target = &args.target;
    let rooms: Vec<String> = (0..args.rooms).map(|room| format!("{}-{room}", target.room_prefix)).collect();
    let others = Identities::of(target, BYSTANDERS, bystanders)?;
    let open = |count, identities, sources| Crowd::open(target, Members { rooms: &rooms, count, identities, sources });
    Ok([
        open(args.victims as usize, victims.clone(), None)?,
        open(args.ranged as usize, ranged.clone(), Some(RANGE_SOURCES))?,
        open(bystanders, others, None)?,
    ])
}

/// Whether the user's token is refused as revoked.
fn is_refused(target: &Target, victims: Identities) -> Result<bool, LoadFault> {
    Ok(come_again(target, victims, None)?.is_revoked())
}

/// Whether one of those addresses is not let in, with words or without.
fn is_shut_out(target: &Target, ranged: Identities) -> Result<bool, LoadFault> {
    Ok(come_again(target, ranged, Some(RANGE_SOURCES))? != ComingAgain::LetIn)
}

impl Scene<'_> {
    /// The live load before it, the revocation, and until all whom it names are closed and the live load was measured.
    fn revoke(&mut self, whom: Whom, named: &str) -> Result<Revoked, Fault> {
        let before = self.live_for("before", Duration::from_secs(self.args.before))?;
        // Only now: the server ends a connection on which nothing is asked for ten seconds.
        let mut api = Caller::connect(self.args.api, &self.key)?;
        self.live.load.measure(self.live.started.elapsed()..Duration::MAX);
        let asked_at = Instant::now();
        api.ask("/v1/revocations", named)?;
        let answered_at = self.wait_for_ends(whom, &mut api, asked_at)?;
        let meanwhile = self.settle()?;
        let heard = &self.crowds[whom as usize].heard;
        let mut closed = Latencies::default();
        // Some are closed while the answer is on its way.
        heard.ends().for_each(|ended_at| closed.record(ended_at.saturating_duration_since(answered_at)));
        let answered = answered_at - asked_at;
        Ok(Revoked::new(self.named(whom), heard.told(), answered, &closed, (&before, &meanwhile)))
    }

    fn named(&self, whom: Whom) -> usize {
        match whom {
            Whom::User => self.args.victims as usize,
            Whom::Range => self.args.ranged as usize,
            Whom::Nobody => 0,
        }
    }

    /// Until they are closed, or nobody waits any longer. Says when the 200 came.
    fn wait_for_ends(&mut self, whom: Whom, api: &mut Caller, asked_at: Instant) -> Result<Instant, Fault> {
        let meanwhile = Duration::from_secs(self.args.meanwhile);
        let closed_max = Duration::from_secs(self.args.closed_max).max(meanwhile);
        let (named, mut answered_at, mut patience) = (self.named(whom), None, Duration::ZERO);
        loop {
            patience = self.step(patience)?;
            if answered_at.is_none()
                && let Some(answer) = api.answer()?
            {
                answered_at = Some(accepted(&answer).map(|()| Instant::now())?);
            }
            let waited = asked_at.elapsed();
            let is_over = answered_at.is_some() && self.crowds[whom as usize].heard.ended >= named;
            if waited >= closed_max || is_over && waited >= meanwhile {
                return answered_at.ok_or_else(|| "the interface for backends did not answer".into());
            }
        }
    }

    /// The live load alone: its latencies.
    fn live_for(&mut self, phase: &'static str, time: Duration) -> Result<Latencies, Fault> {
        let begin = self.live.started.elapsed();
        self.live.load.measure(begin..begin + time);
        self.run_for(phase, time)?;
        self.settle()
    }

    /// Nothing more is measured; what was is delivered. Its latencies.
    fn settle(&mut self) -> Result<Latencies, Fault> {
        self.live.load.measure(Duration::ZERO..Duration::ZERO);
        self.run_for("settling", SETTLE)?;
        Ok(std::mem::take(&mut self.live.load.latencies).delivered)
    }

    fn run_for(&mut self, phase: &'static str, time: Duration) -> Result<(), Fault> {
        let (started, progress, mut patience) = (Instant::now(), Progress::of_run(time), Duration::ZERO);
        while started.elapsed() < time {
            patience = self.step(patience)?;
            progress.ran(phase, started.elapsed(), None);
        }
        progress.finish();
        Ok(())
    }

    /// One look at everybody. Says how long the next may wait.
    fn step(&mut self, patience: Duration) -> Result<Duration, LoadFault> {
        self.live.post_what_is_due(self.live.started.elapsed())?;
        self.live.turn(patience)?;
        let mut found = 0;
        for crowd in &mut self.crowds {
            found += crowd.turn()?;
        }
        Ok(if found == 0 { LOOK_MAX } else { Duration::ZERO })
    }

    fn report(mut self, plan: &Plan, user: Revoked, range: Revoked) -> Report {
        let is_whole = self.live.load.finish();
        let others_ended = self.crowds[Whom::Nobody as usize].heard.ended;
        let live = Live { members: plan.members, rate_posts_per_s: self.args.live_rate, verified: is_whole };
        let connections = self.args.connections;
        Report::new(
            self.args.target.wire,
            connections,
            live,
            others_ended,
            user,
            range,
            &self.live.load.verifier.described,
        )
    }
}

fn accepted(answer: &Answer) -> Result<(), Fault> {
    match answer.status {
        200 => Ok(()),
        status => Err(format!("the interface for backends answered {status}: {}", answer.body).into()),
    }
}

/// Shows a token that was revoked once more.
///
/// # Errors
/// When nobody answers, or there is no such token.
pub fn refused(args: &Refused) -> Result<ComingAgain, Fault> {
    let token = fs::read_to_string(&args.token_file)?;
    let identities = Identities::showing(VICTIMS, Some(1), vec![token.trim_end().to_owned()]);
    Ok(come_again(&args.target, identities, None)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn only_a_200_counts_as_revoked() {
        let answer = |status| Answer { status, body: "why".to_owned() };
        assert!(accepted(&answer(200)).is_ok());
        assert!(accepted(&answer(503)).unwrap_err().to_string().contains("503: why"));
    }
}
