//! What one room, one client or one disk may take of a core: each budget that is shared is shared by turns, and no turn
//! takes more steps than its limits say.

use std::collections::{BTreeMap, VecDeque};

use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core, Now, Placement};
use banter_chat::limits::Limits;
use banter_chat::logs::{LogConfig, LogId};
use banter_chat::policy::{Durability, RoomPattern, RoomPolicies, RoomPolicy};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_log::catalog::Catalog;
use banter_log::journal::{Answer, Ask as DiskAsk, JournalParts};
use banter_log::segment::SegmentHeader;
use banter_protocol::event::Event;
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::frame::{Frame, Frames};
use banter_protocol::ids::{Epoch, Sequence};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::wire::WireForm;

/// One core that owns every room and connection, with sockets that take everything at once.
struct One {
    shard: Shard,
    now_ms: u64,
    sent: VecDeque<ConnectionId>,
    heard: BTreeMap<u32, Vec<String>>,
    /// Appends that the disk has not done yet.
    appends: usize,
    connections: u32,
    limits: Limits,
}

impl One {
    /// Rooms called "memory…" are in memory, the others on the disk.
    fn new(limits: Limits) -> Self {
        let of = |durability| RoomPolicy { durability, ..RoomPolicies::all(durability).otherwise };
        let policies = RoomPolicies {
            rules: vec![(RoomPattern::new("memory*"), of(Durability::Memory))],
            otherwise: of(Durability::Synced),
        };
        let journal = JournalParts {
            run: 1,
            commit_bytes_max: limits.log_commit_bytes_max as usize,
            reads_max: 4,
            work_steps_max: 256,
            cache_bytes_max: 1 << 20,
            catalog: Catalog::default(),
            indexes: BTreeMap::new(),
        };
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            placement: Placement::of_one_server(1),
            limits,
            welcome: Welcome { limits: String::new(), durability: "synced", features: KNOWN, run: 1 },
            access: Access::Open,
            first_epoch: Epoch(1),
            epochs_end: Epoch(1 << 40),
            policies,
            post_rates: PostRates::default(),
            logs: LogConfig::local(journal),
        });
        let (sent, heard) = (VecDeque::new(), BTreeMap::new());
        let mut one = One { shard, now_ms: 0, sent, heard, appends: 0, connections: 0, limits };
        one.turn();
        let header = SegmentHeader {
            id: 1,
            nonce: 1,
            core: 0,
            class: banter_log::segment::Class::SERVER,
            run: 1,
            made_unix_ms: 0,
            file_bytes: 1 << 30,
        };
        one.shard.disk(LogId::LOCAL, Answer::Segment(header));
        one
    }

    fn connect(&mut self, user: &str) -> ConnectionId {
        let id = ConnectionId { slot: self.connections, generation: 1 };
        self.connections += 1;
        self.shard.handle(id, Input::Opened { form: WireForm::Native, preface: &[] });
        self.ask(id, 0, Ask::Hello { user: user.to_owned().into(), token: None, features: FeatureNames::NONE });
        id
    }

    fn member(&mut self, user: &str, room: &str) -> ConnectionId {
        let id = self.connect(user);
        self.join(id, room);
        self.rest();
        self.hear(id);
        id
    }

    fn member_hears(&mut self, user: &str, room: &str) -> Vec<String> {
        let id = self.connect(user);
        self.rest();
        self.hear(id);
        self.join(id, room);
        self.rest();
        self.hear(id)
    }

    fn join(&mut self, id: ConnectionId, room: &str) {
        let ask =
            Ask::Join { room: room.to_owned().into(), from: JoinFrom::Now, echo: true, presence: false, token: None };
        self.ask(id, 1, ask);
    }

    fn post(&mut self, id: ConnectionId, request: u64, room: &str, bytes: usize) {
        let text = vec![b'x'; bytes];
        let body = Body { format: BodyFormat::Bytes, bytes: &text };
        self.ask(id, request, Ask::Post { room: room.to_owned().into(), body, key: None });
    }

    fn ask(&mut self, id: ConnectionId, request: u64, ask: Ask<'_>) {
        assert!(self.shard.is_read(id), "request {request} of a connection that is not read");
        self.shard.handle(id, Input::Request(&Request { id: Some(request), ask }));
    }

    /// One turn; the steps that it took.
    fn turn(&mut self) -> u64 {
        self.now_ms += 1;
        let before = self.shard.counters().steps;
        let now = Now { monotonic_ms: self.now_ms, monotonic_us: self.now_ms * 1_000, unix_ms: 1 << 40 };
        self.shard.begin_turn(now, []);
        while let Some(id) = self.sent.pop_front() {
            self.shard.handle(id, Input::Sent);
        }
        self.shard.finish_turn();
        self.appends += self.shard.disk_asks().iter().filter(|(_, ask)| matches!(ask, DiskAsk::Append { .. })).count();
        for _ in 0..self.limits.sends_per_turn_max {
            let Some((id, sending)) = self.shard.next_send() else { break };
            let heard = self.heard.entry(id.slot).or_default();
            heard.extend(Frames(sending.bytes()).map(|frame| told(frame.expect("whole frames"))));
            self.sent.push_back(id);
        }
        *self.shard.actions_mut() = Actions::default();
        self.shard.counters().steps - before
    }

    /// Turns until nothing is left to do; the most steps that one of them took.
    fn rest(&mut self) -> u64 {
        let mut most = 0;
        for _ in 0..100_000 {
            most = most.max(self.turn());
            if self.sent.is_empty() && !self.shard.is_busy() {
                return most;
            }
        }
        panic!("it does not come to rest");
    }

    /// The disk does the append that it was asked for.
    fn append(&mut self) {
        assert_eq!(std::mem::take(&mut self.appends), 1, "appends under way");
        self.shard.disk(LogId::LOCAL, Answer::Synced);
        self.rest();
    }

    fn hear(&mut self, id: ConnectionId) -> Vec<String> {
        self.heard.remove(&id.slot).unwrap_or_default()
    }
}

