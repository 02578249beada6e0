//! A log that holds every kind of record, read by clients that know messages only: in each form, by each way, a place that
//! holds something else is a gap of one, and a state is not seen at all.

use std::collections::BTreeMap;

use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core, Now, Placement};
use banter_chat::limits::Limits;
use banter_chat::logs::{LogConfig, LogId};
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_log::block::{BlockPlace, BlockWriter};
use banter_log::catalog::{Catalog, Epochs, Past};
use banter_log::index::{Chain, Entry, IndexBuilder, Opening};
use banter_log::journal::{Answer, Ask as DiskAsk, JournalParts};
use banter_log::reading::{FileRange, LogFile};
use banter_log::record::{Author, Level, Record, RecordKind, room_tag};
use banter_log::segment::{Class, SegmentHeader};
use banter_protocol::event::{Event, Message};
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::frame::{Frame, Frames};
use banter_protocol::ids::{Cursor, Epoch, RoomId, Sequence};
use banter_protocol::native::{self, Change, Kept, State, Views, write_kept, write_state};
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::websocket::{Incoming, Role, WebSocketReader};
use banter_protocol::wire::WireForm;

const ROOM: &str = "lobby";
const EPOCH: Epoch = Epoch(3);
const WALL_MS: u64 = 1_700_000_000_000;
const AUTHOR: Author = Author { core: 0, slot: 1, generation: 1 };
/// What the room has, each a block: a message is its place, the others have the places between.
const LOG: [RecordKind; 9] = [
    RecordKind::Change,
    RecordKind::Message,
    RecordKind::State,
    RecordKind::Change,
    RecordKind::Tombstone,
    RecordKind::Message,
    RecordKind::State,
    RecordKind::Change,
    RecordKind::Viewed,
];
/// The same as everybody is told of it.
const TOLD: [&str; 7] = ["gap 1", "message 2", "gap 3", "gap 4", "message 5", "gap 6", "message 7"];

fn frame(kind: RecordKind, sequence: Sequence) -> Vec<u8> {
    let (epoch, time_ms, room, user) = (EPOCH, WALL_MS, ROOM, "ann");
    let (format, bytes) = (BodyFormat::Json, &b"\"said\""[..]);
    let (mut frame, mut views) = (Vec::new(), Vec::new());
    let kept = match kind {
        RecordKind::Message => {
            let message = Message { epoch, sequence, time_ms, room, user, key: None, body: Body { format, bytes } };
            Kept::Message(message, Views::default())
        }
        RecordKind::Viewed => {
            assert!(Views::write("red", b"\"for red\"", &mut views));
            let message = Message { epoch, sequence, time_ms, room, user, key: None, body: Body { format, bytes } };
            Kept::Message(message, Views::read(&views).unwrap())
        }
        RecordKind::Change => {
            Kept::Change(Change { epoch, sequence, time_ms, room, user, target: Sequence(1), what: 1, body: bytes })
        }
        RecordKind::Tombstone => Kept::Erased { room, epoch, sequence },
        RecordKind::State => {
            write_state(&State { epoch, sequence, time_ms, room, body: bytes }, &mut frame);
            return frame;
        }
    };
    write_kept(&kept, &mut frame);
    frame
}

/// A sealed segment and its index.
struct Disk {
    segment: Vec<u8>,
    index: Vec<u8>,
    catalog: Catalog,
}

