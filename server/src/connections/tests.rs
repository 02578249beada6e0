//! One core's connections without sockets: what is read of them, what is held, and when they are ended.

use std::net::TcpListener;

use banter_chat::address::Now;
use banter_chat::limits::Limits;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::sessions::Welcome;
use banter_chat::shard::ShardConfig;
use banter_protocol::ids::Epoch;
use banter_protocol::websocket::{FrameKind, write_masked_frame};

use super::*;

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const HELLO: &str = r#"{"type":"hello","user":"ann"}"#;
/// Its answer may be so long that nothing more is read ahead of it.
const FETCH: &str = r#"{"type":"fetch","id":1,"room":"lobby","after":0}"#;
const PING: &str = r#"{"type":"ping","id":7}"#;

/// A core whose peers take what is sent to them only when they are told to.
struct Rig {
    connections: Connections,
    shard: Shard,
    net: Net,
    now_ms: u64,
    /// What was sent to each, by slot.
    sent: Vec<(u32, Vec<u8>)>,
    _control: flume::Receiver<ToControl>,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let (to_control, control) = flume::unbounded();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            cores: 1,
            limits,
            welcome: Welcome { limits: String::new(), durability: "memory", run: 1 },
            first_epoch: Epoch(1),
            policies: RoomPolicies::all(Durability::Memory),
            journal: None,
        });
        let limits = ConnectionLimits::of(&limits, &Arc::default());
        Rig {
            connections: Connections::new(Core(0), limits, to_control),
            shard,
            net: Net::new(listener, 8, None).unwrap(),
            now_ms: 0,
            sent: Vec::new(),
            _control: control,
        }
    }

    /// A WebSocket that has said hello and took the answer.
    fn greeted(&mut self, slot: u32) {
        self.connections.accepted(slot, self.now_ms, &mut self.net);
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
        self.connections.tick(self.now_ms, &mut self.shard, &mut self.net);
        self.shard.finish_turn();
        while !self.shard.actions_mut().is_empty() {
            let mut actions = std::mem::take(self.shard.actions_mut());
            for id in actions.ready.drain(..) {
                let sending = self.shard.next_send(id);
                self.sent.extend(sending.map(|sending| (id.slot, sending.bytes().to_vec())));
            }
            for id in actions.resume.drain(..) {
                self.connections.resume(id, &mut self.shard, &mut self.net);
            }
        }
        self.shard.begin_turn(Now { monotonic_ms: self.now_ms, unix_ms: 0 }, []);
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
fn nothing_is_read_or_kept_while_metrics_are_collected_and_last_words_are_said() {
    let mut rig = Rig::new(Limits::default());
    rig.connections.accepted(0, 0, &mut rig.net);
    rig.receive(0, b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(rig.connections.stage(0), Stage::Scraping);
    rig.receive(0, &[b'x'; 100_000]);
    rig.connections.metrics(rig.connections.id(0), b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), &mut rig.net);
    assert_eq!(rig.connections.stage(0), Stage::LastWords);
    rig.receive(0, &[b'x'; 100_000]);
    assert_eq!((rig.held_bytes(), rig.connections.counters.bytes_received > 200_000), (0, true));
}