/// An event in short.
fn told(frame: &[u8]) -> String {
    let (frame, _) = Frame::read(frame, u32::MAX).expect("a frame");
    let id = |id: Option<u64>| id.unwrap_or(0);
    match native::read_event(frame).expect("an event") {
        Event::Posted { id: request, sequence, .. } => format!("{} posted {}", id(request), sequence.0),
        Event::Error { id: request, code, .. } => format!("{} {}", id(request), code.as_str()),
        Event::Message(message) => format!("message {}", message.sequence.0),
        Event::Joined { id: request, .. } => format!("{} joined", id(request)),
        Event::Left { id: request, .. } => format!("{} left", id(request)),
        Event::Page { id: request, messages, .. } => format!("{} page of {}", id(request), Frames(messages).count()),
        Event::Gap { from, to, .. } => format!("gap {}-{}", from.0, to.0),
        Event::Signal { .. } => "signal".to_owned(),
        other => format!("{other:?}"),
    }
}

fn quiet() -> Limits {
    Limits { idle_timeout_ms: 0, joins_per_second_max: 0, signals_per_second_max: 0, ..Limits::default() }
}

#[test]
fn a_flood_in_one_room_costs_another_none_of_its_history() {
    let limits = Limits { history_bytes_per_core_max: 256 * 1_024, ..quiet() };
    let mut one = One::new(limits);
    let (ann, eve) = (one.member("ann", "memory of ann"), one.member("eve", "memory of eve"));
    (0..20).for_each(|number| one.post(ann, number, "memory of ann", 100));
    for number in 0..2_000 {
        one.post(eve, number, "memory of eve", 1_000);
        one.rest();
    }
    one.hear(ann);
    let fetch = Ask::Fetch { room: "memory of ann".into(), from: FetchFrom::After(Sequence(0)), limit: None };
    one.ask(ann, 9, fetch);
    one.rest();
    assert_eq!(one.hear(ann), ["9 page of 20"]);
    assert!(one.shard.counters().history_bytes <= limits.history_bytes_per_core_max);
}

#[test]
fn rooms_take_turns_in_a_commit() {
    let mut one = One::new(Limits { log_commit_bytes_max: 70 * 1_024, ..quiet() });
    let (ann, eve) = (one.member("ann", "of ann"), one.member("eve", "of eve"));
    one.post(eve, 1, "of eve", 1_000);
    one.rest();
    // While that commit is under way: more of one room than the next commit holds, and then one post of another.
    (2..202).for_each(|number| one.post(eve, number, "of eve", 1_000));
    one.post(ann, 1, "of ann", 10);
    one.rest();
    one.append();
    assert_eq!(one.hear(ann), [""; 0]);
    one.append();
    assert_eq!(one.hear(ann), ["1 posted 1", "message 1"]);
    let heard = one.hear(eve);
    let posted = heard.iter().filter(|told| told.contains("posted")).count();
    assert!(posted > 40 && posted < 100, "{posted} of 201, and the others wait for their turn");
}

