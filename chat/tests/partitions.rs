//! A core with a log for each partition: they commit beside each other, and each is open or closed.

mod node;
mod one_core;

use banter_chat::address::{Core, Peer};
use banter_chat::backend::{BACKEND, BackendAnswer, BackendAsk};
use banter_chat::logs::LogId;
use banter_chat::parcel::{Answer as Told, OwnedBody, SayAsk, Up};
use banter_chat::policy::{Durability, RoomPattern, RoomPolicies};
use banter_log::catalog::Catalog;
use banter_log::journal::Answer;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::{Epoch, RoomName, UserName};
use banter_protocol::request::{Ask, FetchFrom};

use node::{Node, room_in};

fn synced() -> RoomPolicies {
    RoomPolicies::all(Durability::Synced)
}

/// With the logs of partitions 3 and 5 open, and a reader of a room in each.
fn two_open() -> (Node, String, String) {
    let mut node = Node::new(synced());
    let (three, five) = (room_in(3, 0), room_in(5, 0));
    assert!(node.open_log(3) && node.open_log(5));
    node.reader(0, "ann", &[&three, &five]);
    (node, three, five)
}

#[test]
fn commits_of_two_partitions_are_in_flight_at_once_and_neither_waits_for_the_other() {
    let (mut node, three, five) = two_open();
    node.stalled.extend([LogId(3), LogId(5)]);
    node.post(0, 1, &three, None);
    node.post(0, 2, &five, None);
    node.post(0, 3, &three, None);
    node.rest();
    assert_eq!(node.kept.iter().map(|(log, _)| *log).collect::<Vec<_>>(), [LogId(3), LogId(5)]);
    assert!(node.shard.rooms().logs().iter().all(|(_, log)| log.is_committing()) && node.hear(0).is_empty());
    node.resume(5);
    node.rest();
    assert_eq!(node.hear(0), ["2 posted 1", "message 1"]);
    node.post(0, 4, &five, None);
    node.rest();
    assert_eq!(node.hear(0), ["4 posted 2", "message 2"], "the other partition still hangs");
    node.resume(3);
    node.rest();
    let heard = node.hear(0);
    assert_eq!(heard.iter().filter(|it| it.contains("posted")).collect::<Vec<_>>(), ["1 posted 1", "3 posted 2"]);
}

#[test]
fn what_waits_counts_together_for_all_logs_of_a_core() {
    let mut node =
        Node::with(synced(), banter_chat::limits::Limits { log_waiting_bytes_max: 600, ..one_core::roomy() });
    let rooms = [3, 5, 7].map(|partition| room_in(partition, 0));
    assert!(node.open_log(3) && node.open_log(5) && node.open_log(7));
    node.reader(0, "ann", &[&rooms[0], &rooms[1], &rooms[2]]);
    node.stalled.extend([LogId(3), LogId(5), LogId(7)]);
    for (number, room) in rooms.iter().cycle().take(9).enumerate() {
        node.post(0, number as u64, room, None);
    }
    node.rest();
    // Refusals wait behind the posts of their room; those of a room that has none open go at once.
    assert!(node.shard.rooms().kept().1 == 0 && node.shard.counters().log_waiting_bytes <= 2 * 600);
    [3, 5, 7].into_iter().for_each(|partition| node.resume(partition));
    node.rest();
    let heard = node.hear(0);
    let refused = heard.iter().filter(|it| it.contains("overloaded")).count();
    assert!(refused > 0 && heard.iter().filter(|it| it.contains("posted")).count() == 9 - refused, "{heard:?}");
}

#[test]
fn a_log_in_which_nothing_happens_asks_nothing_and_its_last_block_is_proved_behind_a_while() {
    let (mut node, three, _) = two_open();
    node.post(0, 1, &three, None);
    node.rest();
    let appended = node.disks[&LogId(3)].reaches.len();
    let due_ms = node.shard.next_due().expect("the proof is due");
    assert!(due_ms > node.now_ms && due_ms <= node.now_ms + 1_000, "{due_ms}");
    node.pass(1_500);
    assert_eq!(node.disks[&LogId(3)].reaches.len(), appended + 1, "the block is proved");
    assert!(node.disks[&LogId(5)].reaches.is_empty());
    assert!(!node.shard.is_busy() && node.shard.next_due().is_none_or(|due_ms| due_ms > node.now_ms));
}

