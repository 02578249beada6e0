//! Holds joined connections that say nothing, and measures what each costs the server in memory.

use std::time::{Duration, Instant};

use crate::args::Idle;
use crate::fault::LoadFault;
use crate::fleet::{Fleet, Sink};
use crate::identities::{Identities, MEMBERS};
use crate::opening::{self, Crowd};
use crate::process::Memory;
use crate::progress::Progress;
use crate::report::IdleReport;
use crate::scan::Seen;
use crate::scan_json::Openings;

/// Hears nothing worth noting: pings are answered by the fleet.
struct Silence(Openings, Option<LoadFault>);

impl Sink for Silence {
    fn openings(&self, _connection: usize) -> &Openings {
        &self.0
    }

    fn seen(&mut self, _connection: usize, seen: Seen<'_>, _now: Instant) {
        if let Seen::Refused { code, message } = seen {
            self.1 = Some(LoadFault::Refused { code, message });
        }
    }
}

/// Opens, holds and measures. True, for there is nothing to verify but that all connections stayed.
///
/// # Errors
/// When a connection could not be made, or did not stay.
pub fn run(job: &Idle) -> Result<bool, LoadFault> {
    let target = &job.target;
    let connections = job.connections as usize;
    opening::prepare(target, connections)?;
    let before = target.pid.map(Memory::of).transpose()?;

    let members = connections.div_ceil(job.rooms as usize);
    let rooms: Vec<String> = (0..job.rooms).map(|room| format!("{}-{room}", target.room_prefix)).collect();
    let identities = Identities::of(target, MEMBERS, connections)?;
    let mut fleet = Fleet::new(target.wire, target.server)?.known_as(identities);
    let progress = Progress::of_opening(connections);
    let opened_at = Instant::now();
    let crowd = Crowd { rooms: &rooms, members, connections, echo: true };
    opening::open(&mut fleet, crowd, target.setup_rate, &progress)?;
    progress.finish();
    let setup = opened_at.elapsed();

    hold(&mut fleet, job.hold)?;
    let after = target.pid.map(Memory::of).transpose()?;
    IdleReport::new(job, setup, before.zip(after)).print(target.json);
    Ok(true)
}

fn hold(fleet: &mut Fleet, time: Duration) -> Result<(), LoadFault> {
    let progress = Progress::of_run(time);
    let started = Instant::now();
    let mut silence = Silence(Openings::default(), None);
    while started.elapsed() < time {
        progress.ran("holding", started.elapsed(), None);
        let turned = fleet.turn(Duration::from_millis(100).min(time), &mut silence);
        if let Some(refused) = silence.1.take() {
            return Err(refused);
        }
        turned?;
    }
    progress.finish();
    Ok(())
}
