//! Readers that scroll back through filled rooms, page by page, by the clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::args::Target;
use crate::body::Template;
use crate::fault::LoadFault;
use crate::fill::{self, Filling, token};
use crate::fleet::{Fleet, Sink};
use crate::identities::{ATTACKERS, Identities};
use crate::measure::Latencies;
use crate::opening::{self, Crowd, Joined};
use crate::page::{Item, PageBytes};
use crate::progress::Progress;
use crate::scan::Seen;
use crate::scan_json::Openings;
use crate::schedule::Schedule;
use crate::verify::Verifier;

/// Pages asked for between two looks at the live load.
const ASKS_A_TURN_MAX: usize = 4;
/// Posts of each room under way while it is filled.
const FILL_OUTSTANDING: u64 = 100;
/// A page that was asked for may take so long at the end.
const OWED_MAX: Duration = Duration::from_secs(10);

/// How they scroll.
#[derive(Clone, Copy, Debug)]
pub struct Scroll {
    /// How many they are.
    pub count: usize,
    /// Messages of each room.
    pub messages: u64,
    /// A body's bytes.
    pub payload_bytes: usize,
    /// Pages a second, of all.
    pub pages_per_s: u64,
    /// Messages of a page at most.
    pub page_messages_max: u64,
}

/// A history that was made for them.
struct Histories {
    rooms: Vec<String>,
    /// What each was like before it was filled.
    before: Vec<Joined>,
}

#[derive(Clone, Copy, Debug)]
struct Reader {
    room: usize,
    /// The page that is wanted next ends below it.
    below: u64,
    /// When the page that is under way was meant to be asked for.
    asked: Option<Duration>,
}

/// Takes the pages apart.
struct Desk {
    none: Openings,
    readers: Vec<Reader>,
    heads: Vec<(u64, Joined)>,
    template: Template,
    started: Instant,
    idle: VecDeque<usize>,
    verifier: Verifier,
    latencies: Latencies,
    pages: u64,
    messages: u64,
    walks: u64,
    refused: Option<LoadFault>,
}

/// See the module.
pub struct Fetchers {
    fleet: Fleet,
    rooms: Vec<String>,
    scroll: Scroll,
    schedule: Schedule,
    due: VecDeque<Duration>,
    desk: Desk,
    /// Pages that were asked for.
    pub asked: u64,
}

impl Fetchers {
    /// Fills the rooms and lets the readers in.
    ///
    /// # Errors
    /// When the rooms cannot be filled, or a reader is refused.
    pub fn open(target: &Target, rooms: Vec<String>, scroll: Scroll) -> Result<Self, LoadFault> {
        let Scroll { messages, payload_bytes, count, .. } = scroll;
        let filling = Filling { rooms: &rooms, messages, payload_bytes, outstanding: FILL_OUTSTANDING };
        let before = fill::fill(target, filling, &mut |_| true)?;
        let histories = Histories { rooms, before };
        let identities = Identities::of(target, ATTACKERS, count)?;
        let mut fleet = Fleet::with_small_turns(target.wire, target.server)?.known_as(identities);
        let progress = Progress::of_opening(count);
        let members = count.div_ceil(histories.rooms.len()).max(1);
        let crowd = Crowd { rooms: &histories.rooms, members, connections: count, echo: false };
        opening::open(&mut fleet, crowd, target.setup_rate, &progress)?;
        progress.finish();
        let desk = Desk::new(&histories, scroll, members);
        let schedule = Schedule::new(scroll.pages_per_s);
        Ok(Fetchers { fleet, rooms: histories.rooms, scroll, schedule, due: VecDeque::new(), desk, asked: 0 })
    }

    /// They begin now; what was counted is forgotten.
    pub fn begin(&mut self) {
        self.schedule.skip_to(self.desk.started.elapsed());
        self.desk.latencies = Latencies::default();
    }

    /// From the intended time to the page.
    pub fn latencies(&self) -> &Latencies {
        &self.desk.latencies
    }

    /// Pages that came, the messages in them, and walks from the newest message to the first.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.desk.pages, self.desk.messages, self.desk.walks)
    }

    /// The checks.
    pub fn verifier(&self) -> &Verifier {
        &self.desk.verifier
    }

    /// Asks for what is due, and reads what has come.
    ///
    /// # Errors
    /// When one is refused or lost.
    pub fn turn(&mut self) -> Result<usize, LoadFault> {
        let now = self.desk.started.elapsed();
        while let Some((_, at)) = self.schedule.take_due(now) {
            self.due.push_back(at);
        }
        for _ in 0..ASKS_A_TURN_MAX {
            if self.due.is_empty() || !self.ask_one()? {
                break;
            }
        }
        self.read(Duration::ZERO)
    }

    fn read(&mut self, patience: Duration) -> Result<usize, LoadFault> {
        let turned = self.fleet.turn(patience, &mut self.desk);
        self.desk.refused.take().map_or(Ok(()), Err)?;
        turned
    }

    /// The next who waits for no page asks for one. False: all wait.
    fn ask_one(&mut self) -> Result<bool, LoadFault> {
        let Some(number) = self.desk.idle.pop_front() else { return Ok(false) };
        let reader = &mut self.desk.readers[number];
        reader.asked = self.due.pop_front();
        self.asked += 1;
        let (room, limit) = (&self.rooms[reader.room], self.scroll.page_messages_max);
        self.fleet.fetch_before(number, number as u64, room, reader.below, limit);
        self.fleet.flush(number)?;
        Ok(true)
    }

    /// Asks for nothing more, and waits for what was asked for.
    ///
    /// # Errors
    /// When one is refused or lost.
    pub fn finish(&mut self) -> Result<(), LoadFault> {
        let deadline = Instant::now() + OWED_MAX;
        while self.desk.pages < self.asked && Instant::now() < deadline {
            self.read(Duration::from_millis(1))?;
        }
        Ok(())
    }
}