#[test]
fn written_is_synced_in_a_cluster_and_joined_says_so() {
    let mut node = Node::new(RoomPolicies::all(Durability::Written));
    node.open_log(3);
    node.connect(0, "ann");
    node.join(0, &room_in(3, 0));
    node.rest();
    assert_eq!(node.hear(0), ["welcome", "joined 0 synced"]);
}

#[test]
fn a_room_without_an_owner_is_not_made_whatever_it_is_asked() {
    let mut policies = synced();
    let memory = room_in(4, 1);
    let mut policy = policies.otherwise;
    policy.durability = Durability::Memory;
    policies.rules.push((RoomPattern::new(&memory), policy));
    let mut node = Node::new(policies);
    node.open_log(3);
    node.connect(0, "ann");
    for (number, room) in [room_in(4, 0), memory].iter().enumerate() {
        node.hear(0);
        node.join(0, room);
        node.rest();
        node.fetch(0, 2, room);
        node.rest();
        node.ask(0, 3, Ask::Members { room: room.into() });
        node.rest();
        let refused = ["1 unavailable 1000", "2 unavailable 1000", "3 unavailable 1000"];
        let heard = node.hear(0);
        assert_eq!(heard[usize::from(number == 0)..], refused, "{heard:?}");
    }
    assert_eq!(node.shard.rooms().iter().count(), 0);
}

#[test]
fn what_is_open_when_a_log_closes_is_answered_unavailable_once_and_other_partitions_go_on() {
    let (mut node, three, five) = two_open();
    node.stalled.extend([LogId(3), LogId(5)]);
    node.post(0, 1, &three, Some("a"));
    node.post(0, 2, &five, None);
    node.turn();
    // Behind the flight: another post, and the first one again.
    node.post(0, 3, &three, None);
    node.post(0, 4, &three, Some("a"));
    node.turn();
    assert!(node.hear(0).is_empty());
    assert!(node.close_log(3));
    node.rest();
    let unavailable = |request: u64| format!("{request} unavailable 1000");
    assert_eq!(node.hear(0), [unavailable(1), unavailable(3), unavailable(4)]);
    assert_eq!(node.shard.counters().log_waiting_posts, 1, "the other partition's");
    // What its disk did is nobody's any more.
    node.shard.disk(LogId(3), Answer::Synced);
    node.rest();
    assert!(node.hear(0).is_empty());
    node.resume(5);
    node.rest();
    assert_eq!(node.hear(0), ["2 posted 1", "message 1"]);
}

#[test]
fn a_reader_of_a_closed_log_is_answered_unavailable_and_never_not_joined() {
    let (mut node, three, _) = two_open();
    node.post(0, 1, &three, None);
    node.rest();
    node.hear(0);
    node.close_log(3);
    node.rest();
    assert!(node.shard.rooms().iter().all(|room| room.name.as_str() != three), "its rooms leave memory");
    node.post(0, 2, &three, Some("k"));
    node.ask(
        0,
        3,
        Ask::Signal {
            room: (&three).into(),
            body: banter_protocol::request::Body { format: banter_protocol::request::BodyFormat::Json, bytes: b"1" },
        },
    );
    node.ask(0, 4, Ask::Leave { room: (&three).into() });
    node.rest();
    assert_eq!(node.hear(0), ["2 unavailable 1000", "4 unavailable 1000"]);
    assert_eq!(node.shard.rooms().iter().count(), 1);
}