impl Disk {
    fn new() -> Self {
        let class = Class::SERVER;
        let header =
            SegmentHeader { id: 1, nonce: 9, core: 0, class, run: 1, made_unix_ms: WALL_MS, file_bytes: 1 << 20 };
        let (mut segment, mut place) = (header.write(), BlockPlace::first_of(header));
        let (mut index, mut sequence) = (IndexBuilder::default(), Sequence(0));
        for kind in LOG {
            sequence = if kind.is_numbered() { sequence.next() } else { sequence };
            let frame = frame(kind, sequence);
            let message = Record::message(RoomId::of(ROOM), Level::Synced, AUTHOR, &frame);
            let record = Record { kind, room_tag: room_tag(RoomId::of(ROOM)), ..message };
            let mut block = BlockWriter::of(&header);
            let at = place.offset + block.push(&record) as u64;
            let (entry, name) = Entry::read(&record, RoomId::of).unwrap();
            index.add(&entry, at, || Opening { name: name.into(), chain: Chain::default() });
            let (bytes, behind) = block.finish(&place);
            segment.extend_from_slice(&bytes);
            place = behind;
        }
        segment.resize(header.file_bytes as usize, 0);
        let mut catalog = Catalog::default();
        catalog.add_segment(header, index.len() as u32, index.newest_ms());
        index.parts().for_each(|part| assert_eq!(catalog.add_part(&header, part, &Past::default()), None));
        catalog.set_epochs(Epochs { blank_synced: EPOCH, blank_written: EPOCH, lowered: EPOCH, dropped: EPOCH });
        catalog.begin(WALL_MS);
        Disk { segment, index: index.encode(&header, place.offset, true), catalog }
    }

    fn read(&self, range: FileRange) -> Vec<u8> {
        let all = if range.file == LogFile::Segment { &self.segment } else { &self.index };
        let end = all.len().min((range.offset + range.bytes) as usize);
        all[(range.offset as usize).min(end)..end].to_vec()
    }
}

/// A core with that log, and one client.
struct Server {
    shard: Shard,
    disk: Disk,
    form: WireForm,
    sent: bool,
    heard: Vec<u8>,
}

const CLIENT: ConnectionId = ConnectionId { slot: 0, generation: 1 };

impl Server {
    fn new(form: WireForm, limits: Limits) -> Self {
        let mut disk = Disk::new();
        let journal = JournalParts {
            run: 2,
            commit_bytes_max: 1 << 18,
            reads_max: 4,
            work_steps_max: 256,
            cache_bytes_max: 0,
            catalog: std::mem::take(&mut disk.catalog),
            indexes: BTreeMap::new(),
        };
        let mut shard = Shard::new(ShardConfig {
            core: Core(0),
            placement: Placement::of_one_server(1),
            limits,
            welcome: Welcome { limits: String::new(), durability: "synced", features: KNOWN, run: 2 },
            access: Access::Open,
            first_epoch: Epoch(100),
            epochs_end: Epoch(1 << 40),
            policies: RoomPolicies::all(Durability::Synced),
            post_rates: PostRates::default(),
            logs: LogConfig::local(journal),
        });
        shard.handle(CLIENT, Input::Opened { form, preface: &[] });
        let mut server = Server { shard, disk, form, sent: false, heard: Vec::new() };
        server.ask(Ask::Hello { user: "bob".into(), token: None, features: FeatureNames::NONE });
        server
    }

    /// What comes behind a request until there is nothing more.
    fn ask(&mut self, ask: Ask<'_>) -> Vec<u8> {
        self.shard.handle(CLIENT, Input::Request(&Request { id: Some(1), ask }));
        (0..40).for_each(|_| self.turn());
        std::mem::take(&mut self.heard)
    }

    fn turn(&mut self) {
        self.shard.begin_turn(Now { monotonic_ms: 7, unix_ms: WALL_MS, ..Now::default() }, []);
        if std::mem::take(&mut self.sent) {
            self.shard.handle(CLIENT, Input::Sent);
        }
        self.shard.finish_turn();
        for (_, ask) in self.shard.disk_asks() {
            if let DiskAsk::Read(range) = ask {
                let bytes = Some(self.disk.read(range));
                self.shard.disk(LogId::LOCAL, Answer::Read { range, bytes });
            }
        }
        while let Some((_, sending)) = self.shard.next_send() {
            self.heard.extend_from_slice(sending.bytes());
            self.sent = true;
        }
        *self.shard.actions_mut() = Actions::default();
    }

