//! One core's connections without sockets: what is read of them, what is held, and when they are ended.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use banter_chat::access::Access;
use banter_chat::address::{Now, Placement};
use banter_chat::limits::Limits;
use banter_chat::logs::LogConfig;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::Welcome;
use banter_chat::shard::ShardConfig;
use banter_protocol::features::KNOWN;
use banter_protocol::ids::Epoch;
use banter_protocol::websocket::{FrameKind, write_masked_frame};

use super::*;

mod arriving;
mod blocking;

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const HELLO: &str = r#"{"type":"hello","user":"ann"}"#;
/// Its answer may be so long that nothing more is read ahead of it.
const FETCH: &str = r#"{"type":"fetch","id":1,"room":"lobby","after":0}"#;
/// Where everybody comes from.
const ANN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const PING: &str = r#"{"type":"ping","id":7}"#;

/// A core whose peers take what is sent to them only when they are told to.
struct Rig {
    connections: Connections,
    shard: Shard,
    net: Net,
    now_ms: u64,
    /// Those that were silent for long.
    doubted: Vec<ConnectionId>,
    /// What was sent to each, by slot.
    sent: Vec<(u32, Vec<u8>)>,
    _control: flume::Receiver<ToControl>,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        Self::behind(limits, Entrance::default())
    }

    fn behind(limits: Limits, entrance: Entrance) -> Self {
        let (to_control, control) = flume::unbounded();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            placement: Placement::of_one_server(1),
            limits,
            welcome: Welcome { limits: String::new(), durability: "memory", features: KNOWN, run: 1 },
            access: Access::Open,
            first_epoch: Epoch(1),
            epochs_end: Epoch(1 << 40),
            policies: RoomPolicies::all(Durability::Memory),
            post_rates: PostRates::default(),
            logs: LogConfig::None,
        });
        let limits = ConnectionLimits::of(&limits, entrance, &Arc::default());
        Rig {
            connections: Connections::new(Core(0), limits, to_control),
            shard,
            net: Net::new(listener, 8, None).unwrap(),
            now_ms: 0,
            doubted: Vec::new(),
            sent: Vec::new(),
            _control: control,
        }
    }

    /// A WebSocket that has said hello and took the answer.
    fn greeted(&mut self, slot: u32) {
        self.greeted_from(slot, ANN);
    }

    fn greeted_from(&mut self, slot: u32, address: IpAddr) {
        self.connections.accepted(slot, address, self.now_ms, &mut self.net);
        self.receive(slot, UPGRADE);
        self.receive(slot, &text(HELLO));
        self.turn();
        self.take(slot);
        self.turn();
    }

    fn receive(&mut self, slot: u32, bytes: &[u8]) {
        self.connections.received(slot, &mut bytes.to_vec(), &mut self.shard, &mut self.net);
    }

    /// The rest of a turn, and the beginning of the next.
    fn turn(&mut self) {
        self.connections.read_backlog(&mut self.shard, &mut self.net);
        self.connections.tick(self.now_ms, &mut self.shard, &mut self.net);
        self.shard.finish_turn();
        self.doubted.append(&mut self.shard.actions_mut().doubtful);
        loop {
            while let Some((id, sending)) = self.shard.next_send() {
                self.sent.push((id.slot, sending.bytes().to_vec()));
            }
            let actions = std::mem::take(self.shard.actions_mut());
            if actions.is_empty() {
                break;
            }
            for id in actions.resume {
                self.connections.resume(id, &mut self.shard, &mut self.net);
            }
        }
        self.begin_turn();
    }

    fn begin_turn(&mut self) {
        let now = Now { monotonic_ms: self.now_ms, ..Now::default() };
        self.shard.begin_turn(now, []);
        self.connections.begin_turn(now);
    }

    /// Turns until that time, each when something is due, with something to do at the start of each.
    fn pass(&mut self, until_ms: u64, mut each: impl FnMut(&mut Rig)) {
        while self.now_ms < until_ms {
            let due_ms = self.connections.next_due().into_iter().chain(self.shard.next_due()).min();
            self.now_ms = due_ms.map_or(until_ms, |due_ms| due_ms.clamp(self.now_ms + 1, until_ms));
            self.begin_turn();
            each(self);
            self.turn();
        }
    }

    /// Whether the shard still takes something from it.
    fn is_there(&self, slot: u32) -> bool {
        self.shard.sessions().session(self.connections.id(slot)).is_some_and(|session| session.is_open())
    }

    /// The peer took what is on its way.
    fn take(&mut self, slot: u32) {
        self.connections.sent(slot, self.now_ms, &mut self.shard, &mut self.net);
    }

    /// Times that a text occurs in what was sent to it.
    fn count(&self, slot: u32, wanted: &str) -> usize {
        let of_slot = self.sent.iter().filter(|(sent_to, _)| *sent_to == slot);
        of_slot.map(|(_, bytes)| String::from_utf8_lossy(bytes).matches(wanted).count()).sum()
    }

    fn held_bytes(&self) -> u64 {
        self.connections.counters.held_bytes
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    write_masked_frame(&mut frame, FrameKind::Text, [0x12, 0, 0xfe, 0x55], text.as_bytes());
    frame
}

