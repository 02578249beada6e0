//! End to end: a right that is lost in the midst of something: while messages come, while what was missed comes, while a page is
//! on its way. Behind the word that it is lost nothing of the room comes any more.

use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use banter_access::mint::ClaimsToMint;
use banter_access::rights::Rights;
use banter_tests::access_world::{World, claims, closed_with, code, each_at_once, ending, greeted, token};
use banter_tests::fuse_disk::{Aim, FuseDisk};
use banter_tests::server_process::wait_until;
use banter_tests::wire_client::{Ended, Form, WireClient, stream_from};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A way to lose the right to read a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Renewal,
    Reload,
    RoomTokenEnds,
    RoomTokenRevoked,
    Kick,
    UserRevoked,
    SessionRevoked,
    TokenRevoked,
    AddressRevoked,
    Disconnected,
    TokenEnds,
}

/// What is told: in `removed`, and whoever joins again is answered that; or in `error`, and the connection is closed with that code.
#[derive(Clone, Copy)]
enum Told {
    Removed(&'static str, &'static str),
    Closed(&'static str, u16),
}

use Loss::*;
use Told::{Closed, Removed};

/// Each way, and what is told of it.
#[rustfmt::skip]
const LOSSES: [(Loss, Told); 11] = [
    (Renewal,          Removed("forbidden", "forbidden")),
    (Reload,           Removed("forbidden", "forbidden")),
    (RoomTokenEnds,    Removed("expired",   "forbidden")),
    (RoomTokenRevoked, Removed("revoked",   "forbidden")),
    (Kick,             Removed("kicked",    "joined")),
    (UserRevoked,      Closed("revoked", 4_403)),
    (SessionRevoked,   Closed("revoked", 4_403)),
    (TokenRevoked,     Closed("revoked", 4_403)),
    (AddressRevoked,   Closed("revoked", 4_403)),
    (Disconnected,     Closed("kicked",  4_405)),
    (TokenEnds,        Closed("expired", 4_401)),
];

/// The same while a page is on its way: what the `fetch` is answered that asked for it.
const OF_A_FETCH: [(Loss, &str); 5] = [
    (Renewal, "forbidden"),
    (Reload, "forbidden"),
    (RoomTokenEnds, "forbidden"),
    (RoomTokenRevoked, "forbidden"),
    // Who was taken out may still look back.
    (Kick, "page"),
];

/// One who may read a room, and is to lose that.
struct Reader<'w> {
    world: &'w World,
    form: Form,
    loss: Loss,
    room: String,
    user: String,
    session: String,
    token_id: String,
    address: Ipv4Addr,
    client: WireClient,
    /// The token that its joins bring along.
    room_token: Option<String>,
}

impl<'w> Reader<'w> {
    fn new(world: &'w World, loss: Loss, form: Form, room: &str, connect: impl FnOnce(Ipv4Addr) -> TcpStream) -> Self {
        let [user, session, token_id] = ["user", "session", "token"].map(|stem| world.fresh(stem));
        let named =
            |claims| ClaimsToMint { session: Some(session.clone()), token_id: Some(token_id.clone()), ..claims };
        let below = format!("{room}/*");
        let member = claims(&user, &[(room, Rights::MEMBER), (&below, Rights::MEMBER)]);
        let stranger = claims(&user, &[("elsewhere", Rights::READ)]);
        let (own, room_token) = match loss {
            Renewal | Kick | AddressRevoked | Disconnected => (member, None),
            UserRevoked | SessionRevoked | TokenRevoked => (named(member), None),
            TokenEnds => (ending(member), None),
            Reload => {
                world.open(room);
                (stranger, None)
            }
            RoomTokenEnds => (stranger, Some(ending(member))),
            RoomTokenRevoked => (stranger, Some(named(member))),
        };
        let address = world.fresh_address();
        let client = greeted(WireClient::over(connect(address), form), &own);
        let room_token = room_token.map(|claims| token(&claims));
        Reader { world, form, loss, room: room.to_owned(), user, session, token_id, address, client, room_token }
    }

    /// The request for a join, with those fields more.
    fn join(&self, more: &Value) -> Value {
        let mut join = json!({"type": "join", "room": self.room, "token": self.room_token});
        join.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        join
    }

    fn joins(&mut self, more: &Value) -> Value {
        let joined = self.client.ask(self.join(more));
        assert_eq!(joined["type"], "joined", "{joined}");
        joined
    }

    /// The right goes.
    fn loses(&mut self) {
        if self.loss == Renewal {
            self.renews();
        }
        self.strike()();
    }

    /// It goes on with a token that does not give the right.
    fn renews(&mut self) {
        let token = token(&claims(&self.user, &[("elsewhere", Rights::READ)]));
        self.client.send(&json!({"type": "renew", "token": token}).to_string());
    }

