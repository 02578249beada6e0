//! How many connections a user has, over several cores whose lanes delay, fill up and keep their order.

mod proved;

use std::collections::{BTreeMap, VecDeque};

use banter_access::limit::{DryRun, Limit};
use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core, Now, Peer, Placement, UserId};
use banter_chat::limits::Limits;
use banter_chat::logs::LogConfig;
use banter_chat::parcel::{Down, Up};
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::Welcome;
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::frame::Frames;
use banter_protocol::ids::{Epoch, UserName};
use banter_protocol::request::Ask;
use banter_protocol::wire::WireForm;
use proved::{request, told};

/// The smallest lane that a server may have.
const LANE_PARCELS_MAX: usize = 16;
/// What a turn looks at of connections, and a little for what else it does.
const STEPS_A_TURN: u64 = 1_024 + 64;

/// Cores that share nothing but lanes.
struct Cores {
    shards: Vec<Shard>,
    /// By core and the core that it goes to.
    up: Vec<Vec<VecDeque<Up>>>,
    down: Vec<Vec<VecDeque<Down>>>,
    limits: Limits,
    now_us: u64,
    /// Those that are there, by when they said who they are.
    open: BTreeMap<u64, (Peer, &'static str)>,
    heard: BTreeMap<Peer, Vec<String>>,
    generations: BTreeMap<(u16, u32), u32>,
    parcels: u64,
}

fn limits(connections_per_user_max: u32) -> Limits {
    let lane_parcels_max = LANE_PARCELS_MAX as u32;
    Limits { connections_per_user_max, lane_parcels_max, idle_timeout_ms: 0, ..Limits::default() }
}

fn dry(connections_per_user_max: u32) -> Limits {
    Limits { dry_run: DryRun::default().with(Limit::ConnectionsPerUser), ..limits(connections_per_user_max) }
}

impl Cores {
    fn new(cores: u16, limits: Limits) -> Self {
        let shard = |core| {
            Shard::new(ShardConfig {
                core: Core(core),
                placement: Placement::of_one_server(cores),
                limits,
                welcome: Welcome { limits: String::new(), durability: "memory", features: KNOWN, run: 1 },
                access: Access::Open,
                first_epoch: Epoch(100 + u64::from(core)),
                epochs_end: Epoch(1 << 40),
                policies: RoomPolicies::all(Durability::Memory),
                post_rates: PostRates::default(),
                logs: LogConfig::None,
            })
        };
        fn lanes<T>(cores: u16) -> Vec<Vec<VecDeque<T>>> {
            (0..cores).map(|_| (0..cores).map(|_| VecDeque::new()).collect()).collect()
        }
        Cores {
            shards: (0..cores).map(shard).collect(),
            up: lanes(cores),
            down: lanes(cores),
            limits,
            now_us: 1_000,
            open: BTreeMap::new(),
            heard: BTreeMap::new(),
            generations: BTreeMap::new(),
            parcels: 0,
        }
    }

    fn turn(&mut self, core: usize, act: impl FnOnce(&mut Shard)) {
        self.now_us += 1_000;
        let monotonic_ms = self.now_us / 1_000;
        let others: Vec<usize> = (0..self.shards.len()).filter(|&other| other != core).collect();
        let room = |lanes: &[VecDeque<Up>], other: usize| LANE_PARCELS_MAX - lanes[other].len();
        let rooms: Vec<_> = others
            .iter()
            .map(|&other| {
                let down = LANE_PARCELS_MAX - self.down[core][other].len();
                (Core(other as u16), room(&self.up[core], other), down)
            })
            .collect();
        let shard = &mut self.shards[core];
        shard.begin_turn(Now { monotonic_ms, monotonic_us: self.now_us, unix_ms: monotonic_ms }, rooms);
        act(shard);
        for &other in &others {
            while let Some(parcel) = self.down[other][core].pop_front() {
                shard.take_down(parcel);
            }
            while shard.may_take_up(Core(other as u16)) {
                let Some(parcel) = self.up[other][core].pop_front() else { break };
                shard.take_up(parcel);
            }
        }
        shard.finish_turn();
        while let Some((id, sending)) = shard.next_send() {
            let heard = self.heard.entry(Peer { core: Core(core as u16), connection: id }).or_default();
            heard.extend(Frames(sending.bytes()).map(|frame| told(frame.expect("a frame"))));
            drop(sending);
            shard.handle(id, Input::Sent);
        }
        for id in std::mem::take(shard.actions_mut()).finish {
            shard.handle(id, Input::Closed);
            self.open.retain(|_, (peer, _)| *peer != Peer { core: Core(core as u16), connection: id });
        }
        let outgoing = std::mem::take(shard.outgoing_mut());
        self.parcels += (outgoing.up.len() + outgoing.down.len()) as u64;
        outgoing.up.into_iter().for_each(|(to, parcel)| self.up[core][to.index()].push_back(parcel));
        outgoing.down.into_iter().for_each(|(to, parcel)| self.down[core][to.index()].push_back(parcel));
        assert!(self.up[core].iter().all(|lane| lane.len() <= LANE_PARCELS_MAX), "a parcel was sent into a full lane");
        assert!(
            self.down[core].iter().all(|lane| lane.len() <= LANE_PARCELS_MAX),
            "a parcel was sent into a full lane"
        );
    }