#[test]
fn a_room_in_memory_goes_on_while_the_disk_hangs_and_what_waits_is_bounded() {
    let limits = Limits { lane_parcels_max: 16, log_waiting_bytes_max: 128 * 1_024, ..quiet() };
    let mut one = One::new(limits);
    let writers: Vec<_> = (0..20).map(|number| one.member(&format!("writer {number}"), "on disk")).collect();
    let bob = one.member("bob", "memory");
    for number in 0..100 {
        for &writer in &writers {
            one.post(writer, number, "on disk", 100);
            one.rest();
        }
    }
    let (posts, bytes) = (one.shard.counters().log_waiting_posts, one.shard.counters().log_waiting_bytes);
    assert!(bytes <= 2 * limits.log_waiting_bytes_max && posts > 100, "{posts} posts of {bytes} bytes wait");
    one.post(bob, 5, "memory", 10);
    one.rest();
    one.ask(bob, 6, Ask::Leave { room: "memory".into() });
    one.join(bob, "memory");
    one.rest();
    assert_eq!(one.hear(bob), ["5 posted 1", "message 1", "6 left", "1 joined"]);
    // And the answers come in the order of the posts, refusals too.
    while one.appends > 0 {
        one.append();
    }
    let heard = one.hear(writers[0]);
    let answers: Vec<&String> = heard.iter().filter(|told| !told.starts_with("message")).collect();
    let numbers: Vec<u64> = answers.iter().map(|told| told.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.len() == 100, "{answers:?}");
    assert!(answers.iter().any(|told| told.ends_with("overloaded")), "{answers:?}");
    assert_eq!(one.shard.counters().log_waiting_bytes, 0);
}

#[test]
fn a_refusal_waits_for_the_answers_to_the_posts_before_it() {
    let mut one = One::new(Limits { posts_per_second_max: 1, ..quiet() });
    let ann = one.member("ann", "of ann");
    one.post(ann, 1, "of ann", 10);
    one.post(ann, 2, "of ann", 10);
    one.ask(ann, 3, Ask::Ping);
    one.rest();
    let heard = one.hear(ann);
    assert!(heard.len() == 1 && heard[0].contains("Pong"), "the second is refused at once: {heard:?}");
    one.append();
    assert_eq!(one.hear(ann), ["1 posted 1", "2 rate_limited", "message 1"]);
    one.post(ann, 4, "of ann", 10);
    one.rest();
    assert_eq!(one.hear(ann), ["4 rate_limited"], "nothing is open, and nothing to wait for");
}

#[test]
fn a_small_room_does_not_wait_for_a_large_one() {
    const MEMBERS: u32 = 3_000;
    let mut one = One::new(quiet());
    let crowd: Vec<_> = (0..MEMBERS).map(|number| one.connect(&format!("user {number}"))).collect();
    crowd.iter().for_each(|&member| one.join(member, "memory: stadium"));
    one.rest();
    let (ann, bob) = (one.member("ann", "memory: two"), one.member("bob", "memory: two"));
    one.heard.clear();
    one.post(crowd[0], 1, "memory: stadium", 10);
    one.turn();
    one.turn();
    one.post(ann, 1, "memory: two", 10);
    // The message goes out in the turn that it comes in, or in the next.
    one.turn();
    one.turn();
    let heard_by = |one: &One| one.heard.values().flatten().filter(|told| *told == "message 1").count();
    assert_eq!(one.hear(bob), ["message 1"]);
    assert!(heard_by(&one) < MEMBERS as usize / 2, "and the stadium is not through yet");
    one.rest();
    assert_eq!(heard_by(&one), MEMBERS as usize + 1, "all of the stadium, and ann");
}