#[test]
fn what_is_held_is_read_in_order_and_its_buffer_goes() {
    let mut rig = Rig::new(Limits::default());
    rig.greeted(0);
    rig.receive(0, &text(FETCH).repeat(20));
    assert!(rig.held_bytes() > 0 && rig.shard.sessions().session(rig.connections.id(0)).unwrap().is_paused);
    rig.receive(0, &text(PING)[..9]);
    rig.receive(0, &text(PING)[9..]);
    while rig.held_bytes() > 0 {
        rig.turn();
        rig.take(0);
    }
    rig.turn();
    assert_eq!((rig.count(0, r#""type":"page""#), rig.count(0, r#""type":"pong","id":7"#)), (20, 1));
    assert!(rig.connections.table[0].held.is_none());
}

#[test]
fn a_connection_that_is_brought_more_than_may_be_held_is_ended_and_keeps_nothing() {
    let limits = Limits { held_bytes_max: 10_000, ..Limits::default() };
    let mut rig = Rig::new(limits);
    rig.greeted(0);
    rig.receive(0, &text(FETCH).repeat(2));
    rig.receive(0, &[0; 9_000]);
    assert_eq!((rig.held_bytes(), rig.connections.counters.held_overflows), (9_000, 0));
    rig.receive(0, &[0; 1_001]);
    assert_eq!((rig.held_bytes(), rig.connections.counters.held_overflows), (0, 1));
    rig.turn();
    rig.take(0);
    rig.turn();
    assert_eq!(rig.count(0, r#""code":"overloaded""#), 1);
    // It is ending: nothing is kept, however much still comes.
    rig.receive(0, &[0; 9_000]);
    assert_eq!((rig.held_bytes(), rig.connections.counters.held_overflows), (0, 1));
}

#[test]
fn nothing_is_kept_of_a_connection_that_closes_or_goes() {
    let mut rig = Rig::new(Limits::default());
    for slot in 0..3 {
        rig.greeted(slot);
        rig.receive(slot, &text(FETCH).repeat(20));
    }
    assert!(rig.held_bytes() > 0);
    let id = rig.connections.id(0);
    rig.connections.abort(id, &mut rig.shard, &mut rig.net);
    let id = rig.connections.id(1);
    rig.connections.finish_open(id, 0, &mut rig.shard, &mut rig.net);
    rig.receive(1, &text(PING).repeat(100));
    // A close among what is held: the rest means nothing.
    let mut close = Vec::new();
    write_masked_frame(&mut close, FrameKind::Close, [0; 4], &[]);
    rig.receive(2, &close);
    rig.receive(2, &text(PING).repeat(100));
    while rig.count(2, r#""type":"page""#) < 20 {
        rig.turn();
        rig.take(2);
    }
    rig.turn();
    assert_eq!((rig.held_bytes(), rig.count(2, "pong")), (0, 0));
}

#[test]
fn a_turn_takes_a_share_of_each_and_the_rest_goes_on_without_more_bytes() {
    let mut rig = Rig::new(Limits { requests_per_turn_max: 10, ..Limits::default() });
    (0..2).for_each(|slot| rig.greeted(slot));
    rig.receive(0, &text(PING).repeat(95));
    rig.receive(0, &text(PING).repeat(5));
    rig.receive(1, &text(PING));
    let pongs = |rig: &Rig, slot| rig.count(slot, r#""type":"pong""#);
    let mut turns = 0;
    loop {
        let before = pongs(&rig, 0);
        rig.turn();
        turns += 1;
        assert!(pongs(&rig, 0) <= before + 20, "a share of the last turn and one of this");
        assert_eq!(pongs(&rig, 1), 1);
        rig.take(0);
        if !rig.connections.has_backlog() {
            break;
        }
    }
    rig.turn();
    assert_eq!((pongs(&rig, 0), rig.held_bytes()), (100, 0));
    assert!((9..=11).contains(&turns), "{turns} turns");
}

#[test]
fn those_with_a_backlog_are_read_in_turn_and_some_a_turn() {
    let mut rig = Rig::new(Limits { requests_per_turn_max: 10, ..Limits::default() });
    let many = 3 * reading::BACKLOG_A_TURN as u32;
    (0..many).for_each(|slot| rig.greeted(slot));
    (0..many).for_each(|slot| rig.receive(slot, &text(PING).repeat(200)));
    rig.turn();
    (0..many).for_each(|slot| rig.take(slot));
    let pongs = |rig: &Rig| (0..many).map(|slot| rig.count(slot, r#""type":"pong""#)).collect::<Vec<_>>();
    for turn in 1..=9 {
        let before: usize = pongs(&rig).iter().sum();
        rig.turn();
        (0..many).for_each(|slot| rig.take(slot));
        let now = pongs(&rig);
        assert!(now.iter().sum::<usize>() <= before + 10 * reading::BACKLOG_A_TURN);
        let (least, most) = (now.iter().min().unwrap(), now.iter().max().unwrap());
        assert!(most - least <= 20, "turn {turn}: {now:?}");
    }
}

const MINUTE_MS: u64 = 60_000;

#[test]
fn who_takes_nothing_of_what_waits_is_ended_and_who_takes_a_little_is_not() {
    let mut rig = Rig::new(Limits { idle_timeout_ms: 60_000, send_timeout_ms: 10_000, ..Limits::default() });
    for slot in 0..2 {
        rig.greeted(slot);
        rig.receive(slot, &text(PING));
        rig.connections.send_waits(slot);
    }
    // No byte comes of either, for longer than idle_timeout_ms.
    rig.pass(3 * MINUTE_MS, |rig| {
        let Rig { connections, shard, .. } = rig;
        connections.send_goes_on(1, shard);
    });
    assert_eq!((rig.is_there(0), rig.is_there(1)), (false, true));
    assert_eq!(rig.connections.counters.late_sends, 1);
}

#[test]
fn who_still_takes_what_lies_in_its_socket_is_not_idle_and_a_ping_that_it_took_is_no_sign() {
    let mut rig = Rig::new(Limits { idle_timeout_ms: 4_000, ..Limits::default() });
    (0..3).for_each(|slot| rig.greeted(slot));
    let mut untaken = 1_000_000;
    rig.pass(MINUTE_MS, |rig| {
        for id in std::mem::take(&mut rig.doubted) {
            // One takes a little each time, one nothing; of the third nothing but a ping is ever under way.
            untaken -= 1_000;
            let bytes = [untaken, 1_000_000, 0][id.slot as usize];
            rig.connections.looked(id.slot, bytes, &mut rig.shard);
        }
    });
    assert_eq!((rig.is_there(0), rig.is_there(1), rig.is_there(2)), (true, false, false));
    // What was there at an old look says nothing once the peer was heard.
    rig.receive(0, &text(PING));
    rig.turn();
    rig.connections.looked(0, 0, &mut rig.shard);
    rig.pass(MINUTE_MS + 5_000, |_| {});
    assert!(!rig.is_there(0));
}

#[test]
fn a_send_that_did_not_wait_or_is_done_has_no_deadline() {
    let limits = Limits { idle_timeout_ms: 0, send_timeout_ms: 10_000, ..Limits::default() };
    let mut rig = Rig::new(limits);
    (0..2).for_each(|slot| rig.greeted(slot));
    rig.receive(0, &text(PING));
    rig.connections.send_waits(1);
    rig.take(1);
    rig.pass(MINUTE_MS, |_| {});
    assert!(rig.is_there(0) && rig.is_there(1));
}

#[test]
fn a_message_that_is_dripped_ends_the_connection_and_pings_between_do_not_save_it() {
    let limits = Limits { message_timeout_ms: 10_000, ..Limits::default() };
    let mut rig = Rig::new(limits);
    (0..4).for_each(|slot| rig.greeted(slot));
    let ping = {
        let mut frame = Vec::new();
        write_masked_frame(&mut frame, FrameKind::Ping, [0; 4], b"alive");
        frame
    };
    // A fragment that nothing follows but pings; half a frame; a message that is whole; none.
    let fragment = [&[0x01][..], &text("{")[1..]].concat();
    rig.receive(0, &fragment);
    rig.receive(1, &text(PING)[..5]);
    rig.receive(2, &text(PING)[..5]);
    rig.receive(2, &text(PING)[5..]);
    rig.pass(MINUTE_MS, |rig| (0..4).filter(|slot| *slot != 1).for_each(|slot| rig.receive(slot, &ping)));
    let are_there: Vec<bool> = (0..4).map(|slot| rig.is_there(slot)).collect();
    assert_eq!((are_there, rig.connections.counters.late_messages), (vec![false, false, true, true], 2));
}

#[test]
fn messages_that_follow_each_other_without_a_pause_each_have_their_own_time() {
    let mut rig = Rig::new(Limits { message_timeout_ms: 10_000, ..Limits::default() });
    rig.greeted(0);
    rig.receive(0, &text(PING)[..5]);
    let rest_and_next = [&text(PING)[5..], &text(PING)[..5]].concat();
    for second in 1..60 {
        rig.pass(second * 1_000, |_| {});
        rig.receive(0, &rest_and_next);
        rig.turn();
        rig.take(0);
    }
    assert!(rig.is_there(0));
}

#[test]
fn a_message_whose_rest_the_server_holds_is_not_late() {
    let mut rig = Rig::new(Limits { message_timeout_ms: 1_000, idle_timeout_ms: 0, ..Limits::default() });
    (0..2).for_each(|slot| rig.greeted(slot));
    (0..2).for_each(|slot| rig.receive(slot, &text(PING)[..5]));
    rig.connections.table[0].held = Some(Box::default());
    rig.pass(MINUTE_MS, |_| {});
    assert_eq!((rig.is_there(0), rig.is_there(1)), (true, false));
}

#[test]
fn who_is_not_read_is_not_idle_nor_when_it_is_read_again() {
    let mut rig = Rig::new(Limits { idle_timeout_ms: 4_000, send_timeout_ms: 0, ..Limits::default() });
    rig.greeted(1);
    rig.receive(1, &text(r#"{"type":"join","room":"lobby"}"#));
    let post = text(&format!(r#"{{"type":"post","room":"lobby","body":"{}"}}"#, "x".repeat(20_000)));
    for _ in 0..10 {
        rig.receive(1, &post);
        rig.turn();
        rig.take(1);
    }
    rig.greeted(0);
    rig.receive(0, &text(FETCH).repeat(20));
    rig.pass(MINUTE_MS, |_| {});
    assert!(rig.is_there(0) && !rig.is_there(1) && rig.held_bytes() > 0);
    // Pages are taken until it is read again, and then none.
    while rig.count(0, r#""type":"page""#) < 20 {
        rig.take(0);
        rig.turn();
    }
    rig.pass(MINUTE_MS + 1_900, |_| {});
    assert!(rig.is_there(0));
    rig.pass(2 * MINUTE_MS, |_| {});
    assert!(!rig.is_there(0));
}

#[test]
fn an_idle_connection_is_small_here_too() {
    // The README's figure of bytes an idle connection stands on this and on the sizes in `chat` and `net`.
    // Sixteen of them are its address.
    assert!(size_of::<Connection>() <= 88, "{}", size_of::<Connection>());
}

#[test]
fn nothing_is_read_or_kept_while_metrics_are_collected_and_last_words_are_said() {
    let mut rig = Rig::new(Limits::default());
    rig.connections.accepted(0, ANN, 0, &mut rig.net);
    rig.receive(0, b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(rig.connections.stage(0), Stage::Asking);
    rig.receive(0, &[b'x'; 100_000]);
    rig.connections.answered(rig.connections.id(0), b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), &mut rig.net);
    assert_eq!(rig.connections.stage(0), Stage::LastWords);
    rig.receive(0, &[b'x'; 100_000]);
    assert_eq!((rig.held_bytes(), rig.connections.counters.bytes_received > 200_000), (0, true));
}

#[test]
fn where_a_connection_comes_from_is_known_while_it_is_there_and_not_of_the_one_before() {
    let mut rig = Rig::new(Limits::default());
    let addresses: [IpAddr; 2] = [ANN, "2001:db8::1".parse().unwrap()];
    for address in addresses {
        rig.connections.accepted(0, address, 0, &mut rig.net);
        let id = rig.connections.id(0);
        assert_eq!(rig.connections.address(id), Some(address));
        rig.connections.closed(0);
        assert_eq!(rig.connections.address(id), None);
    }
    rig.connections.accepted(0, ANN, 0, &mut rig.net);
    let before = ConnectionId { generation: rig.connections.id(0).generation - 1, slot: 0 };
    assert_eq!(rig.connections.address(before), None);
}
