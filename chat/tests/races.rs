//! Races between what a connection asks and what is still on its way to it, each told step by step over two cores.

use std::collections::{BTreeMap, VecDeque};

use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core, Now, Placement, core_of};
use banter_chat::limits::Limits;
use banter_chat::logs::LogConfig;
use banter_chat::parcel::{Down, Up};
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_protocol::event::Event;
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::frame::{Frame, Frames};
use banter_protocol::ids::{Cursor, Epoch, RoomId, Sequence};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, JoinFrom, Request};
use banter_protocol::wire::WireForm;

/// The core that owns the connections of these tests, and the one that owns their rooms.
const HERE: usize = 0;
const THERE: usize = 1;

/// Two shards and the lanes between them.
struct Pair {
    shards: Vec<Shard>,
    up: [VecDeque<Up>; 2],
    down: [VecDeque<Down>; 2],
    now_ms: u64,
    lane_parcels_max: usize,
    due_ms: [Option<u64>; 2],
    sent: VecDeque<(usize, ConnectionId)>,
    heard: BTreeMap<(usize, u32), Vec<String>>,
}

impl Pair {
    fn new(limits: Limits) -> Self {
        Pair::with_epochs(limits, 1 << 40)
    }

    /// All epochs that it may give lie below that end.
    fn with_epochs(limits: Limits, end: u64) -> Self {
        let shard = |core| {
            Shard::new(ShardConfig {
                core: Core(core),
                placement: Placement::of_one_server(2),
                limits,
                welcome: Welcome { limits: String::new(), durability: "memory", features: KNOWN, run: 1 },
                access: Access::Open,
                first_epoch: Epoch(100 + u64::from(core)),
                epochs_end: Epoch(end),
                policies: RoomPolicies::all(Durability::Memory),
                post_rates: PostRates::default(),
                logs: LogConfig::None,
            })
        };
        Pair {
            shards: vec![shard(0), shard(1)],
            up: Default::default(),
            down: Default::default(),
            now_ms: 0,
            lane_parcels_max: limits.lane_parcels_max as usize,
            due_ms: [None; 2],
            sent: VecDeque::new(),
            heard: BTreeMap::new(),
        }
    }

    /// A connection that said hello.
    fn open(&mut self, core: usize, slot: u32, user: &'static str) -> ConnectionId {
        let id = ConnectionId { slot, generation: 1 };
        self.shards[core].handle(id, Input::Opened { form: WireForm::Native, preface: &[] });
        self.ask(core, id, 0, Ask::Hello { user: user.into(), token: None, features: FeatureNames::NONE });
        self.turn(core);
        self.hear(core, id);
        id
    }

    fn ask(&mut self, core: usize, id: ConnectionId, request: u64, ask: Ask<'_>) {
        assert!(self.shards[core].is_read(id), "request {request} of a connection that is not read");
        self.shards[core].handle(id, Input::Request(&Request { id: Some(request), ask }));
    }

    /// One turn, as the server's pump takes it.
    fn turn(&mut self, core: usize) {
        self.turn_with(core, true);
    }

    /// A turn that what came from the other core is too late for.
    fn turn_without_parcels(&mut self, core: usize) {
        self.turn_with(core, false);
    }