    /// What of it has a place.
    fn told(&self, mut bytes: Vec<u8>) -> Vec<String> {
        let mut told = Vec::new();
        if self.form == WireForm::Native {
            Frames(&bytes).for_each(|frame| tell_frame(frame.unwrap(), &mut told));
            return told;
        }
        let mut reader = WebSocketReader::new(Role::Client, 1 << 20);
        let mut at = 0;
        while at < bytes.len() {
            let (used, incoming) = reader.read(&mut bytes[at..]).unwrap();
            match incoming {
                Some(Incoming::Text(text)) => tell_json(text, &mut told),
                Some(Incoming::Binary(frame)) => tell_frame(frame, &mut told),
                other => panic!("{other:?}"),
            }
            at += used;
        }
        told
    }
}

fn tell_frame(frame: &[u8], told: &mut Vec<String>) {
    match native::read_event(Frame::read(frame, u32::MAX).unwrap().0).unwrap() {
        Event::Message(message) => told.push(format!("message {}", message.sequence.0)),
        Event::Gap { from, to, .. } if from == to => told.push(format!("gap {}", from.0)),
        Event::Page { messages, .. } => Frames(messages).for_each(|frame| tell_frame(frame.unwrap(), told)),
        Event::Joined { .. } | Event::Welcome { .. } => {}
        other => panic!("{other:?}"),
    }
}

/// The events of a text, by what of them stands behind what.
fn tell_json(text: &str, told: &mut Vec<String>) {
    for event in text.split("{\"type\":\"").skip(1) {
        let number = |name: &str| {
            let behind = event.split_once(&format!("\"{name}\":")).unwrap().1;
            behind.chars().take_while(char::is_ascii_digit).collect::<String>()
        };
        match event.split('"').next().unwrap() {
            "message" => told.push(format!("message {}", number("sequence"))),
            "gap" if number("from") == number("to") => told.push(format!("gap {}", number("from"))),
            "page" | "joined" | "welcome" => {}
            other => panic!("{other} in {text}"),
        }
    }
}

fn limits() -> Limits {
    Limits { idle_timeout_ms: 0, ..Limits::default() }
}

fn join(sequence: u64, echo: bool) -> Ask<'static> {
    let from = JoinFrom::After(Cursor { epoch: EPOCH, sequence: Sequence(sequence) });
    Ask::Join { room: ROOM.into(), from, echo, presence: false, token: None }
}

fn fetch(from: FetchFrom, limit: Option<u64>) -> Ask<'static> {
    Ask::Fetch { room: ROOM.into(), from, limit }
}

#[test]
fn who_catches_up_is_told_each_place_once_and_in_order_and_what_is_no_message_as_a_gap_of_one() {
    for form in WireForm::ALL {
        for behind in 0..=TOLD.len() {
            let mut server = Server::new(form, limits());
            let heard = server.ask(join(behind as u64, true));
            assert_eq!(server.told(heard), TOLD[behind..], "{form:?} behind {behind}");
        }
    }
}

#[test]
fn a_page_holds_every_place_that_was_asked_for_in_both_directions_and_at_every_limit() {
    for form in WireForm::ALL {
        let mut server = Server::new(form, limits());
        for limit in 1..=TOLD.len() {
            let heard = server.ask(fetch(FetchFrom::After(Sequence(0)), Some(limit as u64)));
            assert_eq!(server.told(heard), TOLD[..limit], "{form:?}");
            let heard = server.ask(fetch(FetchFrom::Before(Sequence(TOLD.len() as u64 + 1)), Some(limit as u64)));
            assert_eq!(server.told(heard), TOLD[TOLD.len() - limit..], "{form:?}");
        }
    }
}

#[test]
fn pages_of_one_place_each_get_over_every_kind() {
    for form in WireForm::ALL {
        let mut server = Server::new(form, limits());
        let told: Vec<String> = (0..TOLD.len() as u64)
            .flat_map(|after| {
                let heard = server.ask(fetch(FetchFrom::After(Sequence(after)), Some(1)));
                server.told(heard)
            })
            .collect();
        assert_eq!(told, TOLD, "{form:?}");
    }
}

#[test]
fn who_reads_without_their_own_posts_is_told_what_others_erased_and_changed() {
    for form in WireForm::ALL {
        let mut server = Server::new(form, limits());
        let heard = server.ask(join(0, false));
        assert_eq!(server.told(heard), TOLD, "{form:?}");
    }
}
