//! Opens the connections of a run at a bounded rate, and takes each up to `joined`.

use std::time::{Duration, Instant};

use crate::args::Target;
use crate::fault::{LoadFault, host};
use crate::fleet::{self, Fleet, Sink};
use crate::progress::Progress;
use crate::scan::Seen;
use crate::scan_json::Openings;
use crate::sys;
use crate::wire::Entry;

/// Connections that are being opened at a time: well below the backlog of a listener (4096 on current kernels, 128 on
/// old ones), for one that overflows costs a second of TCP's patience.
const OPENING_MAX: usize = 100;
/// No connection was joined for so long: something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors that are no connection: standard streams, epoll, files of /proc.
pub const DESCRIPTORS_SPARE: u64 = 32;

/// What `joined` said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// The room's history.
    pub epoch: u64,
    /// Its head.
    pub head: u64,
}

/// Who joins what: the connections of a room have neighbouring numbers.
#[derive(Clone, Copy, Debug)]
pub struct Crowd<'a> {
    /// The rooms' names.
    pub rooms: &'a [String],
    /// Connections of each room; the last room may have fewer.
    pub members: usize,
    /// Connections in all.
    pub connections: usize,
    /// Whether they want their own posts back.
    pub echo: bool,
}

impl Crowd<'_> {
    fn entry(&self, connection: usize) -> Entry<'_> {
        Entry { echo: self.echo, ..Entry::now(&self.rooms[connection / self.members]) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Asked,
    Welcomed,
    Joined,
}

/// Hears the answers while the crowd assembles.
struct Opening {
    none: Openings,
    stages: Vec<Stage>,
    joined: Vec<Joined>,
    joined_count: usize,
    upgraded: Vec<usize>,
    refused: Option<LoadFault>,
}

impl Sink for Opening {
    fn openings(&self, _connection: usize) -> &Openings {
        &self.none
    }

    fn seen(&mut self, connection: usize, seen: Seen<'_>, _now: Instant) {
        match seen {
            Seen::Upgraded => self.upgraded.push(connection),
            Seen::Welcome => self.stages[connection] = Stage::Welcomed,
            Seen::Joined { epoch, sequence } => {
                self.joined[connection] = Joined { epoch, head: sequence };
                self.stages[connection] = Stage::Joined;
                self.joined_count += 1;
            }
            // The first says why: `join` is refused for want of a `hello` behind it.
            Seen::Refused { code, message } => {
                self.refused.get_or_insert(LoadFault::Refused { code, message });
            }
            _ => {}
        }
    }
}

/// Readies this process for a run of so many connections.
///
/// # Errors
/// When the host does not allow it.
pub fn prepare(target: &Target, connections: usize) -> Result<(), LoadFault> {
    if let Some(cpu) = target.cpu {
        sys::pin_to_cpu(cpu).map_err(|error| LoadFault::Pin { cpu, error })?;
    }
    sys::hold_still().map_err(host("setting the timer slack and huge pages"))?;
    let limit = sys::raise_descriptor_limit().map_err(host("raising the descriptor limit"))?;
    let needed = connections as u64 + DESCRIPTORS_SPARE;
    if needed > limit {
        return Err(LoadFault::Descriptors { needed, limit });
    }
    fleet::check_sources(target.server, connections)
}

/// Opens all connections and joins them. The answer has what each was told, by its number.
///
/// # Errors
/// When one is refused or lost, or nothing happens for too long.
pub fn open(fleet: &mut Fleet, crowd: Crowd<'_>, rate: u32, progress: &Progress) -> Result<Vec<Joined>, LoadFault> {
    let wanted = crowd.connections;
    let mut opening = Opening {
        none: Openings::default(),
        stages: vec![Stage::Connecting; wanted],
        joined: vec![Joined::default(); wanted],
        joined_count: 0,
        upgraded: Vec::new(),
        refused: None,
    };
    let started = Instant::now();
    let mut progressed_at = started;
    let is_native = !fleet.has_upgrade();
    while opening.joined_count < wanted {
        let allowed = 1 + (started.elapsed().as_secs_f64() * f64::from(rate)) as usize;
        while fleet.len() < wanted.min(allowed) && fleet.len() - opening.joined_count < OPENING_MAX {
            fleet.connect()?;
            if is_native {
                opening.upgraded.push(fleet.len() - 1);
            }
        }
        for connection in std::mem::take(&mut opening.upgraded) {
            opening.stages[connection] = Stage::Asked;
            fleet.hello_and_join(connection, crowd.entry(connection))?;
        }
        let before = opening.joined_count;
        let patience = Duration::from_secs_f64(1.0 / f64::from(rate)).min(Duration::from_millis(100));
        let turned = fleet.turn(patience, &mut opening);
        if let Some(refused) = opening.refused.take() {
            return Err(refused);
        }
        turned?;
        if opening.joined_count > before {
            progressed_at = Instant::now();
            progress.opened(opening.joined_count);
        } else if progressed_at.elapsed() > PATIENCE {
            return Err(opening.stuck(fleet.len()));
        }
    }
    Ok(opening.joined)
}

impl Opening {
    fn stuck(&self, begun: usize) -> LoadFault {
        let count = |stage| self.stages[..begun].iter().filter(|found| **found == stage).count();
        let stuck = format!(
            "{} are connecting, {} wait for welcome, {} wait for joined",
            count(Stage::Connecting),
            count(Stage::Asked),
            count(Stage::Welcomed)
        );
        let (ready, wanted, seconds) = (self.joined_count, self.stages.len(), PATIENCE.as_secs());
        LoadFault::Stuck { ready, wanted, seconds, stuck }
    }
}