impl Desk {
    fn new(histories: &Histories, scroll: Scroll, members: usize) -> Self {
        let heads: Vec<(u64, Joined)> =
            histories.before.iter().map(|before| (before.head + scroll.messages, *before)).collect();
        let reader =
            |number: usize| Reader { room: number / members, below: heads[number / members].0 + 1, asked: None };
        Desk {
            none: Openings::default(),
            readers: (0..scroll.count).map(reader).collect(),
            template: Template::new(scroll.payload_bytes),
            started: Instant::now(),
            idle: (0..scroll.count).collect(),
            verifier: Verifier::new(1, scroll.count),
            latencies: Latencies::default(),
            pages: 0,
            messages: 0,
            walks: 0,
            refused: None,
            heads,
        }
    }

    fn page(&mut self, number: usize, id: u64, page: PageBytes<'_>, more: bool, now: Instant) {
        let Some(intended) = self.readers[number].asked.take().filter(|_| id == number as u64) else {
            return self.verifier.foreign(number, id);
        };
        self.pages += 1;
        self.latencies.record((now - self.started).saturating_sub(intended));
        self.idle.push_back(number);
        match page.items() {
            Ok(items) => self.check(number, &items, more),
            Err(fault) => {
                let message = fault.0;
                self.refused.get_or_insert(LoadFault::BadBytes { connection: number, what: message });
            }
        }
    }

    /// The newest messages below the bound, each as it was posted; `more` as long as older ones stand there.
    fn check(&mut self, number: usize, items: &[Item<'_>], more: bool) {
        let Reader { room, below, .. } = self.readers[number];
        let (head, before) = self.heads[room];
        // Older than this run's are not known, and not looked at.
        let known_first = before.head + 1;
        self.verifier.joined(number, below.saturating_sub(items.len() as u64 + 1));
        for item in items {
            self.item(number, *item);
        }
        self.verifier.must_have_read(number, below - 1);
        let first = below.saturating_sub(items.len() as u64);
        let is_told_right = if first > known_first { more } else { before.head > 0 || !more };
        if items.is_empty() || !is_told_right {
            self.verifier.foreign(number, first);
        }
        let is_at_the_first = first <= known_first;
        self.walks += u64::from(is_at_the_first);
        self.readers[number].below = if is_at_the_first { head + 1 } else { first };
    }

    fn item(&mut self, number: usize, item: Item<'_>) {
        let (_, before) = self.heads[self.readers[number].room];
        match item {
            Item::Gap { from, to } => self.verifier.gap(number, from, to),
            Item::Message { epoch, sequence, body } => {
                self.messages += 1;
                self.verifier.message(number, sequence);
                let Some(index) = sequence.checked_sub(before.head + 1) else { return };
                let due = token(self.readers[number].room, index);
                if epoch != before.epoch || self.template.read(body) != Some(due) {
                    self.verifier.altered(number, sequence);
                }
            }
        }
    }
}

impl Sink for Desk {
    fn openings(&self, _connection: usize) -> &Openings {
        &self.none
    }

    fn seen(&mut self, connection: usize, seen: Seen<'_>, now: Instant) {
        match seen {
            Seen::Page { id, messages, more } => self.page(connection, id, messages, more, now),
            Seen::Message { sequence, .. } => self.verifier.foreign(connection, sequence),
            Seen::Refused { code, message } => self.refused = Some(LoadFault::Refused { code, message }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Broken;

    /// One reader of a room with messages 1 to 5 asks for the page below `below`, and is told these.
    fn told(below: u64, sequences: &[u64], more: bool, spoilt: Option<u64>) -> (Broken, u64) {
        let before = vec![Joined { epoch: 7, head: 0 }];
        let histories = Histories { rooms: vec!["h-0".into()], before };
        let scroll = Scroll { count: 1, messages: 5, payload_bytes: 32, pages_per_s: 1, page_messages_max: 2 };
        let mut desk = Desk::new(&histories, scroll, 1);
        desk.readers[0].below = below;
        let mut template = Template::new(32);
        let bodies: Vec<Vec<u8>> = sequences
            .iter()
            .map(|&sequence| template.write(token(0, sequence - 1 + u64::from(spoilt == Some(sequence)))).to_vec())
            .collect();
        let items: Vec<Item<'_>> =
            sequences.iter().zip(&bodies).map(|(&sequence, body)| Item::Message { epoch: 7, sequence, body }).collect();
        desk.check(0, &items, more);
        (desk.verifier.broken, desk.readers[0].below)
    }

    #[test]
    fn a_walk_goes_from_the_newest_page_to_the_first_and_begins_anew() {
        assert_eq!(told(6, &[4, 5], true, None), (Broken::default(), 4));
        assert_eq!(told(4, &[2, 3], true, None), (Broken::default(), 2));
        assert_eq!(told(2, &[1], false, None), (Broken::default(), 6));
    }

    #[test]
    fn a_page_that_is_not_what_stands_there_is_seen() {
        assert_ne!(told(6, &[3, 4], true, None).0, Broken::default(), "5 is missing");
        assert!(told(6, &[5, 4], true, None).0 != Broken::default(), "not ascending");
        assert_eq!(told(6, &[4, 5], true, Some(5)).0.altered, 1);
        assert_eq!(told(6, &[4, 5], false, None).0.foreign, 1, "there is more");
        assert_eq!(told(2, &[1], true, None).0.foreign, 1, "there is no more");
        assert!(told(6, &[], true, None).0 != Broken::default(), "nothing came");
    }
}
