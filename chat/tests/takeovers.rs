//! Partitions come and go, their disks hang and go on, and clients post all the while: in every order that a seed brings, every ask
//! has one answer, answers keep their order, and what was acknowledged is in the history once.

mod node;
mod one_core;

use std::collections::{BTreeMap, BTreeSet};

use banter_chat::logs::LogId;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::shard::Input;
use banter_protocol::ids::Sequence;
use banter_protocol::request::{Ask, FetchFrom};

use node::{Node, counter, id, room_in};

const SEEDS: u64 = 150;
const STEPS: usize = 400;
const PARTITIONS: [u16; 3] = [1, 2, 3];

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// What was asked and is not answered yet.
struct Asked {
    slot: u32,
    room: usize,
    /// The key of a post.
    key: Option<String>,
}

struct World {
    node: Node,
    chance: Chance,
    rooms: Vec<String>,
    open: BTreeSet<u16>,
    asked: BTreeMap<u64, Asked>,
    requests: u64,
    /// The next connection; the ones that are there.
    next_slot: u32,
    connections: Vec<u32>,
    joined: BTreeSet<(u32, usize)>,
    keys: u64,
    /// Where each key was acknowledged.
    acknowledged: BTreeMap<(usize, String), u64>,
    told: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let rooms = PARTITIONS.iter().flat_map(|&partition| [room_in(partition, 0), room_in(partition, 1)]).collect();
        let mut node = Node::new(RoomPolicies::all(Durability::Synced));
        if seed % 2 == 1 {
            // So few units that posts wait for the next turn.
            node.shard.set_programs(counter(3).0);
        }
        World {
            node,
            chance: Chance(seed),
            rooms,
            open: BTreeSet::new(),
            asked: BTreeMap::new(),
            requests: 10,
            next_slot: 0,
            connections: Vec::new(),
            joined: BTreeSet::new(),
            keys: 0,
            acknowledged: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        let partition = PARTITIONS[self.chance.below(3) as usize];
        match self.chance.below(40) {
            0..3 => {
                self.open.extend(self.node.open_log(partition).then_some(partition));
            }
            3 => self.close(partition),
            4 => drop(self.node.stalled.insert(LogId(partition))),
            5..7 => self.node.resume(partition),
            7 => drop(self.node.unread.insert(LogId(partition))),
            8 => self.connect(),
            9..14 => self.join(),
            14 => self.fetch(),
            15..30 => self.post(),
            30 => self.node.pass(100 * self.chance.below(30)),
            _ => self.node.turn(),
        }
        self.hear();
    }

    fn close(&mut self, partition: u16) {
        self.open.remove(&partition);
        if self.node.close_log(partition) && self.chance.below(2) == 0 {
            // As the shell does, sooner or later.
            self.hear();
            for slot in std::mem::take(&mut self.connections) {
                self.node.shard.handle(id(slot), Input::Closed);
                self.asked.retain(|_, asked| asked.slot != slot);
                self.joined.retain(|(joined, _)| *joined != slot);
            }
            self.connect();
        }
    }

    fn connect(&mut self) {
        if self.connections.len() < 4 {
            self.node.connect(self.next_slot, "ann");
            self.connections.push(self.next_slot);
            self.next_slot += 1;
        }
    }

    /// A connection that may ask, and a room.
    fn any(&mut self) -> Option<(u32, usize)> {
        let room = self.chance.below(self.rooms.len() as u64) as usize;
        let at = self.chance.below(self.connections.len().max(1) as u64) as usize;
        let slot = *self.connections.get(at)?;
        self.node.shard.is_read(id(slot)).then_some((slot, room))
    }

    fn asks(&mut self, slot: u32, room: usize, key: Option<String>) -> u64 {
        self.requests += 1;
        self.asked.insert(self.requests, Asked { slot, room, key });
        self.requests
    }

    fn join(&mut self) {
        let Some((slot, room)) = self.any() else { return };
        let request = self.asks(slot, room, None);
        let from = banter_protocol::request::JoinFrom::Last(20);
        let room = self.rooms[room].as_str().into();
        self.node.ask(slot, request, Ask::Join { room, from, echo: true, presence: true, token: None });
    }

    fn fetch(&mut self) {
        let Some((slot, room)) = self.any() else { return };
        let request = self.asks(slot, room, None);
        let from = FetchFrom::After(Sequence(self.chance.below(10)));
        let room = self.rooms[room].as_str().into();
        self.node.ask(slot, request, Ask::Fetch { room, from, limit: Some(5) });
    }

    fn post(&mut self) {
        let Some((slot, room)) = self.any() else { return };
        // A key now and then again, as a client does that was told to.
        let number = if self.chance.below(3) == 0 { self.chance.below(self.keys + 1) } else { self.keys + 1 };
        self.keys = self.keys.max(number);
        let key = format!("{number}");
        let request = self.asks(slot, room, Some(key.clone()));
        let room = self.rooms[room].clone();
        self.node.say(slot, request, &room, Some(&key), &format!("\"{key}\""));
    }