#[test]
fn what_waits_for_a_window_or_a_page_that_is_being_read_is_answered_when_the_log_closes() {
    let (mut node, three, _) = two_open();
    node.post(0, 1, &three, Some("a"));
    node.rest();
    node.close_log(3);
    node.rest();
    node.shard.handle(node::id(0), banter_chat::shard::Input::Closed);
    assert!(node.open_log(3));
    node.unread.insert(LogId(3));
    // The room is brought from the log: its window is read, and everything waits for it.
    node.connect(1, "ann");
    node.join(1, &three);
    node.rest();
    node.fetch(1, 2, &three);
    node.rest();
    assert_eq!(node.hear(1), ["welcome"]);
    let held_bytes = node.shard.counters().log_waiting_bytes;
    assert!(held_bytes > 0);
    node.close_log(3);
    node.rest();
    assert_eq!(node.hear(1), ["1 unavailable 1000", "2 unavailable 1000"]);
    assert_eq!(node.shard.counters().log_waiting_bytes, 0);
    // A page: the window is read by now, and what memory does not hold is not.
    assert!(node.open_log(3));
    node.resume(3);
    node.join(1, &three);
    node.rest();
    assert_eq!(node.hear(1), ["joined 1 synced"]);
    node.unread.insert(LogId(3));
    node.fetch(1, 3, &three);
    node.rest();
    assert!(node.hear(1).is_empty() && node.shard.counters().pages_waiting == 1);
    node.close_log(3);
    node.rest();
    assert_eq!(node.hear(1), ["3 unavailable 1000"]);
    assert_eq!(node.shard.counters().pages_waiting, 0);
}

#[test]
fn a_log_that_is_opened_again_goes_on_from_what_it_holds_under_the_same_epoch() {
    let (mut node, three, _) = two_open();
    node.post(0, 1, &three, Some("kept"));
    node.rest();
    let epoch = node.shard.rooms().iter().find(|room| room.name.as_str() == three).unwrap().epoch;
    node.stalled.insert(LogId(3));
    node.post(0, 2, &three, Some("lost"));
    node.rest();
    node.close_log(3);
    node.stalled.clear();
    node.rest();
    assert_eq!(node.hear(0).last().unwrap(), "2 unavailable 1000");
    node.shard.handle(node::id(0), banter_chat::shard::Input::Closed);
    assert!(node.open_log(3) && !node.open_log(3), "once");
    node.reader(1, "ann", &[&three]);
    let room = node.shard.rooms().iter().find(|room| room.name.as_str() == three).unwrap();
    assert_eq!((room.epoch, room.head().0), (epoch, 1));
    node.post(1, 3, &three, Some("kept"));
    node.post(1, 4, &three, Some("lost"));
    node.rest();
    assert_eq!(node.hear(1), ["3 duplicate 1", "4 posted 2", "message 2"]);
}

#[test]
fn the_rooms_of_a_closed_log_leave_memory_some_a_turn_and_at_once_where_it_is_opened_again() {
    let mut node = Node::new(synced());
    node.open_log(3);
    node.connect(0, "ann");
    let rooms: Vec<String> = (0..700).map(|number| room_in(3, number)).collect();
    for room in &rooms {
        node.join(0, room);
        node.ask(0, 2, Ask::Leave { room: room.into() });
        node.now_ms += 10;
        node.turn();
    }
    let count = |node: &Node| node.shard.rooms().iter().count();
    assert_eq!(count(&node), 700);
    node.close_log(3);
    node.turn();
    assert!((1..700).contains(&count(&node)) && node.shard.is_busy());
    node.open_log(3);
    assert_eq!(count(&node), 0, "none is left from before");
    node.rest();
    assert!(!node.shard.is_busy());
}

#[test]
fn a_message_that_was_acknowledged_goes_out_though_the_log_closes_in_the_same_turn() {
    let (mut node, three, _) = two_open();
    node.stalled.insert(LogId(3));
    node.post(0, 1, &three, None);
    node.rest();
    node.begin_turn();
    node.resume(3);
    node.shard.close_log(LogId(3));
    node.turn();
    node.rest();
    assert_eq!(node.hear(0), ["1 posted 1", "message 1"]);
    assert_eq!(node.shard.rooms().iter().count(), 1);
}