#[test]
fn no_turn_takes_more_steps_than_its_limits_say() {
    const MEMBERS: u32 = 20_000;
    /// What one turn may look at: subscriptions for something new and for frames to let go of, connections that are told
    /// of the end, and what came in it.
    const STEPS_MAX: u64 = 4_096 + 512 + 256 + 1_024;
    let mut one = One::new(quiet());
    let crowd: Vec<_> = (0..MEMBERS).map(|number| one.connect(&format!("user {number}"))).collect();
    for part in crowd.chunks(500) {
        part.iter().for_each(|&member| one.join(member, "memory: stadium"));
        let most = one.rest();
        assert!(most <= STEPS_MAX, "{most} steps to join");
    }
    one.post(crowd[0], 1, "memory: stadium", 10);
    let most = one.rest();
    assert!(most <= STEPS_MAX, "{most} steps to fan out");
    let signal = Ask::Signal { room: "memory: stadium".into(), body: Body { format: BodyFormat::Json, bytes: b"1" } };
    one.ask(crowd[1], 2, signal);
    let most = one.rest();
    assert!(most <= STEPS_MAX, "{most} steps for a signal");
    // The runs are looked through, and what everybody was sent is let go of.
    one.now_ms += 1_000;
    let most = one.rest();
    assert!(most > 100 && most <= STEPS_MAX, "{most} steps to sweep");
    assert_eq!(one.shard.counters().run_bytes, 0);
    one.shard.drain();
    let most = one.rest();
    assert!(most <= STEPS_MAX, "{most} steps to begin to stop");
    assert!(one.heard.values().all(|told| told.iter().any(|told| told.contains("Closing"))), "all of them were told");
}

#[test]
fn signals_are_told_with_the_messages_and_never_to_their_author() {
    let mut one = One::new(quiet());
    let (ann, bob) = (one.member("ann", "memory"), one.member("bob", "memory"));
    let signal = |one: &mut One, from| {
        let body = Body { format: BodyFormat::Json, bytes: b"1" };
        one.ask(from, 5, Ask::Signal { room: "memory".into(), body });
    };
    signal(&mut one, ann);
    one.post(bob, 1, "memory", 10);
    signal(&mut one, ann);
    signal(&mut one, ann);
    one.post(ann, 2, "memory", 10);
    signal(&mut one, bob);
    one.rest();
    let messages = |heard: Vec<String>| heard.into_iter().filter(|told| !told.contains("posted")).collect::<Vec<_>>();
    let (ann, bob) = (messages(one.hear(ann)), messages(one.hear(bob)));
    assert_eq!(ann.iter().filter(|told| *told == "signal").count(), 1, "{ann:?}");
    assert_eq!(bob.iter().filter(|told| *told == "signal").count(), 3, "{bob:?}");
    for heard in [ann, bob] {
        let messages: Vec<&String> = heard.iter().filter(|told| told.starts_with("message")).collect();
        assert_eq!(messages, ["message 1", "message 2"]);
    }
}

#[test]
fn a_join_or_a_leave_in_the_midst_of_a_round_costs_nobody_a_message() {
    for leaves in [false, true] {
        let mut one = One::new(Limits { sends_per_turn_max: 16, ..quiet() });
        let crowd: Vec<_> = (0..300).map(|number| one.connect(&format!("user {number}"))).collect();
        crowd.iter().for_each(|&member| one.join(member, "memory: stadium"));
        one.rest();
        one.heard.clear();
        one.post(crowd[7], 1, "memory: stadium", 10);
        for turn in 0..12 {
            one.turn();
            if turn == 6 {
                one.post(crowd[9], 2, "memory: stadium", 10);
            }
        }
        if leaves {
            one.ask(crowd[299], 3, Ask::Leave { room: "memory: stadium".into() });
            one.ask(crowd[3], 3, Ask::Leave { room: "memory: stadium".into() });
        }
        let late = one.connect("late");
        one.join(late, "memory: stadium");
        one.rest();
        for (index, &member) in crowd.iter().enumerate().filter(|(index, _)| !leaves || ![3, 299].contains(index)) {
            let heard = one.hear(member);
            let messages: Vec<&String> = heard.iter().filter(|told| told.starts_with("message")).collect();
            assert_eq!(messages, ["message 1", "message 2"], "{index}: {heard:?}");
        }
    }
}

#[test]
fn a_room_that_nobody_reads_makes_place_also_behind_answers_that_waited() {
    let mut one = One::new(Limits { posts_per_second_max: 1, rooms_max: 1, ..quiet() });
    let ann = one.member("ann", "of ann");
    one.post(ann, 1, "of ann", 10);
    one.rest();
    one.post(ann, 2, "of ann", 10);
    one.rest();
    one.ask(ann, 3, Ask::Leave { room: "of ann".into() });
    one.rest();
    one.append();
    assert_eq!(one.hear(ann), ["3 left", "1 posted 1", "2 rate_limited"]);
    let bob = one.member_hears("bob", "of bob");
    assert_eq!(bob, ["1 joined"]);
}

