//! Connections that say nothing, and when each of them was ended with which words.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use banter_loadgen::args::Target;
use banter_loadgen::fault::LoadFault;
use banter_loadgen::fleet::{Fleet, Sink, Sources};
use banter_loadgen::identities::Identities;
use banter_loadgen::opening;
use banter_loadgen::progress::Progress;
use banter_loadgen::scan::Seen;
use banter_loadgen::scan_json::Openings;
use banter_loadgen::wire::Entry;

/// The code of the last words to whom was revoked.
const REVOKED: &str = "revoked";
/// The longest wait for the answer to one who comes again.
const PATIENCE: Duration = Duration::from_secs(10);
const TURN_MAX: Duration = Duration::from_millis(20);

/// The addresses that are revoked: `127.1.0.0/16` has them all.
pub(super) const RANGE: &str = "127.1.0.0/16";
pub(super) const RANGE_SOURCES: Sources = Sources { first: Ipv4Addr::new(127, 1, 0, 1), count: 200 };

/// What connections were told.
#[derive(Default)]
pub(super) struct Heard {
    any: Openings,
    was_told: Vec<bool>,
    ended_at: Vec<Option<Instant>>,
    /// How many have ended.
    pub(super) ended: usize,
    is_joined: bool,
    refusal: Option<String>,
}

impl Sink for Heard {
    fn openings(&self, _connection: usize) -> &Openings {
        &self.any
    }

    fn seen(&mut self, connection: usize, seen: Seen<'_>, now: Instant) {
        match seen {
            Seen::Refused { code, .. } => {
                self.was_told[connection] |= code == REVOKED;
                self.refusal.get_or_insert(code);
            }
            Seen::Joined { .. } => self.is_joined = true,
            Seen::Ended => {
                self.ended_at[connection] = Some(now);
                self.ended += 1;
            }
            _ => {}
        }
    }
}

impl Heard {
    fn of(connections: usize) -> Self {
        Heard { was_told: vec![false; connections], ended_at: vec![None; connections], ..Heard::default() }
    }

    /// Those that were ended, with the moment.
    pub(super) fn ends(&self) -> impl Iterator<Item = Instant> {
        self.ended_at.iter().copied().flatten()
    }

    /// Those that were told that they are revoked.
    pub(super) fn told(&self) -> usize {
        self.was_told.iter().filter(|was_told| **was_told).count()
    }
}

/// See the module.
pub(super) struct Crowd {
    fleet: Fleet,
    pub(super) heard: Heard,
}

/// Who is in it, and from where.
pub(super) struct Members<'a> {
    pub(super) rooms: &'a [String],
    pub(super) count: usize,
    pub(super) identities: Identities,
    pub(super) sources: Option<Sources>,
}

fn fleet_of(target: &Target, identities: Identities, sources: Option<Sources>) -> Result<Fleet, LoadFault> {
    let fleet = Fleet::with_small_turns(target.wire, target.server)?.known_as(identities).telling_ends();
    Ok(match sources {
        Some(sources) => fleet.coming_from(sources),
        None => fleet,
    })
}

impl Crowd {
    /// Opens and joins them all.
    ///
    /// # Errors
    /// When one is refused or lost.
    pub(super) fn open(target: &Target, members: Members<'_>) -> Result<Self, LoadFault> {
        let Members { rooms, count, identities, sources } = members;
        let mut fleet = fleet_of(target, identities, sources)?;
        let progress = Progress::of_opening(count);
        let crowd =
            opening::Crowd { rooms, members: count.div_ceil(rooms.len()).max(1), connections: count, echo: true };
        opening::open(&mut fleet, crowd, target.setup_rate, &progress)?;
        progress.finish();
        Ok(Crowd { fleet, heard: Heard::of(count) })
    }

    /// Reads a little of what has come. Says how much there was to read.
    pub(super) fn turn(&mut self) -> Result<usize, LoadFault> {
        self.fleet.turn(Duration::ZERO, &mut self.heard)
    }
}

/// What became of one who came again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComingAgain {
    /// It was let in.
    LetIn,
    /// It was refused with that code, or with an answer that was no WebSocket.
    Refused(String),
    /// It was closed without a word.
    Closed,
}

impl ComingAgain {
    /// Whether it was refused for what was revoked.
    pub fn is_revoked(&self) -> bool {
        *self == ComingAgain::Refused(REVOKED.to_owned())
    }
}

/// One connection that says hello and joins.
///
/// # Errors
/// When nothing is answered.
pub(super) fn come_again(
    target: &Target,
    identities: Identities,
    sources: Option<Sources>,
) -> Result<ComingAgain, LoadFault> {
    let mut fleet = fleet_of(target, identities, sources)?;
    let (mut heard, started) = (Heard::of(1), Instant::now());
    fleet.connect()?;
    // Right behind what opens the connection: a server reads it there.
    fleet.hello_and_join(0, Entry::now("again"))?;
    while started.elapsed() < PATIENCE {
        match fleet.turn(TURN_MAX, &mut heard) {
            Err(LoadFault::Upgrade(answer)) => return Ok(ComingAgain::Refused(answer)),
            turned => turned?,
        };
        if heard.is_joined {
            return Ok(ComingAgain::LetIn);
        }
        if let Some(code) = heard.refusal.take() {
            return Ok(ComingAgain::Refused(code));
        }
        if heard.ended_at[0].is_some() {
            return Ok(ComingAgain::Closed);
        }
    }
    let stuck = "one who came again was not answered".to_owned();
    Err(LoadFault::Stuck { ready: 0, wanted: 1, seconds: PATIENCE.as_secs(), stuck })
}