#[test]
fn a_log_with_fresh_messages_may_close_and_open_within_a_turn() {
    let (mut node, three, _) = two_open();
    node.stalled.insert(LogId(3));
    node.post(0, 1, &three, None);
    node.rest();
    node.begin_turn();
    node.resume(3);
    node.close_log(3);
    assert!(node.open_log(3));
    node.rest();
    assert_eq!(node.hear(0), ["1 posted 1"], "its readers are nobody's by then");
}

#[test]
fn posts_of_rooms_in_memory_are_not_acknowledged_either_behind_the_close() {
    let room = room_in(3, 0);
    let mut node = Node::new(RoomPolicies::all(Durability::Memory));
    node.open_log(3);
    node.begin_turn();
    // As a parcel of another core comes: ahead of the turn's end.
    node.shard.take_up(Up::Say(Box::new(SayAsk {
        room: RoomName::new(&room).unwrap(),
        author: Peer { core: Core(0), connection: BACKEND },
        user: UserName::new("app").unwrap(),
        request: Some(7),
        key: None,
        body: OwnedBody::json(bytes::Bytes::from_static(b"1")),
        hop: 0,
    })));
    node.shard.close_log(LogId(3));
    node.shard.finish_turn();
    let answers = node.shard.take_backend_answers();
    assert!(matches!(&answers[..], [(7, BackendAnswer::Answer(Told::PostRefused(_)))]), "{answers:?}");
    assert_eq!((node.shard.rooms().iter().count(), node.shard.counters().posts), (0, 0));
    node.rest();
}

#[test]
fn the_clock_is_no_earlier_than_where_a_log_that_comes_starts() {
    let (mut node, three, five) = two_open();
    let ahead_ms = node.unix_ms + 3_600_000;
    let mut catalog = Catalog::default();
    catalog.begin(ahead_ms);
    assert!(node.open_log_on(7, catalog));
    let seven = room_in(7, 0);
    node.join(0, &seven);
    for (number, room) in [three, five, seven].iter().enumerate() {
        node.post(0, number as u64, room, None);
    }
    node.rest();
    assert_eq!(node.times_ms.len(), 3);
    assert!(node.times_ms.iter().all(|&time_ms| time_ms >= ahead_ms), "{:?}", node.times_ms);
}

#[test]
fn a_backend_is_told_that_a_room_has_no_owner() {
    let mut node = Node::new(synced());
    node.open_log(3);
    let ask = |room: &str| {
        let room = || RoomName::new(room).unwrap();
        let (user, body) = (|| UserName::new("app").unwrap(), || OwnedBody::json(bytes::Bytes::from_static(b"1")));
        [
            BackendAsk::Post { room: room(), user: user(), key: None, body: body() },
            BackendAsk::Signal { room: room(), user: user(), body: body() },
            BackendAsk::Fetch {
                room: room(),
                from: FetchFrom::After(banter_protocol::ids::Sequence(0)),
                messages_max: 9,
            },
            BackendAsk::Members { room: room(), after: None, users_max: 9 },
            BackendAsk::Room(room()),
        ]
    };
    let is_refused = |answer: &BackendAnswer| {
        matches!(answer, BackendAnswer::Answer(Told::Refused(refusal) | Told::PostRefused(refusal))
            if refusal.code == ErrorCode::Unavailable && refusal.retry_after_ms == Some(1_000))
    };
    for (room, refused) in [(room_in(4, 0), 5), (room_in(3, 0), 0)] {
        ask(&room).into_iter().enumerate().for_each(|(ticket, ask)| node.shard.backend(ticket as u64, ask));
        node.rest();
        let answers = node.shard.take_backend_answers();
        assert_eq!(answers.len(), 5);
        assert_eq!(answers.iter().filter(|(_, answer)| is_refused(answer)).count(), refused, "{answers:?}");
    }
    // One that is asked while the log closes.
    node.stalled.insert(LogId(3));
    let [post, ..] = ask(&room_in(3, 0));
    node.shard.backend(9, post);
    node.rest();
    node.close_log(3);
    node.shard.backend(1, BackendAsk::Rooms { prefix: String::new(), from: 0, rooms_max: 9 });
    assert_eq!(node.shard.rooms().iter().count(), 1, "it is still to leave memory");
    let listed = node.shard.take_backend_answers();
    node.rest();
    let answers = node.shard.take_backend_answers();
    assert!(answers.len() == 1 && is_refused(&answers[0].1), "{answers:?}");
    assert!(matches!(&listed[0].1, BackendAnswer::Rooms { rooms, .. } if rooms.is_empty()), "{listed:?}");
}

