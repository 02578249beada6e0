//! Fills rooms with messages as fast as the server takes them: one poster a room, so many posts of it under way.

use std::time::{Duration, Instant};

use crate::args::Target;
use crate::body::Template;
use crate::fault::LoadFault;
use crate::fleet::{Fleet, Sink};
use crate::identities::{Identities, MEMBERS};
use crate::opening::{self, Crowd, Joined};
use crate::progress::Progress;
use crate::scan::Seen;
use crate::scan_json::Openings;

/// Nothing was acknowledged for so long: something is wrong. A disk that is busy may take its time.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest wait for sockets: the caller may want to stop meanwhile.
const TURN_MAX: Duration = Duration::from_millis(20);

/// What the rooms are filled with.
#[derive(Clone, Copy, Debug)]
pub struct Filling<'a> {
    /// The rooms' names.
    pub rooms: &'a [String],
    /// Messages for each.
    pub messages: u64,
    /// A body's bytes.
    pub payload_bytes: usize,
    /// Posts of each room under way.
    pub outstanding: u64,
}

/// The token of a room's message; `index` counts the messages of the room from 0.
#[inline]
pub fn token(room: usize, index: u64) -> u64 {
    (room as u64) << 32 | index & u64::from(u32::MAX)
}

/// Hears the acknowledgements.
struct Filler<'a> {
    rooms: &'a [String],
    openings: Vec<Openings>,
    first_heads: Vec<u64>,
    posted: Vec<u64>,
    acknowledged: Vec<u64>,
    acknowledged_all: u64,
    /// Rooms that may be posted to again.
    ready: Vec<usize>,
    fault: Option<LoadFault>,
}

impl Sink for Filler<'_> {
    fn openings(&self, connection: usize) -> &Openings {
        &self.openings[connection]
    }

    fn seen(&mut self, room: usize, seen: Seen<'_>, _now: Instant) {
        match seen {
            Seen::Posted { sequence, .. } => {
                let due = self.first_heads[room].wrapping_add(self.acknowledged[room] + 1);
                if sequence != due {
                    let room = self.rooms[room].clone();
                    self.fault.get_or_insert(LoadFault::FillForeign { room, found: sequence, due });
                    return;
                }
                self.acknowledged[room] += 1;
                self.acknowledged_all += 1;
                self.ready.push(room);
            }
            Seen::Refused { code, message } => self.fault = Some(LoadFault::Refused { code, message }),
            _ => {}
        }
    }
}

/// Posts until every room has its messages, or `goes_on` (told how many were acknowledged) says no. The answer has what
/// each room was like before.
///
/// # Errors
/// When a post is refused, somebody else posts there, or nothing happens for too long.
pub fn fill(
    target: &Target,
    filling: Filling<'_>,
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<Joined>, LoadFault> {
    let count = filling.rooms.len();
    let identities = Identities::of(target, MEMBERS, count)?;
    let mut fleet = Fleet::new(target.wire, target.server)?.keyed(target.keyed).known_as(identities);
    let progress = Progress::of_opening(count);
    let crowd = Crowd { rooms: filling.rooms, members: 1, connections: count, echo: false };
    let joined = opening::open(&mut fleet, crowd, target.setup_rate, &progress)?;
    progress.finish();
    let openings = |(room, joined): (&String, &Joined)| Openings::new(room, joined.epoch, filling.payload_bytes);
    let mut filler = Filler {
        rooms: filling.rooms,
        openings: filling.rooms.iter().zip(&joined).map(openings).collect(),
        first_heads: joined.iter().map(|joined| joined.head).collect(),
        posted: vec![0; count],
        acknowledged: vec![0; count],
        acknowledged_all: 0,
        ready: (0..count).collect(),
        fault: None,
    };
    drive(&mut fleet, &mut filler, filling, goes_on)?;
    Ok(joined)
}

fn drive(
    fleet: &mut Fleet,
    filler: &mut Filler<'_>,
    filling: Filling<'_>,
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> Result<(), LoadFault> {
    let mut template = Template::new(filling.payload_bytes);
    let wanted = filling.messages.saturating_mul(filling.rooms.len() as u64);
    let progress = Progress::of_filling(wanted);
    let (mut progressed_at, mut before) = (Instant::now(), 0);
    while filler.acknowledged_all < wanted && goes_on(filler.acknowledged_all) {
        for room in std::mem::take(&mut filler.ready) {
            post(fleet, filler, filling, &mut template, room)?;
        }
        let turned = fleet.turn(TURN_MAX, filler);
        if let Some(fault) = filler.fault.take() {
            return Err(fault);
        }
        turned?;
        if filler.acknowledged_all > before {
            (progressed_at, before) = (Instant::now(), filler.acknowledged_all);
            progress.opened(before as usize);
        } else if progressed_at.elapsed() > PATIENCE {
            return Err(LoadFault::FillStuck { filled: before, wanted, seconds: PATIENCE.as_secs() });
        }
    }
    progress.finish();
    Ok(())
}

/// Posts to a room as much as may be under way.
fn post(
    fleet: &mut Fleet,
    filler: &mut Filler<'_>,
    filling: Filling<'_>,
    template: &mut Template,
    room: usize,
) -> Result<(), LoadFault> {
    let end = filling.messages.min(filler.acknowledged[room] + filling.outstanding);
    if filler.posted[room] >= end {
        return Ok(());
    }
    for index in filler.posted[room]..end {
        // The answers come in the order of the posts, so the request's number need not be told apart.
        fleet.post(room, &filling.rooms[room], 0, template.write(token(room, index)));
    }
    filler.posted[room] = end;
    fleet.flush(room)
}
