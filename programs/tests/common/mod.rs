//! A room to call programs in: its state is kept between calls, as a server keeps it.
#![allow(dead_code)]

use std::collections::BTreeMap;

use banter_chat::parcel::OwnedBody;
use banter_chat::policy::RoomPattern;
use banter_chat::program::{Budget, Call, Effect, Effects, Engine, Event, Fault, ProgramId, RoomFacts, Spent, Verdict};
use banter_chat::room_state::{RoomState, StateDraft};
use banter_programs::{CompileFault, Compiled, LuauEngine, Source};
use banter_protocol::ids::{Epoch, Sequence, UserName};
use banter_protocol::request::BodyFormat;
use bytes::Bytes;

/// What the server allows a call by default, but for the watch.
pub const BUDGET: Budget = Budget { units: 10_000, bytes: 262_144, watch_us: None };
const STATE_BYTES_MAX: usize = 4_096;
pub const BODY_BYTES_MAX: usize = 65_536;

/// What came of a call.
#[derive(Debug, PartialEq)]
pub struct Ended {
    pub verdict: Result<Verdict, Fault>,
    pub effects: Vec<Effect>,
    pub units: u32,
    pub is_over_time: bool,
}

impl Ended {
    /// As a line of a golden file.
    pub fn line(&self) -> String {
        let effects: Vec<String> = self.effects.iter().map(effect_line).collect();
        let verdict = match &self.verdict {
            Ok(Verdict::Edit(body)) => format!("edit {}", String::from_utf8_lossy(body)),
            Ok(Verdict::Take { reply }) => {
                format!("take {}", String::from_utf8_lossy(reply.as_deref().unwrap_or_default()))
            }
            Ok(verdict) => format!("{verdict:?}"),
            Err(fault) => format!("fault {fault}"),
        };
        format!("{verdict} | {} | {} units", effects.join(", "), self.units)
    }
}

fn effect_line(effect: &Effect) -> String {
    let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    match effect {
        Effect::Post(body) => format!("post {}", text(body)),
        Effect::PostTo(room, body) => format!("post_to {room} {}", text(body)),
        Effect::Whisper(user, body) => format!("whisper {user} {}", text(body)),
        Effect::Signal(body) => format!("signal {}", text(body)),
        Effect::View(class, body) => format!("view {} {}", class.as_str(), text(body)),
        Effect::Log(line) => format!("log {line}"),
    }
}

/// A room.
pub struct Room {
    pub state: RoomState,
    pub now_ms: u64,
    pub seed: u64,
    pub budget: Budget,
    pub members: Vec<String>,
    pub post_to: Vec<RoomPattern>,
}

impl Room {
    pub fn new() -> Self {
        Room {
            state: RoomState::default(),
            now_ms: 1_700_000_000_000,
            seed: 7,
            budget: BUDGET,
            members: vec!["ann".into(), "bob".into()],
            post_to: vec![RoomPattern::new("lobby")],
        }
    }

    /// Calls a program, and keeps what it did to the state where it came to a verdict.
    pub fn call(&mut self, engine: &mut LuauEngine, program: ProgramId, event: &Event<'_>) -> Ended {
        let members = &self.members;
        let has = |user: &str| members.iter().any(|member| member == user);
        let room = RoomFacts {
            name: "game-1",
            epoch: Epoch(u64::MAX),
            head: Sequence(41),
            members: members.len() as u64,
            now_ms: self.now_ms,
            seed: self.seed,
            has: &has,
        };
        let mut draft = StateDraft::new(&self.state, STATE_BYTES_MAX, self.now_ms);
        let mut effects = Effects::new(BODY_BYTES_MAX, &self.post_to);
        let mut spent = Spent::default();
        let call =
            Call { event, room, state: &mut draft, effects: &mut effects, budget: self.budget, spent: &mut spent };
        let verdict = engine.call(program, call);
        let (changes, effects) = match &verdict {
            Ok(_) => (Some(draft.into_changes()), effects.take()),
            Err(_) => (None, Vec::new()),
        };
        if let Some(changes) = changes {
            self.state.apply(changes);
        }
        Ended { verdict, effects, units: spent.units, is_over_time: spent.is_over_time }
    }

    pub fn post(&mut self, engine: &mut LuauEngine, program: ProgramId, user: &str, body: &str) -> Ended {
        self.post_body(engine, program, user, &json(body))
    }

    pub fn post_body(&mut self, engine: &mut LuauEngine, program: ProgramId, user: &str, body: &OwnedBody) -> Ended {
        let user = UserName::new(user).unwrap();
        self.call(engine, program, &Event::Post { user: &user, key: Some("k1"), hop: 0, body })
    }
}

pub fn json(body: &str) -> OwnedBody {
    OwnedBody { format: BodyFormat::Json, bytes: Bytes::copy_from_slice(body.as_bytes()) }
}

/// A program of that text, with a word list and a configuration.
pub fn source(name: &str, text: &str) -> Source {
    let words = BTreeMap::from([("bad".to_owned(), vec!["darn".to_owned(), "heck".to_owned()])]);
    let config = BTreeMap::from([
        ("every_ms".to_owned(), serde_json::json!(5_000)),
        ("players".to_owned(), serde_json::json!(["ann", "bob"])),
        ("sides".to_owned(), serde_json::json!({"ann": "red", "bob": "blue"})),
    ]);
    Source { name: format!("{name}.luau"), text: text.to_owned(), words, config }
}

pub fn compile(text: &str) -> Result<Compiled, CompileFault> {
    Compiled::new(&source("game", text))
}

/// An engine with those programs.
pub fn engine(texts: &[&str]) -> LuauEngine {
    let compiled: Vec<Compiled> =
        texts.iter().map(|text| compile(text).unwrap_or_else(|fault| panic!("{fault}"))).collect();
    LuauEngine::new(&compiled)
}

/// One post to a program of that text.
pub fn post_once(text: &str, body: &str) -> Ended {
    Room::new().post(&mut engine(&[text]), ProgramId(0), "ann", body)
}