    /// Every answer is one to something that was asked, and a post's comes in the order of its connection's posts to its room.
    fn hear(&mut self) {
        for (slot, heard) in std::mem::take(&mut self.node.heard) {
            for line in heard {
                let words: Vec<&str> = line.split(' ').collect();
                let (number, what) = match words[..] {
                    ["joined", ..] => (None, "joined"),
                    [number, what, ..] => (number.parse::<u64>().ok(), what),
                    _ => continue,
                };
                if what == "joined" {
                    let join = self.asked.iter().find(|(_, asked)| asked.slot == slot && asked.key.is_none());
                    assert!(join.is_some(), "{slot}: {line}");
                    continue;
                }
                let Some(number) = number.filter(|_| words[0] != "message") else { continue };
                let Some(asked) = self.asked.remove(&number) else { panic!("{slot}: {line}: twice or never asked") };
                assert_eq!(asked.slot, slot);
                let Some(key) = asked.key else { continue };
                let before = self
                    .asked
                    .range(..number)
                    .find(|(_, other)| other.slot == slot && other.room == asked.room && other.key.is_some());
                assert!(before.is_none(), "{slot}: {line} overtakes {:?}", before.map(|(number, _)| number));
                match what {
                    "posted" | "duplicate" => {
                        let place: u64 = words[2].parse().unwrap();
                        let known = *self.acknowledged.entry((asked.room, key)).or_insert(place);
                        assert_eq!(known, place, "{line}: a key has one place");
                        *self.told.entry("posted").or_default() += 1;
                    }
                    "taken" => *self.told.entry("taken").or_default() += 1,
                    "unavailable" => *self.told.entry("unavailable").or_default() += 1,
                    "not_joined" => *self.told.entry("not_joined").or_default() += 1,
                    "overloaded" => *self.told.entry("overloaded").or_default() += 1,
                    other => panic!("{other}: {line}"),
                }
            }
        }
    }

    /// All partitions have an owner whose disk answers, and everything comes to rest.
    fn end(&mut self) {
        self.node.stalled.clear();
        self.node.unread.clear();
        PARTITIONS.into_iter().for_each(|partition| self.node.resume(partition));
        self.node.rest();
        self.hear();
        PARTITIONS.into_iter().for_each(|partition| {
            self.node.close_log(partition);
        });
        self.node.rest();
        self.hear();
        let open = |asked: &&Asked| asked.key.is_some();
        assert_eq!(self.asked.values().filter(open).count(), 0, "posts without an answer");
        let counters = self.node.shard.counters();
        assert_eq!((counters.log_waiting_bytes, counters.log_waiting_posts, counters.pages_waiting), (0, 0, 0));
        assert_eq!((self.node.shard.rooms().iter().count(), self.node.shard.is_busy()), (0, false));
        assert!(PARTITIONS.into_iter().all(|partition| self.node.open_log(partition)));
        self.read_all();
    }

    /// What was acknowledged lies where it was said to, and nothing twice.
    fn read_all(&mut self) {
        self.node.places.clear();
        let slot = self.next_slot;
        self.node.connect(slot, "reader");
        for room in self.rooms.clone() {
            self.node.join(slot, &room);
            self.node.rest();
            loop {
                let has = |place: &u64| self.node.places.keys().any(|(name, _, there)| *name == room && there == place);
                let after = (1..).take_while(has).count() as u64;
                let (from, before) = (FetchFrom::After(Sequence(after)), self.node.places.len());
                self.node.now_ms += 100;
                self.node.ask(slot, 2, Ask::Fetch { room: room.as_str().into(), from, limit: Some(100) });
                // Where a room lies in many segments, one disk read a turn takes some.
                (0..10).for_each(|_| self.node.rest());
                if self.node.places.len() == before {
                    break;
                }
            }
        }
        for ((room, key), place) in &self.acknowledged {
            let found = self
                .node
                .places
                .iter()
                .find(|((name, _, sequence), _)| *name == self.rooms[*room] && sequence == place);
            assert_eq!(found.map(|(_, body)| body.clone()), Some(format!("\"{key}\"")), "{room} {place}");
        }
        let mut seen = BTreeSet::new();
        for ((room, ..), body) in &self.node.places {
            assert!(body.starts_with("\"own") || seen.insert((room, body)), "{body} is in {room} twice");
        }
    }
}

#[test]
fn in_every_order_each_ask_has_one_answer_and_what_was_acknowledged_is_kept_once() {
    let mut told = BTreeMap::new();
    for seed in 0..SEEDS {
        let caught = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..STEPS).for_each(|_| world.step());
            world.end();
            world.told
        });
        let Ok(seen) = caught else { panic!("seed {seed}") };
        seen.into_iter().for_each(|(what, count)| *told.entry(what).or_insert(0) += count);
    }
    // Each of them happens.
    assert!(told["posted"] > 1_000 && told["unavailable"] > 100 && told["not_joined"] > 100, "{told:?}");
    assert!(told["taken"] > 100, "{told:?}");
}