#[test]
fn signals_leave_room_in_the_lanes_for_messages() {
    let mut one = One::new(Limits { lane_parcels_max: 64, signals_per_room_per_second_max: 0, ..quiet() });
    let noisy: Vec<_> = (0..30).map(|number| one.member(&format!("noisy {number}"), "memory: noise")).collect();
    let (ann, bob) = (one.member("ann", "memory: two"), one.member("bob", "memory: two"));
    for _ in 0..2 {
        for &from in &noisy {
            let body = Body { format: BodyFormat::Json, bytes: b"1" };
            one.ask(from, 5, Ask::Signal { room: "memory: noise".into(), body });
        }
    }
    one.post(ann, 1, "memory: two", 10);
    one.rest();
    assert_eq!(one.hear(bob), ["message 1"]);
    assert_eq!(one.shard.counters().batches_lagged, 0);
    assert!(one.shard.counters().signals_dropped > 0);
}

/// A core under all pressure there is, with a room of so many readers, the first of whom is returned.
fn pressed(limits: Limits, readers: u32) -> (One, ConnectionId) {
    let mut one = One::new(limits);
    let members: Vec<_> = (0..readers).map(|number| one.member(&format!("user-{number}"), "memory")).collect();
    one.shard.set_busy(1_000);
    members.iter().for_each(|&id| drop(one.hear(id)));
    (one, members[0])
}

/// The turn in which the next message reaches another reader than its author.
fn turns_until_delivered(one: &mut One, reader: ConnectionId) -> u64 {
    let is_message = |heard: &String| heard.starts_with("message");
    (1..1_000).find(|_| one.turn() > 0 && one.hear(reader).iter().any(is_message)).expect("it comes")
}

#[test]
fn under_pressure_messages_wait_for_company_and_no_longer_than_they_may() {
    let (mut one, ann) = pressed(Limits { delivery_delay_ms_max: 20, ..quiet() }, 10);
    let bob = ConnectionId { slot: 1, generation: 1 };
    one.post(ann, 7, "memory", 100);
    one.turn();
    assert_eq!(one.hear(ann), ["7 posted 1"], "an answer waits for nobody");
    for _ in 1..20 {
        one.turn();
        assert_eq!(one.hear(bob), [""; 0]);
    }
    one.post(ann, 8, "memory", 100);
    // Its turn is the one in which the first is due; both go in one send.
    let sends = one.shard.counters().waits;
    one.rest();
    assert_eq!((one.hear(bob).join(", "), sends), ("message 1, message 2".to_owned(), 1));
}

#[test]
fn a_core_with_time_to_spare_a_small_room_and_a_room_without_a_delay_send_at_once() {
    let paced = Limits { delivery_delay_ms_max: 20, ..quiet() };
    let bob = ConnectionId { slot: 1, generation: 1 };
    for (limits, readers, busy_permille) in
        [(paced, 10, 200), (paced, 7, 1_000), (Limits { delivery_delay_ms_max: 0, ..paced }, 10, 1_000)]
    {
        let (mut one, ann) = pressed(limits, readers);
        one.shard.set_busy(busy_permille);
        one.post(ann, 7, "memory", 100);
        assert_eq!(turns_until_delivered(&mut one, bob), 1, "{readers} readers, busy {busy_permille}");
        assert_eq!(one.shard.counters().waits, 0);
    }
}

#[test]
fn a_room_that_is_left_by_all_while_its_messages_wait_leaves_nothing_behind() {
    let (mut one, ann) = pressed(Limits { delivery_delay_ms_max: 20, ..quiet() }, 8);
    one.post(ann, 7, "memory", 100);
    one.turn();
    for slot in 0..8 {
        one.ask(ConnectionId { slot, generation: 1 }, 9, Ask::Leave { room: "memory".into() });
    }
    one.rest();
    assert!(one.shard.next_due().is_none_or(|due_ms| due_ms > one.now_ms + 20));
    // Its place is another room's now.
    let eve = one.member("eve", "memory of eve");
    one.post(eve, 1, "memory of eve", 100);
    one.rest();
    assert_eq!(one.hear(eve), ["1 posted 1", "message 1"]);
}
