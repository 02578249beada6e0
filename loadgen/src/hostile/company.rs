//! Who is there besides the attackers and the honest: the members of the rooms that are attacked.

use std::time::Duration;

use super::kinds::{Kind, Rooms};
use crate::args::{Hostile, Pace, Plan, Target, Time};
use crate::fault::LoadFault;
use crate::run::Run;

/// Members of the busy room, one of whom posts.
const BUSY_MEMBERS: u32 = 10;
const BUSY_POSTS_PER_S: u64 = 100;
/// Posts a second into the large room.
const LARGE_POSTS_PER_S: u64 = 1;

/// A room and what happens in it.
pub(crate) struct Gathering {
    rooms: Vec<String>,
    plan: Plan,
    posts: bool,
}

impl Gathering {
    /// Who is there while that kind attacks, if anybody is; `large_room` members have a place in the large one.
    pub(crate) fn of(kind: Kind, job: &Hostile, rooms: &Rooms, large_room: u32) -> Option<Self> {
        match kind {
            Kind::Signals | Kind::SignalsAll | Kind::Members => {
                Some(Gathering { posts: false, ..Self::new(&rooms.crowd, job.crowd, 1) })
            }
            Kind::JoinLeave | Kind::Deaf => Some(Self::busy(rooms)),
            Kind::LargeRoom => {
                let room = format!("{}-large", job.target.room_prefix);
                Some(Self::new(&room, large_room, LARGE_POSTS_PER_S))
            }
            Kind::UnreadPings | Kind::Fetches | Kind::Drip | Kind::Connects => None,
        }
    }

    /// A few members, one of whom posts.
    pub(crate) fn busy(rooms: &Rooms) -> Self {
        Self::new(&rooms.busy, BUSY_MEMBERS, BUSY_POSTS_PER_S)
    }

    fn new(room: &str, members: u32, posts_per_s: u64) -> Self {
        let time = Time { duration: Duration::ZERO, warmup: Duration::ZERO, drain: Duration::from_secs(10) };
        let pace = Pace::Open { posts_per_s };
        let payload_bytes = super::PAYLOAD_BYTES;
        let plan = Plan { name: "hostile", rooms: 1, rooms_each: 1, members, publishers: 1, payload_bytes, pace, time };
        Gathering { rooms: vec![room.to_owned()], plan, posts: true }
    }

    /// How many they are.
    pub(crate) fn members(&self) -> u32 {
        self.plan.members
    }

    /// They come.
    ///
    /// # Errors
    /// When one is refused or lost.
    pub(crate) fn open<'a>(&'a self, target: &'a Target) -> Result<Company<'a>, LoadFault> {
        let run = Run::open_beside(target, &self.plan, &self.rooms)?;
        Ok(Company { run, posts: self.posts })
    }
}

/// Those who are there: they read all, and each must get every message once and in order.
pub(crate) struct Company<'a> {
    run: Run<'a>,
    posts: bool,
}

impl Company<'_> {
    /// Posts what is due, and reads a little. Says how much there was to read.
    pub(crate) fn turn(&mut self) -> Result<usize, LoadFault> {
        if self.posts {
            self.run.post_what_is_due(self.run.started.elapsed())?;
        }
        self.run.turn(Duration::ZERO)
    }

    /// The end: what was wrong, in words; nothing when all got everything.
    pub(crate) fn finish(mut self) -> Result<Vec<String>, LoadFault> {
        self.run.drain()?;
        let verified = self.run.load.finish();
        let described = std::mem::take(&mut self.run.load.verifier.described);
        Ok(if verified { Vec::new() } else { described })
    }
}