    fn turn_with(&mut self, core: usize, takes_parcels: bool) {
        let (other, size) = (1 - core, self.lane_parcels_max);
        let (monotonic_ms, monotonic_us) = (self.now_ms, self.now_ms * 1_000);
        let now = Now { monotonic_ms, monotonic_us, unix_ms: 1_000_000 + self.now_ms };
        let room = (Core(other as u16), size - self.up[other].len(), size - self.down[other].len());
        let shard = &mut self.shards[core];
        shard.begin_turn(now, [room]);
        for _ in 0..self.sent.len() {
            let Some((at, id)) = self.sent.pop_front() else { break };
            if at == core {
                shard.handle(id, Input::Sent);
            } else {
                self.sent.push_back((at, id));
            }
        }
        while takes_parcels && let Some(parcel) = self.down[core].pop_front() {
            shard.take_down(parcel);
        }
        while takes_parcels && shard.may_take_up(Core(other as u16)) {
            let Some(parcel) = self.up[core].pop_front() else { break };
            shard.take_up(parcel);
        }
        shard.finish_turn();
        while let Some((id, sending)) = shard.next_send() {
            let heard = self.heard.entry((core, id.slot)).or_default();
            heard.extend(Frames(sending.bytes()).map(|frame| told(frame.expect("whole frames"))));
            self.sent.push_back((core, id));
        }
        *shard.actions_mut() = Actions::default();
        self.due_ms[core] = shard.next_due();
        let outgoing = shard.outgoing_mut();
        self.up[other].extend(std::mem::take(&mut outgoing.up).into_iter().map(|(_, parcel)| parcel));
        self.down[other].extend(std::mem::take(&mut outgoing.down).into_iter().map(|(_, parcel)| parcel));
        assert!(self.up[other].len() <= size && self.down[other].len() <= size, "a lane is over its size");
    }

