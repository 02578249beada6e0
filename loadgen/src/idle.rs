//! Holds joined connections that say nothing, and measures what each costs the server in memory.
//!
//! Where one process has not descriptors enough, others of this program hold a part each: from source addresses of their
//! own, as users of their own, until this one ends their stdin.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::args::{Idle, Target};
use crate::children::{self, Children, Did};
use crate::fault::{LoadFault, host};
use crate::fleet::{self, CONNECTIONS_PER_SOURCE, Fleet, Sink, Sources};
use crate::identities::{Identities, MEMBERS};
use crate::opening::{self, Crowd};
use crate::output::{WithSheet, write_page};
use crate::process::Memory;
use crate::progress::Progress;
use crate::report::{IdleReport, print_json};
use crate::scan::Seen;
use crate::scan_json::Openings;
use crate::sys;

/// Processes at most.
const PROCESSES_MAX: u64 = 256;
/// Nothing was heard of any child for so long: something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at whether there is still somebody who wants the connections.
const LOOK: Duration = Duration::from_millis(100);

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
    if let Some(first) = job.part_from {
        return hold_part(job, first);
    }
    let before = job.target.pid.map(Memory::of).transpose()?;
    let processes = processes(job)?;
    let (setup, after) = match processes {
        1 => hold_alone(job)?,
        processes => hold_in_parts(job, processes)?,
    };
    let report = IdleReport::new(job, processes, setup, before.zip(after));
    let sheet = report.sheet(&job.target);
    match job.target.json {
        true => print_json(&WithSheet { report: &report, limited: &sheet.limited, sheet: &sheet }),
        false => print!("{}", report.table()),
    }
    write_page(&job.target, &sheet)?;
    Ok(true)
}

/// As many as were asked for, or as it takes.
fn processes(job: &Idle) -> Result<u32, LoadFault> {
    let limit = sys::raise_descriptor_limit().map_err(host("raising the descriptor limit"))?;
    let each = limit.saturating_sub(opening::DESCRIPTORS_SPARE).max(1);
    let needed = u64::from(job.connections).div_ceil(each);
    let wanted = job.processes.map_or(needed, u64::from);
    if needed > PROCESSES_MAX || wanted < needed {
        let needed = u64::from(job.connections).div_ceil(wanted.min(PROCESSES_MAX)) + opening::DESCRIPTORS_SPARE;
        return Err(LoadFault::Descriptors { needed, limit });
    }
    fleet::check_sources(job.target.server, job.connections as usize)?;
    Ok(wanted.min(u64::from(job.connections)) as u32)
}

fn hold_alone(job: &Idle) -> Result<(Duration, Option<Memory>), LoadFault> {
    let progress = Progress::of_opening(job.connections as usize);
    let opened_at = Instant::now();
    let mut fleet = open(job, 0, &progress)?;
    progress.finish();
    let setup = opened_at.elapsed();
    hold(&mut fleet, job.hold)?;
    Ok((setup, job.target.pid.map(Memory::of).transpose()?))
}

/// Opens this process's connections; the first has that number among all.
fn open(job: &Idle, first: usize, progress: &Progress) -> Result<Fleet, LoadFault> {
    let (target, connections) = (&job.target, job.connections as usize);
    opening::prepare(target, connections)?;
    let members = connections.div_ceil(job.rooms as usize);
    let rooms: Vec<String> = (0..job.rooms).map(|room| format!("{}-{room}", target.room_prefix)).collect();
    let identities = Identities::from(target, MEMBERS, first, connections)?;
    let fleet = Fleet::new(target.wire, target.server)?.known_as(identities);
    let mut fleet = match sources(target, first, connections).filter(|_| job.part_from.is_some()) {
        Some(sources) => fleet.coming_from(sources),
        None => fleet,
    };
    let crowd = Crowd { rooms: &rooms, members, connections, echo: true };
    opening::open(&mut fleet, crowd, target.setup_rate, progress)?;
    Ok(fleet)
}

/// Addresses of loopback that no other part's connections come from.
fn sources(target: &Target, first: usize, connections: usize) -> Option<Sources> {
    let IpAddr::V4(server) = target.server.ip() else { return None };
    // An address for each 256 connections before it: parts that are smaller may share one, which has ports enough.
    let part = u32::try_from(first / 256).ok()?.checked_add(1)?;
    let count = u32::try_from(connections.div_ceil(CONNECTIONS_PER_SOURCE)).ok()?.max(1);
    (server.is_loopback() && part + count < 1 << 23)
        .then(|| Sources { first: Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + part), count })
}