    /// What somebody else does for that; nothing where it goes by itself.
    fn strike(&self) -> impl FnOnce() + Send + use<'w> {
        let (world, loss, room, user) = (self.world, self.loss, self.room.clone(), self.user.clone());
        let (session, token, address) = (self.session.clone(), self.token_id.clone(), self.address.to_string());
        move || match loss {
            Reload => world.close(&room),
            RoomTokenRevoked | SessionRevoked => world.revoke(&json!({"session": session})),
            TokenRevoked => world.revoke(&json!({"token": token})),
            UserRevoked => world.revoke(&json!({"user": user})),
            AddressRevoked => world.revoke(&json!({"address": address})),
            Kick => world.kick(&room, &user),
            Disconnected => world.disconnect(&user),
            Renewal | RoomTokenEnds | TokenEnds => {}
        }
    }

    /// Reads on to where it is told of the loss, which comes behind messages without a hole; how many those were.
    fn reads_to_the_loss(&mut self, told: Told, first: u64) -> u64 {
        let mut next = first;
        let what = (self.loss, self.form);
        loop {
            let Some(event) = self.client.try_next_event() else { panic!("no word of it: {what:?}") };
            match event["type"].as_str() {
                Some("message") => {
                    assert_eq!((&event["room"], &event["sequence"]), (&json!(self.room), &json!(next)), "{what:?}");
                    next += 1;
                }
                Some("renewed" | "expiring") => {}
                Some("removed") => {
                    let Removed(code, _) = told else { panic!("{what:?}: {event}") };
                    assert_eq!(event, json!({"type": "removed", "room": self.room, "code": code}), "{what:?}");
                    return next - first;
                }
                Some("error") => {
                    let Closed(code, close_code) = told else { panic!("{what:?}: {event}") };
                    assert_eq!(event["code"], code, "{what:?}");
                    let end: (Vec<Value>, Ended) = self.client.read_to_end();
                    assert_eq!(end, (vec![], closed_with(self.form, close_code)), "{what:?}");
                    return next - first;
                }
                _ => panic!("{what:?}: {event}"),
            }
        }
    }

    /// Nothing of the room comes, and nothing may be done there, unless it may join again.
    fn must_be_out(mut self, told: Told) {
        let Removed(_, again) = told else { return };
        let what = (self.loss, self.form);
        assert!(self.client.has_nothing(), "{what:?}");
        for ask in ["post", "signal"] {
            let ask = json!({"type": ask, "room": self.room, "body": 1});
            assert_eq!(code(&self.client.ask(ask)), "not_joined", "{what:?}");
        }
        let join = json!({"type": "join", "room": self.room});
        assert_eq!(code(&self.client.ask(join)), again, "{what:?}");
    }
}

/// One who talks in a room.
fn writer(world: &World, room: &str) -> WireClient {
    let mut writer = world.comes_in(Form::Native, &claims(&world.fresh("writer"), &[(room, Rights::MEMBER)]));
    assert_eq!(code(&writer.ask(json!({"type": "join", "room": room, "echo": false}))), "joined");
    writer
}

#[test]
fn while_messages_come_none_comes_behind_the_loss() {
    let world = World::start(2, "durability = 'memory'", "");
    let mut jobs: Vec<_> = LOSSES.iter().flat_map(|loss| Form::ALL.map(|form| (*loss, form))).collect();
    // Those that wait for a clock begin first.
    jobs.sort_by_key(|((loss, _), _)| !matches!(loss, RoomTokenEnds | TokenEnds));
    each_at_once(&jobs, |&((loss, told), form)| {
        let room = world.fresh("room");
        let mut writer = writer(&world, &room);
        let mut reader = Reader::new(&world, loss, form, &room, |address| stream_from(address, world.address()));
        reader.joins(&json!({}));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let talking = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    writer.post(&room, json!("hi"));
                    // Many a second, for as long as a token lasts, and not more than a reader reads meanwhile.
                    std::thread::sleep(Duration::from_millis(1));
                }
                writer
            });
            for sequence in 1..=10 {
                assert_eq!(reader.client.take_type("message")["sequence"], sequence);
            }
            reader.loses();
            let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reader.reads_to_the_loss(told, 11)));
            is_over.store(true, Ordering::Relaxed);
            let mut writer = talking.join().expect("the writer is served");
            let read = read.expect("the loss is told");
            let head = writer.post(&room, json!("without it"))["sequence"].as_u64().expect("a number");
            assert!(read + 10 < head, "{loss:?}, {form:?}");
            reader.must_be_out(told);
        });
    });
}

/// More than what kernel and server hold for one who does not read.
const HISTORY_MESSAGES: u64 = 260;
const BODY_BYTES: usize = 50_000;