    fn is_busy(&self) -> bool {
        let is_full = |lanes: &[VecDeque<Up>]| lanes.iter().any(|lane| !lane.is_empty());
        self.shards.iter().any(|shard| shard.is_busy() || shard.is_waiting_for_lanes())
            || self.up.iter().any(|lanes| is_full(lanes))
            || self.down.iter().flatten().any(|lane| !lane.is_empty())
    }

    fn rest(&mut self) {
        for _ in 0..100_000 {
            (0..self.shards.len()).for_each(|core| self.turn(core, |_| {}));
            if !self.is_busy() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// A connection that says who it is, in the next turn of its core and no other's.
    fn opens(&mut self, core: usize, slot: u32, user: &'static str) -> Peer {
        let generation = *self.generations.entry((core as u16, slot)).and_modify(|one| *one += 1).or_insert(1);
        let connection = ConnectionId { slot, generation };
        let peer = Peer { core: Core(core as u16), connection };
        self.turn(core, |shard| {
            shard.handle(connection, Input::Opened { form: WireForm::Native, preface: &[] });
            let hello = Ask::Hello { user: user.into(), token: None, features: FeatureNames::NONE };
            shard.handle(connection, request(hello));
        });
        self.open.insert(self.now_us, (peer, user));
        peer
    }

    /// The same, and everything that follows.
    fn comes(&mut self, core: usize, slot: u32, user: &'static str) -> Peer {
        let peer = self.opens(core, slot, user);
        self.rest();
        assert_eq!(self.hears(peer)[0], format!("welcome {user} 0"));
        peer
    }

    fn goes(&mut self, peer: Peer) {
        self.turn(peer.core.index(), |shard| shard.handle(peer.connection, Input::Closed));
        self.open.retain(|_, (other, _)| *other != peer);
    }

    fn hears(&mut self, peer: Peer) -> Vec<String> {
        self.heard.remove(&peer).unwrap_or_default()
    }

    fn is_open(&self, peer: Peer) -> bool {
        let session = self.shards[peer.core.index()].sessions().session(peer.connection);
        session.is_some_and(|session| session.is_open())
    }

    /// Of a user those that are there, the oldest first.
    fn of(&self, user: &str) -> Vec<Peer> {
        self.open.values().filter(|(peer, of)| *of == user && self.is_open(*peer)).map(|(peer, _)| *peer).collect()
    }

    /// Every core goes by these, from its next turn on.
    fn reload(&mut self, limits: Limits) {
        self.limits = limits;
        self.shards.iter_mut().for_each(|shard| shard.set_limits(limits, String::new()));
    }

    fn known(&self) -> usize {
        self.shards.iter().map(|shard| shard.homes().connections_count()).sum()
    }

    fn counted(&self) -> (u64, u64) {
        let count = |read: fn(&Shard) -> u64| self.shards.iter().map(read).sum();
        (
            count(|shard| shard.counters().limits.refused(Limit::ConnectionsPerUser)),
            count(|shard| shard.counters().limits.only_counted(Limit::ConnectionsPerUser)),
        )
    }
}

/// The core that counts a user's connections.
fn home(user: &str, cores: usize) -> usize {
    Placement::of_one_server(cores as u16).home_of(UserId::of(&UserName::new(user).unwrap())).index()
}

#[test]
fn a_users_oldest_connection_goes_whatever_core_it_is_on() {
    let mut cores = Cores::new(3, limits(2));
    let bob = cores.comes(1, 0, "bob");
    let anns: Vec<Peer> = (0..8).map(|number| cores.comes(number % 3, 1 + number as u32, "ann")).collect();
    assert_eq!(cores.of("ann"), anns[6..]);
    for &gone in &anns[..6] {
        assert_eq!(cores.hears(gone), ["closed replaced"]);
    }
    assert!(cores.is_open(bob) && cores.hears(bob).is_empty());
    assert_eq!((cores.counted(), cores.known()), ((6, 0), 3));
    // Who goes by itself makes room.
    cores.goes(anns[7]);
    cores.comes(0, 20, "ann");
    assert!(cores.is_open(anns[6]));
    assert_eq!((cores.counted(), cores.known()), ((6, 0), 3));
}

#[test]
fn without_a_limit_nothing_is_kept_and_nothing_is_sent() {
    let mut cores = Cores::new(3, limits(0));
    let anns: Vec<Peer> = (0..9).map(|number| cores.comes(number % 3, number as u32, "ann")).collect();
    assert_eq!((cores.known(), cores.parcels), (0, 0));
    cores.goes(anns[0]);
    cores.rest();
    assert_eq!((cores.of("ann").len(), cores.parcels), (8, 0));
}

#[test]
fn a_limit_that_only_counts_ends_nobody_and_counts_each_that_it_would_have() {
    let mut cores = Cores::new(2, dry(2));
    let anns: Vec<Peer> = (0..5).map(|number| cores.comes(number % 2, number as u32, "ann")).collect();
    assert_eq!((cores.of("ann").len(), cores.counted(), cores.known()), (5, (0, 3), 5));
    // Once it holds, the next connection ends all that are too many.
    cores.reload(limits(2));
    cores.rest();
    assert_eq!(cores.of("ann").len(), 5);
    let newest = cores.comes(1, 9, "ann");
    assert_eq!((cores.of("ann"), cores.counted()), (vec![anns[4], newest], (4, 3)));
}

#[test]
fn who_was_there_when_the_limit_came_is_counted_and_ended_by_the_next_that_comes() {
    let mut cores = Cores::new(3, limits(0));
    let anns: Vec<Peer> = (0..7).map(|number| cores.comes(number % 3, number as u32, "ann")).collect();
    cores.reload(limits(3));
    cores.rest();
    assert_eq!((cores.of("ann").len(), cores.known()), (7, 7), "a reload closes nobody");
    let newest = cores.comes(0, 30, "ann");
    assert_eq!(cores.of("ann"), [anns[5], anns[6], newest]);
    cores.reload(limits(1));
    cores.rest();
    assert_eq!(cores.of("ann").len(), 3, "nor does one that lowers it");
    let newest = cores.comes(2, 31, "ann");
    assert_eq!(cores.of("ann"), [newest]);
    // And nothing stays of a limit that goes.
    cores.reload(limits(0));
    cores.rest();
    assert_eq!(cores.known(), 0);
    cores.comes(1, 32, "ann");
    assert_eq!((cores.of("ann").len(), cores.known()), (2, 0));
}

#[test]
fn who_comes_ahead_of_the_walk_bounds_those_that_the_walk_finds() {
    let mut cores = Cores::new(2, limits(0));
    let home = home("ann", 2);
    for slot in 0..4 {
        cores.comes(1 - home, slot, "ann");
    }
    cores.reload(limits(2));
    // The home hears of the newcomer alone, and of the others only once it has.
    let newest = cores.opens(home, 9, "ann");
    assert_eq!(cores.of("ann").len(), 5);
    cores.rest();
    let left = cores.of("ann");
    assert_eq!((left.len(), left[1]), (2, newest));
}

#[test]
fn a_core_that_follows_a_reload_later_than_others_loses_nobody() {
    let mut cores = Cores::new(2, limits(0));
    let home = home("ann", 2);
    let first = cores.comes(1 - home, 0, "ann");
    cores.shards[1 - home].set_limits(limits(1), String::new());
    cores.rest();
    cores.reload(limits(1));
    cores.rest();
    assert_eq!(cores.known(), 1);
    let second = cores.comes(home, 1, "ann");
    assert_eq!((cores.is_open(first), cores.is_open(second)), (false, true));
    // The same the other way round.
    cores.shards[home].set_limits(limits(0), String::new());
    cores.comes(1 - home, 2, "ann");
    cores.reload(limits(0));
    cores.rest();
    assert_eq!((cores.of("ann").len(), cores.known()), (2, 0));
}

#[test]
fn a_word_that_comes_late_ends_nobody_else_in_the_same_place() {
    let mut cores = Cores::new(2, limits(1));
    let home = home("ann", 2);
    let other = 1 - home;
    let first = cores.comes(other, 0, "ann");
    cores.comes(home, 0, "eve");
    let second = cores.opens(home, 1, "ann");
    assert!(cores.is_open(first), "the word is on its way");
    // Its slot is bob's by the time that it comes.
    let word = std::mem::take(&mut cores.down[home][other]);
    assert_eq!(word.len(), 1);
    cores.goes(first);
    let bob = cores.opens(other, 0, "bob");
    assert_eq!(bob.connection.slot, first.connection.slot);
    cores.down[home][other].extend(word);
    cores.rest();
    assert!(cores.is_open(bob) && cores.is_open(second));
    assert_eq!(cores.known(), 3);
}

#[test]
fn what_waits_for_a_full_lane_is_judged_when_there_is_room() {
    let mut cores = Cores::new(2, limits(3));
    let home = home("ann", 2);
    let other = 1 - home;
    // The home takes no turn meanwhile, so that its lane fills up.
    let anns: Vec<Peer> = (0..100).map(|slot| cores.opens(other, slot, "ann")).collect();
    assert_eq!(cores.up[other][home].len(), LANE_PARCELS_MAX);
    let is_read = |cores: &Cores, peer: Peer| cores.shards[other].sessions().is_read(peer.connection);
    assert!(is_read(&cores, anns[0]) && !is_read(&cores, anns[99]), "what waits is bounded by connections");
    for &peer in &anns[40..60] {
        cores.goes(peer);
    }
    cores.rest();
    assert_eq!(cores.of("ann"), anns[97..]);
    assert!(is_read(&cores, anns[99]));
    assert_eq!(cores.known(), 3);
}

#[test]
fn thousands_of_connections_are_counted_and_ended_a_slice_a_turn() {
    const COUNT: u32 = 3_000;
    let mut cores = Cores::new(2, limits(0));
    let anns: Vec<Peer> = (0..COUNT).map(|slot| cores.opens(slot as usize % 2, slot, "ann")).collect();
    cores.rest();
    cores.reload(limits(1));
    let mut is_new = true;
    loop {
        for core in 0..2 {
            let before = cores.shards[core].counters().steps;
            cores.turn(core, |_| {});
            let steps = cores.shards[core].counters().steps - before;
            assert!(steps <= 2 * STEPS_A_TURN, "{steps}");
        }
        if !cores.is_busy() && !std::mem::take(&mut is_new) {
            break;
        }
        if !cores.is_busy() {
            assert_eq!((cores.known(), cores.of("ann").len()), (COUNT as usize, COUNT as usize));
            cores.opens(0, COUNT, "ann");
        }
    }
    assert_eq!((cores.of("ann").len(), cores.known()), (1, 1));
    assert!(!cores.is_open(anns[COUNT as usize - 1]));
}

/// Numbers that look like chance (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

#[test]
fn at_rest_a_user_has_its_newest_connections_and_no_others_whatever_came_first() {
    const USERS: [&str; 4] = ["ann", "bob", "eve", "zoe"];
    for seed in 0..200 {
        let mut chance = Chance(seed);
        let (count, connections_max) = (1 + chance.below(3), 1 + chance.below(3));
        let mut cores = Cores::new(count as u16, limits(connections_max as u32));
        let mut all: BTreeMap<&str, Vec<Peer>> = BTreeMap::new();
        for slot in 0..60 {
            match chance.below(8) {
                0..=3 => {
                    let user = USERS[chance.below(4)];
                    let peer = cores.opens(chance.below(count), slot, user);
                    all.entry(user).or_default().push(peer);
                }
                4 => {
                    let user = USERS[chance.below(4)];
                    let there = cores.of(user);
                    if !there.is_empty() {
                        let peer = there[chance.below(there.len())];
                        cores.goes(peer);
                        all.entry(user).or_default().retain(|other| *other != peer);
                    }
                }
                _ => cores.turn(chance.below(count), |_| {}),
            }
        }
        // One that was ended, and then made room by going before the word came, is missed by nobody; so each user comes once more.
        for (number, user) in USERS.into_iter().enumerate() {
            all.entry(user).or_default().push(cores.comes(number % count, 100 + number as u32, user));
        }
        let known: usize = USERS.map(|user| cores.of(user).len()).into_iter().sum();
        assert_eq!(cores.known(), known, "seed {seed}");
        for user in USERS {
            let (there, came) = (cores.of(user), &all[user]);
            assert!(there.len() <= connections_max, "seed {seed}");
            assert_eq!(there[..], came[came.len() - there.len()..], "seed {seed}: {user} has its newest");
        }
    }
}