fn hold_in_parts(job: &Idle, processes: u32) -> Result<(Duration, Option<Memory>), LoadFault> {
    let mut children = Children::default();
    let opened_at = Instant::now();
    for part in 0..processes {
        children.start(&part_words(job, processes, part), true)?;
    }
    wait_for_all(job, &mut children)?;
    let setup = opened_at.elapsed();
    let (progress, held_from) = (Progress::of_run(job.hold), Instant::now());
    while held_from.elapsed() < job.hold {
        progress.ran("holding", held_from.elapsed(), None);
        if let Some((part, did)) = children.next(LOOK.min(job.hold)) {
            gone(part, did)?;
        }
    }
    progress.finish();
    let memory = job.target.pid.map(Memory::of).transpose()?;
    let_go(&mut children)?;
    Ok((setup, memory))
}

/// The first connection of a part, and how many it has.
fn share(connections: u32, processes: u32, part: u32) -> (u32, u32) {
    let at = |part: u32| (u64::from(connections) * u64::from(part) / u64::from(processes)) as u32;
    (at(part), at(part + 1) - at(part))
}

fn part_words(job: &Idle, processes: u32, part: u32) -> Vec<String> {
    let target = &job.target;
    let (first, connections) = share(job.connections, processes, part);
    let mut words = vec!["idle".to_owned()];
    words.push(format!("--connections={connections}"));
    words.push(format!("--part-from={first}"));
    words.push(format!("--rooms={}", job.rooms));
    words.push(format!("--server={}", target.server));
    words.push(format!("--wire={}", target.wire.name()));
    words.push(format!("--setup-rate={}", (target.setup_rate / processes).max(1)));
    words.push(format!("--room-prefix={}", target.room_prefix));
    words.extend(target.cpu.map(|cpu| format!("--cpu={cpu}")));
    words.extend(target.users.map(|users| format!("--users={users}")));
    words.extend(target.secret_file.as_ref().map(|path| format!("--secret-file={}", path.display())));
    words
}

/// Waits until every child has all of its connections.
fn wait_for_all(job: &Idle, children: &mut Children) -> Result<(), LoadFault> {
    let (wanted, mut joined) = (job.connections as usize, vec![0; children.len()]);
    let progress = Progress::of_opening(wanted);
    while joined.iter().sum::<usize>() < wanted {
        match children.next(PATIENCE) {
            Some((part, Did::Joined(count))) => joined[part] = count,
            Some((part, did)) => gone(part, did)?,
            None => {
                let (ready, seconds) = (joined.iter().sum(), PATIENCE.as_secs());
                let stuck = format!("in {} processes", children.len());
                return Err(LoadFault::Stuck { ready, wanted, seconds, stuck });
            }
        }
        progress.opened(joined.iter().sum());
    }
    progress.finish();
    Ok(())
}

/// A child that says anything, or ends, while it should hold still, has failed: what it says last is why.
fn gone(part: usize, did: Did) -> Result<(), LoadFault> {
    let name = format!("part {part}");
    match did {
        Did::Told(line) => Err(children::fault(&name, None, &[line])),
        Did::Ended(code, _) => Err(children::fault(&name, code, &[])),
        Did::Joined(_) => Ok(()),
    }
}

/// All must have stayed to the end.
fn let_go(children: &mut Children) -> Result<(), LoadFault> {
    children.let_go();
    let mut left = children.len();
    while left > 0 {
        match children.next(PATIENCE) {
            Some((_, Did::Ended(Some(0), _))) => left -= 1,
            Some((part, did)) => gone(part, did)?,
            None => return Err(children::fault("a part", None, &["it did not end".to_owned()])),
        }
    }
    Ok(())
}

/// A child's life: opens, says so, and holds until its stdin ends.
fn hold_part(job: &Idle, first: u32) -> Result<bool, LoadFault> {
    let progress = Progress::for_parent();
    let mut fleet = open(job, first as usize, &progress)?;
    progress.opened_all(job.connections as usize);
    let is_wanted = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    while !is_wanted.is_finished() {
        hold(&mut fleet, LOOK)?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_connections_and_come_from_addresses_of_their_own() {
        for (connections, processes) in [(50_000, 3), (7, 7), (100_001, 4)] {
            let mut next = 0;
            for part in 0..processes {
                let (first, count) = share(connections, processes, part);
                assert!(first == next && count > 0);
                next += count;
            }
            assert_eq!(next, connections);
        }
        let target = Target::of("127.0.0.1:9".parse().unwrap());
        let of = |first, connections| sources(&target, first, connections).unwrap();
        assert_eq!((of(0, 100).first, of(0, 100).count), (Ipv4Addr::new(127, 1, 0, 1), 1));
        assert_eq!((of(19_968, 19_968).first, of(39_936, 30_000).count), (Ipv4Addr::new(127, 1, 0, 79), 2));
        assert!(sources(&Target::of("10.0.0.1:9".parse().unwrap()), 0, 1).is_none());
    }
}