#[test]
fn while_what_was_missed_comes_none_of_it_comes_behind_the_loss() {
    let world = World::start(2, "durability = 'memory'", "");
    // What a reload gives, it gives all users, and then nobody loses it in another way.
    let rooms = ["room", "open"].map(|stem| world.fresh(stem));
    let body = "x".repeat(BODY_BYTES);
    let epochs = [0, 1].map(|index: usize| {
        let mut writer = writer(&world, &rooms[index]);
        (0..HISTORY_MESSAGES).for_each(|_| drop(writer.post(&rooms[index], json!(body))));
        writer.ask(json!({"type": "join", "room": rooms[index]}))["epoch"].clone()
    });
    let (reloads, others): (Vec<_>, Vec<_>) = LOSSES.into_iter().partition(|(loss, _)| *loss == Reload);
    // One reload is behind the other; of the others those that wait for a clock begin first.
    let mut jobs: Vec<_> = others.iter().flat_map(|loss| Form::ALL.map(|form| (*loss, vec![form]))).collect();
    jobs.extend(reloads.iter().map(|loss| (*loss, Form::ALL.to_vec())));
    jobs.sort_by_key(|((loss, _), _)| !matches!(loss, RoomTokenEnds | TokenEnds));
    each_at_once(&jobs, |((loss, told), forms)| {
        let index = usize::from(*loss == Reload);
        let (room, epoch) = (&*rooms[index], &epochs[index]);
        for &form in forms {
            let connect = |address| stream_from(address, world.address());
            let mut reader = Reader::new(&world, *loss, form, room, connect);
            reader.joins(&json!({"after": {"epoch": epoch, "sequence": 0}}));
            assert!(world.members(room).contains(&reader.user));
            // It reads nothing, so that it is in the midst of it.
            reader.loses();
            wait_until("it reads the room no longer", || !world.members(room).contains(&reader.user));
            let read = reader.reads_to_the_loss(*told, 1);
            assert!(read < HISTORY_MESSAGES, "{loss:?}, {form:?}: all had come before");
            reader.must_be_out(*told);
        }
    });
}

/// The id of a fetch whose page is on its way.
const FETCH_ID: u64 = 1_000_000;

/// The right is lost while a disk that hangs keeps pages on their way: that of a fetch, and the first one of what was missed. The
/// room's core may hang with it (io_uring waits for FUSE), so the connection is on another one.
fn loses_while_pages_come(reader: &mut Reader<'_>, told: Told, epoch: &Value, disk: &FuseDisk) -> Value {
    let what = (reader.loss, reader.form);
    let hang = disk.hang();
    reader.joins(&json!({"after": {"epoch": epoch, "sequence": 0}}));
    let fetch = json!({"type": "fetch", "id": FETCH_ID, "room": reader.room, "after": 0});
    reader.client.send(&fetch.to_string());
    // What is asked behind it is answered: it is with the room's core.
    assert!(reader.client.has_nothing(), "{what:?}");
    let strike = reader.strike();
    std::thread::scope(|scope| {
        // An order is answered once every core has taken it.
        let striking = scope.spawn(strike);
        if reader.loss == Renewal {
            reader.renews();
        }
        assert_eq!(reader.reads_to_the_loss(told, 1), 0, "{what:?}");
        drop(hang);
        striking.join().expect("the order is taken");
    });
    let answer = reader.client.next_event();
    assert_eq!(answer["id"], FETCH_ID, "{what:?}: {answer}");
    answer
}

#[test]
fn while_pages_are_on_their_way_none_comes_behind_the_loss() {
    let folder = TempDir::new().expect("a folder");
    let log = folder.path().join("data/log");
    std::fs::create_dir_all(&log).expect("a folder");
    let disk = match FuseDisk::mount(&log, Aim::Files(|_| false)) {
        Ok(disk) => disk,
        Err(error) => return eprintln!("SKIPPED: this machine cannot: no FUSE: {error}"),
    };
    // With a smaller outbox a connection is not read on while a page is on its way, and can renew nothing.
    let tables = "[limits]\nlog_cache_bytes_per_core_max = 0\noutbox_bytes_max = 1048576";
    let mut world = World::start_in(folder, 2, "durability = 'synced'", tables);
    let room = world.fresh("room");
    let mut first = writer(&world, &room);
    (0..20).for_each(|number| drop(first.post(&room, json!(number))));
    // What another run of the server wrote is on the disk alone.
    world.start_again();
    let mut writer = writer(&world, &room);
    let epoch = writer.ask(json!({"type": "join", "room": room, "echo": false}))["epoch"].clone();
    let core = world.core_of(&room);
    for (loss, answered) in OF_A_FETCH {
        let (_, told) = LOSSES.into_iter().find(|(other, _)| *other == loss).expect("a loss");
        for form in Form::ALL {
            // The kernel spreads connections.
            let connect = |address| stream_from(address, world.address());
            let mut readers = (0..200).map(|_| Reader::new(&world, loss, form, &room, connect));
            let mut reader = readers.find(|reader| reader.client.core() != core).expect("one on another core");
            let answer = loses_while_pages_come(&mut reader, told, &epoch, &disk);
            assert_eq!(code(&answer), answered, "{loss:?}, {form:?}: {answer}");
            reader.must_be_out(told);
        }
    }
    assert_eq!(code(&writer.ask(json!({"type": "post", "room": room, "body": "still here"}))), "posted");
    world.kill();
}
