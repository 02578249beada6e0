//! Swaps of a program while its room is posted to as fast as it goes: nothing is lost, doubled or out of order.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use banter_tests::server_process::{core_counts, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

use crate::setup::{Setup, entry, history, keyed};

const WRITERS: usize = 4;
const SWAPS: u64 = 20;
/// Posts that have to be answered between two swaps.
const POSTS_A_SWAP: u64 = 150;
/// Posts of a writer that wait for an answer.
const WINDOW: usize = 32;
/// The newest posts of each writer that are sent again in the end: fewer than the room remembers.
const AGAIN: usize = 40;
const ROOM: &str = "room";

fn version(number: u64) -> String {
    format!("function post(room, m) m:set('v', {number}) end")
}

/// What the writers and the one who swaps know of each other.
#[derive(Default)]
struct Course {
    /// The newest version that is in force for sure.
    swapped: AtomicU64,
    /// The newest version that may be in force.
    begun: AtomicU64,
    answered: AtomicU64,
    is_over: AtomicBool,
}

/// A post that has its place.
struct Placed {
    sequence: u64,
    /// The versions that were in force between its sending and its answer.
    versions: std::ops::RangeInclusive<u64>,
}

fn ask(user: &str, number: u64) -> Value {
    keyed(ROOM, &format!("{user}-{number}"), &json!({"w": user, "k": number}))
}

/// Posts until it is over, with a window of unanswered posts; the places of its posts, by their numbers.
fn write(address: SocketAddr, form: Form, user: &str, course: &Course) -> Vec<Placed> {
    let mut client = WireClient::hello(address, form, user);
    client.ask(json!({"type": "join", "room": ROOM, "echo": false}));
    let (mut waiting, mut placed, mut next) = (VecDeque::new(), Vec::new(), 0);
    loop {
        let is_over = course.is_over.load(Ordering::SeqCst);
        while !is_over && waiting.len() < WINDOW {
            let mut post = ask(user, next);
            post["id"] = (1_000 + next).into();
            waiting.push_back((next, course.swapped.load(Ordering::SeqCst)));
            client.send(&post.to_string());
            next += 1;
        }
        let Some((number, from)) = waiting.pop_front() else { return placed };
        // Others' messages come as well, and are read from the history in the end.
        let answer = loop {
            let event = client.next_event();
            if event["type"] != "message" {
                break event;
            }
        };
        let told = json!([answer["type"], answer["id"], answer["duplicate"]]);
        assert_eq!(told, json!(["posted", 1_000 + number, false]), "in the order of the posts: {answer}");
        let versions = from..=course.begun.load(Ordering::SeqCst);
        placed.push(Placed { sequence: answer["sequence"].as_u64().expect("a place"), versions });
        course.answered.fetch_add(1, Ordering::SeqCst);
    }
}

/// Swaps between posts; says that it is over also when something fails.
fn swap(setup: &Setup, course: &Course) {
    struct Over<'c>(&'c AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let _over = Over(&course.is_over);
    for number in 2..=SWAPS + 1 {
        let before = course.answered.load(Ordering::SeqCst);
        wait_until("the writers go on", || course.answered.load(Ordering::SeqCst) >= before + POSTS_A_SWAP);
        setup.write_program("versioned", &version(number));
        course.begun.store(number, Ordering::SeqCst);
        let told = setup.operate("POST", "/v1/programs/versioned/load", &Value::Null);
        assert_eq!((told.status, &told.json()["programs"]), (200, &json!(["versioned"])), "{}", told.body);
        course.swapped.store(number, Ordering::SeqCst);
    }
    let before = course.answered.load(Ordering::SeqCst);
    wait_until("the writers go on", || course.answered.load(Ordering::SeqCst) >= before + POSTS_A_SWAP);
}

/// The room's history holds each of those posts once, in order, and each as a version made it that was in force then.
fn check(kept: &[Value], placed: &BTreeMap<String, Vec<Placed>>) {
    assert_eq!(kept.len(), placed.values().map(Vec::len).sum::<usize>(), "no more and no fewer than were answered");
    let mut newest = 0;
    for (at, message) in kept.iter().enumerate() {
        assert_eq!(message["sequence"], at as u64 + 1, "no hole");
        let version = message["body"]["v"].as_u64().expect("each is edited");
        assert!(version >= newest, "{version} behind {newest}: a version that was swapped out comes back");
        newest = version;
    }
    assert_eq!(newest, SWAPS + 1);
    for (user, placed) in placed {
        for (number, Placed { sequence, versions }) in placed.iter().enumerate() {
            let message = &kept[*sequence as usize - 1];
            let body = &message["body"];
            assert_eq!(json!([message["user"], body["w"], body["k"]]), json!([user, user, number]));
            let version = body["v"].as_u64().expect("a version");
            assert!(versions.contains(&version), "{version} was not in force, but {versions:?}");
        }
        assert!(placed.is_sorted_by_key(|placed| placed.sequence));
    }
}

#[test]
fn twenty_swaps_under_four_writers_lose_double_and_reorder_nothing() {
    for &cores in core_counts() {
        let more = "[program_limits]\nunits_per_second_max = 0\n";
        let mut setup = Setup::new("written", &[], &[entry("versioned", ROOM, &version(1))], more);
        setup.run(cores);
        let course = Course { swapped: AtomicU64::new(1), begun: AtomicU64::new(1), ..Course::default() };
        let address = setup.server().address();
        let placed: BTreeMap<String, Vec<Placed>> = thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .zip(Form::ALL.into_iter().cycle())
                .map(|(writer, form)| {
                    let (user, course) = (format!("writer-{writer}"), &course);
                    scope.spawn(move || {
                        let placed = write(address, form, &user, course);
                        (user, placed)
                    })
                })
                .collect();
            swap(&setup, &course);
            writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
        });
        let mut reader = setup.hello(Form::Native, "reader");
        check(&history(&mut reader, ROOM), &placed);
        // Sent again, they have the places that they have, whatever the version of now would make of them.
        for (user, placed) in &placed {
            let mut client = setup.member(Form::Json, user, ROOM);
            for (number, known) in placed.iter().enumerate().skip(placed.len() - AGAIN) {
                let again = client.ask(ask(user, number as u64));
                let told = json!([again["type"], again["sequence"], again["duplicate"]]);
                assert_eq!(told, json!(["posted", known.sequence, true]), "{again}");
            }
        }
    }
}