    /// Turns of both cores until nothing is left to do.
    fn rest(&mut self) {
        for _ in 0..200 {
            self.now_ms += 1;
            self.turn(HERE);
            self.turn(THERE);
            let is_quiet = self.up.iter().all(VecDeque::is_empty) && self.down.iter().all(VecDeque::is_empty);
            let is_sent = self.sent.is_empty();
            if is_quiet && is_sent && self.shards.iter().all(|shard| !shard.is_busy() && !shard.is_waiting_for_lanes())
            {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// The same, and again when what waits to be told together is due.
    fn rest_and_be_told(&mut self) {
        self.rest();
        self.now_ms += u64::from(roomy().presence_delay_ms_max);
        self.rest();
    }

    /// What a connection was sent since the last time.
    fn hear(&mut self, core: usize, id: ConnectionId) -> Vec<String> {
        self.heard.remove(&(core, id.slot)).unwrap_or_default()
    }
}

/// An event in short.
fn told(frame: &[u8]) -> String {
    let (frame, _) = Frame::read(frame, u32::MAX).expect("a frame");
    match native::read_event(frame).expect("an event") {
        Event::Joined { id, room, epoch, sequence, .. } => {
            format!("{} joined {} {}/{}", id.unwrap_or(0), short(room), epoch.0, sequence.0)
        }
        Event::Left { id, room } => format!("{} left {}", id.unwrap_or(0), short(room)),
        Event::Posted { id, sequence, .. } => format!("{} posted {}", id.unwrap_or(0), sequence.0),
        Event::Error { id, code, .. } => format!("{} {}", id.unwrap_or(0), code.as_str()),
        Event::Message(message) => format!("message {} {}", short(message.room), message.sequence.0),
        Event::Presence { change, count, .. } => match change {
            Some((user, state)) => format!("presence {user} {} {count}", state.as_str()),
            None => format!("presence {count}"),
        },
        Event::Gap { from, to, .. } => format!("gap {}-{}", from.0, to.0),
        other => format!("{other:?}"),
    }
}

/// A room's letter, without the number that moves it to the core of rooms.
fn short(room: &str) -> &str {
    room.split('-').next().unwrap_or(room)
}

/// A room that the other core owns.
fn room(letter: &str) -> String {
    let on_that_core = |name: &String| core_of(RoomId::of(name), 2).index() == THERE;
    (0..).map(|number| format!("{letter}-{number}")).find(on_that_core).expect("half of all rooms")
}

/// Limits that let a connection have several joins on their way.
fn roomy() -> Limits {
    Limits { outbox_bytes_max: 1 << 22, ..Limits::default() }
}

fn join(room: &str, from: JoinFrom) -> Ask<'_> {
    Ask::Join { room: room.into(), from, echo: true, presence: false, token: None }
}

fn post(room: &str) -> Ask<'_> {
    Ask::Post { room: room.into(), body: Body { format: BodyFormat::Json, bytes: b"1" }, key: None }
}

fn after(epoch: u64, sequence: u64) -> JoinFrom {
    JoinFrom::After(Cursor { epoch: Epoch(epoch), sequence: Sequence(sequence) })
}

const WRONG_EPOCH: u64 = 7;

#[test]
fn a_join_that_is_left_before_its_answer_came_is_answered_and_is_nobody_elses() {
    let mut pair = Pair::new(roomy());
    let (a, b) = (room("a"), room("b"));
    let ann = pair.open(HERE, 0, "ann");
    pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
    pair.ask(HERE, ann, 2, Ask::Leave { room: a.as_str().into() });
    pair.ask(HERE, ann, 3, join(&b, JoinFrom::Now));
    pair.rest();
    assert_eq!(pair.hear(HERE, ann), ["1 joined a 101/0", "2 left a", "3 joined b 104/0"]);
}

#[test]
fn a_reading_that_was_left_does_not_keep_the_next_one_alive() {
    let mut pair = Pair::new(roomy());
    let a = room("a");
    let ann = pair.open(HERE, 0, "ann");
    pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
    pair.ask(HERE, ann, 2, Ask::Leave { room: a.as_str().into() });
    pair.ask(HERE, ann, 3, join(&a, after(WRONG_EPOCH, 0)));
    pair.rest();
    assert_eq!(pair.hear(HERE, ann), ["1 joined a 101/0", "2 left a", "3 wrong_epoch"]);
    assert_eq!(pair.shards[HERE].counters().subscriptions, 0, "neither core believes that it reads the room");
    pair.ask(HERE, ann, 4, post(&a));
    pair.rest();
    assert_eq!(pair.hear(HERE, ann), ["4 not_joined"]);
}

#[test]
fn a_join_that_is_refused_after_another_goes_on_from_where_that_one_put_it() {
    let mut pair = Pair::new(roomy());
    let a = room("a");
    let (ann, bob) = (pair.open(HERE, 0, "ann"), pair.open(HERE, 1, "bob"));
    pair.ask(HERE, bob, 1, join(&a, JoinFrom::Now));
    for request in 2..5 {
        pair.ask(HERE, bob, request, post(&a));
    }
    pair.rest();
    pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
    pair.ask(HERE, ann, 2, join(&a, after(101, 1)));
    pair.ask(HERE, ann, 3, join(&a, after(WRONG_EPOCH, 0)));
    pair.rest();
    let heard = pair.hear(HERE, ann);
    assert_eq!(heard[..3], ["1 joined a 101/3", "2 joined a 101/3", "3 wrong_epoch"]);
    assert_eq!(heard[3..], ["message a 2", "message a 3"], "2 said that it starts behind 1");
}

#[test]
fn a_refused_join_changes_neither_echo_nor_presence() {
    let mut pair = Pair::new(roomy());
    let a = room("a");
    let (ann, bob) = (pair.open(HERE, 0, "ann"), pair.open(HERE, 1, "bob"));
    pair.ask(
        HERE,
        bob,
        1,
        Ask::Join { room: a.as_str().into(), from: JoinFrom::Now, echo: true, presence: true, token: None },
    );
    pair.rest();
    pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
    pair.rest();
    pair.ask(
        HERE,
        ann,
        2,
        Ask::Join { room: a.as_str().into(), from: after(WRONG_EPOCH, 0), echo: false, presence: true, token: None },
    );
    pair.rest();
    pair.hear(HERE, ann);
    pair.open(HERE, 2, "cat");
    let cat = ConnectionId { slot: 2, generation: 1 };
    pair.ask(HERE, cat, 1, join(&a, JoinFrom::Now));
    pair.ask(HERE, ann, 3, post(&a));
    pair.rest();
    let heard = pair.hear(HERE, ann);
    assert!(heard.contains(&"message a 1".to_owned()), "echo as before: {heard:?}");
    assert!(heard.iter().all(|event| !event.starts_with("presence")), "no presence as before: {heard:?}");
}

#[test]
fn presence_that_was_left_out_is_not_told_to_who_no_longer_asks() {
    let mut pair = Pair::new(roomy());
    let a = room("a");
    let (ann, bob) = (pair.open(HERE, 0, "ann"), pair.open(HERE, 1, "bob"));
    let watch = || Ask::Join { room: a.as_str().into(), from: JoinFrom::Now, echo: true, presence: true, token: None };
    pair.ask(HERE, ann, 1, watch());
    pair.rest();
    // Bob's coming is on its way down while ann joins again: it is left out, and owed to her as a count.
    pair.ask(HERE, bob, 1, join(&a, JoinFrom::Now));
    pair.turn(HERE);
    pair.turn(THERE);
    pair.ask(HERE, ann, 2, watch());
    pair.turn(HERE);
    pair.ask(HERE, ann, 3, join(&a, JoinFrom::Now));
    pair.rest();
    let heard = pair.hear(HERE, ann);
    assert_eq!(heard[1..], ["2 joined a 101/0", "3 joined a 101/0"]);
}

#[test]
fn who_joins_again_to_change_a_wish_misses_nothing_that_is_on_its_way() {
    for from in [JoinFrom::Now, JoinFrom::Last(0)] {
        let mut pair = Pair::new(roomy());
        let a = room("a");
        let (ann, bob) = (pair.open(HERE, 0, "ann"), pair.open(HERE, 1, "bob"));
        pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
        pair.ask(HERE, bob, 1, join(&a, JoinFrom::Now));
        pair.rest();
        pair.hear(HERE, ann);
        pair.ask(HERE, bob, 2, post(&a));
        pair.turn(HERE);
        pair.turn(THERE);
        pair.ask(HERE, ann, 2, Ask::Join { room: a.as_str().into(), from, echo: true, presence: true, token: None });
        pair.rest();
        assert_eq!(pair.hear(HERE, ann), ["2 joined a 101/1", "message a 1"]);
    }
}

#[test]
fn who_was_told_the_members_by_its_join_is_told_no_older_number_behind_it() {
    let mut pair = Pair::new(roomy());
    let a = room("a");
    let watch = || Ask::Join { room: a.as_str().into(), from: JoinFrom::Now, echo: true, presence: true, token: None };
    let (bob, before) = (pair.open(HERE, 0, "bob"), pair.open(HERE, 1, "ann"));
    let after = pair.open(HERE, 2, "ann");
    pair.ask(HERE, bob, 1, watch());
    pair.ask(HERE, before, 1, watch());
    pair.rest_and_be_told();
    pair.ask(HERE, before, 2, Ask::Leave { room: a.as_str().into() });
    pair.turn(HERE);
    // That she left goes down at once, `joined` right behind it, and that she came when the room has rested.
    pair.turn(THERE);
    pair.ask(HERE, after, 1, watch());
    pair.turn_without_parcels(HERE);
    pair.turn(THERE);
    pair.turn(HERE);
    pair.rest_and_be_told();
    let heard = pair.hear(HERE, after);
    assert_eq!(heard, ["1 joined a 101/0", "presence ann left 2"], "there are two");
}

#[test]
fn members_is_as_new_as_every_presence_that_came_before_it() {
    for asks_first in [true, false] {
        let mut pair = Pair::new(roomy());
        let a = room("a");
        let (ann, bob) = (pair.open(HERE, 0, "ann"), pair.open(HERE, 1, "bob"));
        let watch = Ask::Join { room: a.as_str().into(), from: JoinFrom::Now, echo: true, presence: true, token: None };
        pair.ask(HERE, bob, 1, watch);
        pair.rest();
        pair.hear(HERE, bob);
        let members = Ask::Members { room: a.as_str().into() };
        if asks_first {
            pair.ask(HERE, bob, 2, members.clone());
            pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
        } else {
            pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
            pair.ask(HERE, bob, 2, members);
        }
        pair.rest();
        let heard = pair.hear(HERE, bob);
        let place = |begins: &str| heard.iter().position(|event| event.starts_with(begins));
        let answer = place("Members").expect("an answer");
        assert!(heard[answer].contains(if asks_first { "count: 1" } else { "count: 2" }), "{heard:?}");
        assert!(place("presence ann").is_none_or(|presence| presence > answer || !asks_first), "{heard:?}");
    }
}

#[test]
fn a_core_whose_lane_down_is_full_looks_again_by_itself() {
    let mut pair = Pair::new(Limits { lane_parcels_max: 16, ..roomy() });
    let a = room("a");
    let ann = pair.open(HERE, 0, "ann");
    let mut request = 0;
    let mut ask_sixteen = |pair: &mut Pair| {
        for _ in 0..16 {
            request += 1;
            pair.ask(HERE, ann, request, Ask::Members { room: a.as_str().into() });
        }
        pair.turn_without_parcels(HERE);
    };
    ask_sixteen(&mut pair);
    pair.turn(THERE);
    ask_sixteen(&mut pair);
    pair.turn(THERE);
    assert_eq!((pair.down[HERE].len(), pair.up[THERE].len()), (16, 16), "there is no room for more answers");
    // The other core takes the answers, and has nothing to say: nobody rings.
    pair.turn(HERE);
    assert!(pair.down[HERE].is_empty() && !pair.shards[THERE].is_busy());
    assert!(pair.shards[THERE].is_waiting_for_lanes(), "or the asks stay where they are");
    pair.rest();
    assert_eq!(pair.hear(HERE, ann).len(), 32);
    assert!(!pair.shards[THERE].is_waiting_for_lanes());
}

#[test]
fn a_head_of_a_history_that_is_gone_does_not_hold_up_the_next() {
    // One room a core, and the smallest lanes.
    let mut pair = Pair::new(Limits { rooms_max: 2, lane_parcels_max: 16, ..roomy() });
    let (a, b) = (room("a"), room("b"));
    let (ann, cat) = (pair.open(HERE, 0, "ann"), pair.open(HERE, 1, "cat"));
    let bob = pair.open(THERE, 0, "bob");
    pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
    pair.ask(THERE, bob, 1, join(&a, JoinFrom::Now));
    pair.rest();
    // Bob posts until the lane to ann is full, and ann's core is told where the head is with the first room in it.
    for request in 2..12 {
        pair.ask(THERE, bob, request, post(&a));
        pair.turn(THERE);
    }
    assert_eq!(pair.shards[THERE].counters().batches_lagged, 1);
    pair.ask(THERE, bob, 12, Ask::Leave { room: a.as_str().into() });
    pair.turn(THERE);
    // Ann's core takes the batches, and the other one says that there were more. Then ann goes, and cat comes.
    pair.turn(HERE);
    pair.turn(THERE);
    pair.ask(HERE, ann, 2, Ask::Leave { room: a.as_str().into() });
    pair.turn_without_parcels(HERE);
    let lagged = std::mem::take(&mut pair.down[HERE]);
    assert!(matches!(lagged.back(), Some(Down::Lagged { .. })), "{lagged:?}");
    pair.turn(THERE);
    pair.ask(HERE, cat, 1, join(&a, JoinFrom::Now));
    for parcel in lagged.into_iter().chain(std::mem::take(&mut pair.down[HERE])) {
        pair.down[HERE].push_back(parcel);
    }
    pair.turn(HERE);
    // Between the two, the room is forgotten for another.
    pair.ask(THERE, bob, 13, join(&b, JoinFrom::Now));
    pair.turn_without_parcels(THERE);
    pair.ask(THERE, bob, 14, Ask::Leave { room: b.as_str().into() });
    pair.turn_without_parcels(THERE);
    pair.rest();
    let joined = pair.hear(HERE, cat);
    assert_eq!(joined, ["1 joined a 107/0"], "a new history");
    pair.ask(HERE, cat, 2, post(&a));
    pair.rest();
    assert_eq!(pair.hear(HERE, cat), ["2 posted 1", "message a 1"]);
    assert_eq!(pair.shards[HERE].counters().subscriptions_behind, 0);
}

#[test]
fn a_room_that_was_made_anew_is_read_from_its_beginning_though_it_was_never_let_go_here() {
    let mut pair = Pair::new(Limits { rooms_max: 2, ..roomy() });
    let (a, b) = (room("a"), room("b"));
    let (ann, cat, dan) = (pair.open(HERE, 0, "ann"), pair.open(HERE, 1, "cat"), pair.open(HERE, 2, "dan"));
    let bob = pair.open(THERE, 0, "bob");
    pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
    pair.ask(HERE, ann, 2, post(&a));
    pair.rest();
    // A join that will be refused keeps the room known on this core, while its last reader leaves.
    pair.ask(HERE, dan, 1, join(&a, after(WRONG_EPOCH, 0)));
    pair.ask(HERE, ann, 3, Ask::Leave { room: a.as_str().into() });
    pair.turn(HERE);
    pair.turn(THERE);
    pair.ask(HERE, cat, 1, join(&a, JoinFrom::Now));
    pair.turn_without_parcels(HERE);
    pair.ask(THERE, bob, 1, join(&b, JoinFrom::Now));
    pair.turn_without_parcels(THERE);
    pair.ask(THERE, bob, 2, Ask::Leave { room: b.as_str().into() });
    pair.turn_without_parcels(THERE);
    pair.rest();
    assert_eq!(pair.hear(HERE, dan), ["1 wrong_epoch"]);
    assert_eq!(pair.hear(HERE, cat), ["1 joined a 107/0"], "a new history");
    pair.ask(HERE, cat, 2, post(&a));
    pair.rest();
    assert_eq!(pair.hear(HERE, cat), ["2 posted 1", "message a 1"]);
}

#[test]
fn a_core_comes_back_for_the_count_that_its_own_connections_caused() {
    let limits = Limits {
        presence_members_max: 1,
        presence_interval_ms: 20,
        presence_delay_ms_max: 20,
        idle_timeout_ms: 0,
        ..roomy()
    };
    let mut pair = Pair::new(limits);
    let a = room("a");
    let (ann, bob) = (pair.open(THERE, 0, "ann"), pair.open(THERE, 1, "bob"));
    pair.ask(
        THERE,
        ann,
        1,
        Ask::Join { room: a.as_str().into(), from: JoinFrom::Now, echo: true, presence: true, token: None },
    );
    pair.rest();
    pair.ask(THERE, bob, 1, join(&a, JoinFrom::Now));
    pair.turn(THERE);
    let is_due = pair.due_ms[THERE].is_some_and(|due_ms| due_ms <= pair.now_ms + 20);
    assert!(is_due, "the room is this core's own, and nothing else wakes it");
    pair.rest();
    pair.now_ms += 20;
    pair.rest();
    assert_eq!(pair.hear(THERE, ann), ["1 joined a 101/0", "presence 2"]);
}

#[test]
fn a_new_room_is_refused_while_no_epoch_is_left_and_made_as_soon_as_there_are_more() {
    // Of the numbers below 104 one is the core's.
    let mut pair = Pair::with_epochs(roomy(), 104);
    let (a, b) = (room("a"), room("b"));
    let ann = pair.open(HERE, 0, "ann");
    assert!(!pair.shards[THERE].asks_for_epochs());
    pair.ask(HERE, ann, 1, join(&a, JoinFrom::Now));
    pair.ask(HERE, ann, 2, join(&b, JoinFrom::Now));
    pair.rest();
    assert_eq!(pair.hear(HERE, ann), ["1 joined a 101/0", "2 overloaded"]);
    assert!(pair.shards[THERE].asks_for_epochs() && !pair.shards[THERE].asks_for_epochs(), "it asks once");
    pair.shards[THERE].extend_epochs(Epoch(200));
    pair.ask(HERE, ann, 3, join(&b, JoinFrom::Now));
    pair.rest();
    assert_eq!(pair.hear(HERE, ann), ["3 joined b 104/0"]);
}
