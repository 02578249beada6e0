//! Takes the seats of the other blocks, where each connection reads several rooms.

use std::time::{Duration, Instant};

use crate::fault::LoadFault;
use crate::fleet::{Fleet, Sink};
use crate::opening::Joined;
use crate::scan::Seen;
use crate::scan_json::Openings;
use crate::seating::Seating;
use crate::wire::Entry;

/// Joins that may be unanswered at a time.
const JOINING_MAX: usize = 100;
/// No seat was taken for so long: something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait for sockets.
const TURN_MAX: Duration = Duration::from_millis(20);

/// Hears who has joined. Each connection has one join under way, so that the answer need not name the room.
struct Seats {
    none: Openings,
    told: Vec<(usize, Joined)>,
    refused: Option<LoadFault>,
}

impl Sink for Seats {
    fn openings(&self, _connection: usize) -> &Openings {
        &self.none
    }

    fn seen(&mut self, connection: usize, seen: Seen<'_>, _now: Instant) {
        match seen {
            Seen::Joined { epoch, sequence } => self.told.push((connection, Joined { epoch, head: sequence })),
            Seen::Refused { code, message } => {
                self.refused.get_or_insert(LoadFault::Refused { code, message });
            }
            _ => {}
        }
    }
}

/// Joins every connection to its room of each other block; `first` is what those of the first block were told. The
/// answer has what was told of each seat.
///
/// # Errors
/// When one is refused or lost, or nothing happens for too long.
pub fn join_the_rest(
    fleet: &mut Fleet,
    seating: &Seating,
    rooms: &[String],
    first: Vec<Joined>,
) -> Result<Vec<Joined>, LoadFault> {
    let mut joined = first;
    joined.resize(rooms.len() * seating.members(), Joined::default());
    let mut seats = Seats { none: Openings::default(), told: Vec::new(), refused: None };
    for block in 1..seating.rooms_each() {
        join_block(fleet, seating, rooms, &mut seats, block, &mut joined)?;
    }
    Ok(joined)
}

fn join_block(
    fleet: &mut Fleet,
    seating: &Seating,
    rooms: &[String],
    seats: &mut Seats,
    block: usize,
    joined: &mut [Joined],
) -> Result<(), LoadFault> {
    let (mut asked, mut answered) = (0, 0);
    let mut progressed_at = Instant::now();
    while answered < fleet.len() {
        while asked < fleet.len() && asked - answered < JOINING_MAX {
            let room = seating.room_of(seating.seat_in_block(asked, block));
            fleet.join(asked, Entry::now(&rooms[room]));
            fleet.flush(asked)?;
            asked += 1;
        }
        let turned = fleet.turn(TURN_MAX, seats);
        seats.refused.take().map_or(Ok(()), Err)?;
        turned?;
        for (connection, told) in seats.told.drain(..) {
            joined[seating.seat_in_block(connection, block)] = told;
            answered += 1;
            progressed_at = Instant::now();
        }
        if progressed_at.elapsed() > PATIENCE {
            let (ready, wanted, seconds) = (answered, fleet.len(), PATIENCE.as_secs());
            let stuck = format!("seat {} of {} of each", block + 1, seating.rooms_each());
            return Err(LoadFault::Stuck { ready, wanted, seconds, stuck });
        }
    }
    Ok(())
}