#[test]
fn rooms_in_memory_begin_under_the_epochs_that_an_owner_is_given() {
    let mut node = Node::new(RoomPolicies::all(Durability::Memory));
    node.open_log(3);
    node.shard.begin_epochs(Epoch(7_000), Epoch(7_001));
    node.reader(0, "ann", &[&room_in(3, 0)]);
    assert_eq!(node.shard.rooms().iter().next().unwrap().epoch, Epoch(7_000));
    node.join(0, &room_in(3, 1));
    node.rest();
    assert_eq!(node.hear(0), ["1 overloaded 1000"], "there are no more");
}

#[test]
fn a_server_of_its_own_neither_opens_nor_closes_its_log() {
    let mut server = one_core::Server::new(one_core::roomy());
    server.join();
    server.rest();
    assert!(server.shard.close_log(LogId::LOCAL).is_none());
    server.post(2, None, "1");
    server.rest();
    assert!(server.heard.contains(&"posted 1".to_owned()), "{:?}", server.heard);
}

#[test]
fn a_program_is_not_called_for_a_timer_in_a_room_whose_log_is_closed() {
    let (mut node, three, _) = two_open();
    let (programs, ticks) = node::counter(1_000);
    node.shard.set_programs(programs);
    node.post(0, 1, &three, None);
    node.rest();
    node.pass(900);
    assert_eq!(ticks.load(std::sync::atomic::Ordering::Relaxed), 0);
    (node.now_ms, node.unix_ms) = (node.now_ms + 200, node.unix_ms + 200);
    node.begin_turn();
    node.shard.close_log(LogId(3));
    node.shard.finish_turn();
    node.pass(3_000);
    assert_eq!(ticks.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(node.shard.rooms().iter().count(), 1, "the room of the other partition");
}

#[test]
fn what_waits_for_units_of_programs_is_answered_when_the_log_closes() {
    let (mut node, three, five) = two_open();
    node.shard.set_programs(node::counter(1).0);
    for request in 1..=3 {
        node.post(0, request, &three, None);
        node.post(0, 10 + request, &five, None);
    }
    node.turn();
    node.close_log(3);
    node.rest();
    let heard = node.hear(0);
    assert_eq!(heard.iter().filter(|it| it.ends_with("unavailable 1000")).count(), 2, "{heard:?}");
    assert!(heard.contains(&"1 posted 1".into()), "there were units for the first: {heard:?}");
    assert_eq!(heard.iter().filter(|it| it.contains("posted")).count(), 4, "the other partition goes on: {heard:?}");
    assert_eq!(node.shard.counters().log_waiting_bytes, 0);
}

#[test]
fn keys_that_are_taken_over_several_turns_are_dropped_when_the_log_closes() {
    let (mut node, three, five) = two_open();
    for number in 0..600_u64 {
        node.post(0, number, &three, Some(&number.to_string()));
    }
    node.rest();
    node.close_log(3);
    node.shard.handle(node::id(0), banter_chat::shard::Input::Closed);
    assert!(node.open_log(3));
    node.connect(1, "ann");
    node.join(1, &three);
    while !node.shard.rooms().has_keys_waiting() {
        node.turn();
    }
    node.close_log(3);
    node.rest();
    assert_eq!(node.hear(1), ["welcome", "1 unavailable 1000"]);
    assert!(!node.shard.rooms().has_keys_waiting());
    // The place in memory is another room's now.
    node.join(1, &five);
    node.rest();
    node.hear(1);
    node.post(1, 2, &five, Some("599"));
    node.rest();
    assert_eq!(node.hear(1), ["2 posted 1", "message 1"]);
}
