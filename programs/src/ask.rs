//! What a program asks for while it is called: the message, the room, its state, effects, and what its operator gave it.

use banter_chat::program::{Call, ClassName, Effect, EffectFault, Event, FaultKind, LOG_LINE_BYTES_MAX, Verdict};
use banter_chat::room_state::{StateDraft, StateFault};
use banter_protocol::ids::{RoomName, UserName};
use banter_protocol::request::BodyFormat;

use crate::arguments::{Arguments, printable};
use crate::compile::Grants;
use crate::json::{self, Token, Tokens, Unread, is_whole};
use crate::path;
use crate::random::Random;
use crate::vm::{Answer, Host, Node, Nodes, Part};

/// Verdicts that one call makes at most, of which it gives one back.
const VERDICTS_MAX: usize = 16;
/// Bytes that are read, written, copied or compared for one unit.
const BYTES_PER_UNIT: usize = 64;
/// Units of a word in a text beside its bytes: it is looked up.
const WORD_BYTES_PER_UNIT: usize = 16;
/// Units of an effect, or of a change of the state.
const CHANGE_UNITS: usize = 8;

/// Changes of the state that are moved for one unit.
const CHANGES_PER_UNIT: usize = 64;

/// What may be asked: the same numbers as in library.cpp.
mod what {
    pub const GET: u32 = 1;
    pub const SET: u32 = 2;
    pub const TABLE: u32 = 3;
    pub const REPLACE: u32 = 4;
    pub const RAW: u32 = 5;
    pub const VIEW: u32 = 6;
    pub const USER: u32 = 16;
    pub const NOW_MS: u32 = 17;
    pub const KEY: u32 = 18;
    pub const HOP: u32 = 19;
    pub const SIZE: u32 = 20;
    pub const NAME: u32 = 32;
    pub const EPOCH: u32 = 33;
    pub const HEAD: u32 = 34;
    pub const MEMBERS: u32 = 35;
    pub const HAS: u32 = 40;
    pub const POST: u32 = 41;
    pub const POST_TO: u32 = 42;
    pub const WHISPER: u32 = 43;
    pub const SIGNAL: u32 = 44;
    pub const AFTER: u32 = 45;
    pub const CANCEL: u32 = 46;
    pub const STATE_GET: u32 = 50;
    pub const STATE_SET: u32 = 51;
    pub const STATE_KEYS: u32 = 52;
    pub const RANDOM: u32 = 60;
    pub const JSON: u32 = 61;
    pub const TEXT: u32 = 62;
    pub const LOG: u32 = 63;
    pub const WORDS: u32 = 64;
    pub const REFUSE: u32 = 65;
    pub const TAKE: u32 = 66;
    pub const ROUTE: u32 = 67;
    pub const WORDS_HAS: u32 = 70;
    pub const WORDS_MASK: u32 = 71;
    pub const CONFIG: u32 = 80;
}

/// Why an ask is not answered.
pub enum No {
    /// The program may catch it.
    Error(String),
    /// It ends the call.
    Fault(FaultKind, String),
    /// There are not as many units left.
    Spent,
}

impl From<EffectFault> for No {
    fn from(fault: EffectFault) -> Self {
        No::Fault(FaultKind::Effects, fault.to_string())
    }
}

impl From<StateFault> for No {
    fn from(fault: StateFault) -> Self {
        match fault {
            StateFault::TooLarge(_) => No::Fault(FaultKind::State, fault.to_string()),
            StateFault::TooManyTimers | StateFault::TooSoon => No::Fault(FaultKind::Effects, fault.to_string()),
            StateFault::Key => No::Error(fault.to_string()),
        }
    }
}

/// A class of that name.
fn class_name(name: &str) -> Result<ClassName, No> {
    ClassName::new(name).or_else(|fault| error(fault.to_string()))
}

pub fn error<T>(text: impl Into<String>) -> Result<T, No> {
    Err(No::Error(text.into()))
}

fn no_room() -> No {
    No::Error("there is no room yet: call this within a hook".into())
}

/// What is answered, before it is borrowed from the host.
enum Said {
    Nothing,
    Bool(bool),
    Number(f64),
    /// What was written into [`Buffers::text`].
    Text,
    /// What was read into [`Buffers::tokens`], out of [`Buffers::source`].
    Tokens,
    /// What was written into [`Buffers::masked`].
    MaskedAndNumber(f64),
    SameAndNumber(f64),
    Verdict(u32),
    Words(u32),
}

/// What answers point into until the next ask.
#[derive(Default)]
pub struct Buffers {
    text: Vec<u8>,
    /// The JSON of an argument, until it is where it is to be.
    json: Vec<u8>,
    source: Vec<u8>,
    masked: String,
    tokens: Tokens,
    error: String,
}

impl Buffers {
    /// Reads a value out of JSON; what is none is nil.
    fn read(&mut self, source: &[u8], meter: &mut Meter<'_>) -> Result<Said, No> {
        meter.take_bytes(source.len())?;
        // Most of what a state has is numbers: they need no list.
        match json::scalar(source) {
            _ if meter.parts_max() == 0 => return Err(No::Spent),
            Some(Token::Number(number)) => return Ok(Said::Number(number)),
            Some(Token::Bool(value)) => return Ok(Said::Bool(value)),
            _ => {}
        }
        self.source.clear();
        self.source.extend_from_slice(source);
        match self.tokens.read(&self.source, meter.parts_max()) {
            Ok(()) => {
                // Tables charge their parts where they are made: reading them is the smaller half.
                meter.take(self.tokens.list.len() / 4)?;
                Ok(Said::Tokens)
            }
            Err(Unread::NoValue) => Ok(Said::Nothing),
            Err(Unread::TooMany) => Err(No::Spent),
        }
    }
}

/// The JSON of the event's body, as it is now; none where it is none.
fn json_body<'a>(edited: Option<&'a [u8]>, call: Option<&'a Call<'_, '_>>) -> Result<Option<&'a [u8]>, No> {
    if edited.is_some() {
        return Ok(edited);
    }
    match call.map(|call| call.event) {
        Some(Event::Post { body, .. } | Event::Signal { body, .. }) => {
            Ok((body.format == BodyFormat::Json).then_some(&body.bytes[..]))
        }
        _ => error("there is no body here"),
    }
}

/// The units of one ask.
struct Meter<'u> {
    left: u32,
    units: &'u mut u32,
}

impl Meter<'_> {
    /// Takes units ahead of what they are for.
    fn take(&mut self, units: usize) -> Result<(), No> {
        *self.units = self.units.saturating_add(u32::try_from(units).unwrap_or(u32::MAX));
        if *self.units > self.left { Err(No::Spent) } else { Ok(()) }
    }

    fn take_bytes(&mut self, bytes: usize) -> Result<(), No> {
        self.take(bytes / BYTES_PER_UNIT)
    }

    fn parts_max(&self) -> usize {
        self.left.saturating_sub(*self.units) as usize
    }
}

/// Who answers a program: in a call, or with what its operator gave it alone while its chunk runs.
pub struct Asked<'p, 'c, 'e> {
    grants: &'p Grants,
    pub call: Option<Call<'c, 'e>>,
    buffers: &'p mut Buffers,
    /// The body, once it is another one than was posted.
    pub edited: Option<Vec<u8>>,
    pub verdicts: Vec<Verdict>,
    pub fault: Option<(FaultKind, String)>,
    random: Option<Random>,
}

impl<'p, 'c, 'e> Asked<'p, 'c, 'e> {
    pub fn new(grants: &'p Grants, call: Option<Call<'c, 'e>>, buffers: &'p mut Buffers) -> Self {
        Asked { grants, call, buffers, edited: None, verdicts: Vec::new(), fault: None, random: None }
    }

    fn in_call(&mut self) -> Result<&mut Call<'c, 'e>, No> {
        self.call.as_mut().ok_or_else(no_room)
    }

    fn state(&mut self) -> Result<&mut StateDraft<'e>, No> {
        self.in_call().map(|call| &mut *call.state)
    }

    fn answer(&mut self, what: u32, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        match what {
            what::GET..=what::VIEW => self.of_body(what, arguments, meter),
            what::USER..=what::SIZE => self.of_event(what),
            what::NAME..=what::HAS => self.of_room(what, arguments),
            what::POST..=what::SIGNAL => self.effect(what, arguments, meter),
            what::AFTER..=what::CANCEL => self.timer(what, arguments, meter),
            what::STATE_GET..=what::STATE_KEYS => self.of_state(what, arguments, meter),
            what::RANDOM => self.random(arguments),
            what::LOG => self.log(arguments, meter),
            what::REFUSE..=what::ROUTE => self.verdict(what, arguments, meter),
            what::JSON => self.buffers.read(arguments.bytes(0, "json")?, meter),
            what::TEXT => {
                meter.take_bytes(arguments.size())?;
                arguments.write_json(0, &mut self.buffers.text)?;
                Ok(Said::Text)
            }
            what::WORDS => self.words(arguments),
            what::WORDS_HAS | what::WORDS_MASK => self.of_words(what, arguments, meter),
            what::CONFIG => self.buffers.read(&self.grants.config, meter),
            _ => error("there is no such function"),
        }
    }

    fn of_body(&mut self, what: u32, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        match what {
            what::GET => {
                let path = arguments.text(0, "m:get")?;
                let body = json_body(self.edited.as_deref(), self.call.as_ref())?;
                let Some(body) = body else { return Ok(Said::Nothing) };
                meter.take_bytes(body.len())?;
                let Some(found) = path::get(body, path) else { return Ok(Said::Nothing) };
                self.buffers.read(found, meter)
            }
            what::TABLE => {
                let body = json_body(self.edited.as_deref(), self.call.as_ref())?;
                let Some(body) = body else { return Ok(Said::Nothing) };
                self.buffers.read(body, meter)
            }
            what::RAW => {
                let raw = match (&self.edited, self.call.as_ref().map(|call| call.event)) {
                    (Some(edited), _) => &edited[..],
                    (None, Some(Event::Post { body, .. } | Event::Signal { body, .. })) => &body.bytes[..],
                    _ => return error("there is no body here"),
                };
                meter.take_bytes(raw.len())?;
                self.buffers.text.clear();
                self.buffers.text.extend_from_slice(raw);
                Ok(Said::Text)
            }
            what::SET => self.set(arguments, meter),
            what::REPLACE => {
                self.check_post()?;
                meter.take_bytes(arguments.size())?;
                self.edited = Some(arguments.json(0)?);
                Ok(Said::Nothing)
            }
            _ => self.view(arguments, meter),
        }
    }

    fn check_post(&mut self) -> Result<(), No> {
        match self.in_call()?.event {
            Event::Post { .. } => Ok(()),
            _ => error("only a post can be edited"),
        }
    }

    fn set(&mut self, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        self.check_post()?;
        let path = arguments.text(0, "m:set")?;
        let body = json_body(self.edited.as_deref(), self.call.as_ref())?;
        let Some(body) = body else { return Ok(Said::Bool(false)) };
        // At most each name of the path copies once.
        meter.take_bytes(2 * body.len() + arguments.size())?;
        let json = &mut self.buffers.json;
        let news = if arguments.is_nil(1) { None } else { Some(arguments.write_json(1, json).map(|()| &json[..])?) };
        let Some(edited) = path::set(body, path, news) else { return Ok(Said::Bool(false)) };
        self.edited = Some(edited);
        Ok(Said::Bool(true))
    }

    fn view(&mut self, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        self.check_post()?;
        meter.take(CHANGE_UNITS)?;
        meter.take_bytes(arguments.size())?;
        let class = class_name(arguments.text(0, "m:view")?)?;
        let body = arguments.body(1, "m:view")?;
        self.in_call()?.effects.push(Effect::View(class, body))?;
        Ok(Said::Nothing)
    }

    fn of_event(&mut self, what: u32) -> Result<Said, No> {
        let call = self.call.as_ref().ok_or_else(|| No::Error("there is no event yet".into()))?;
        if what == what::NOW_MS {
            return Ok(Said::Number(call.room.now_ms as f64));
        }
        let (user, key, hop, body) = match call.event {
            Event::Post { user, key, hop, body } => (Some(*user), *key, Some(*hop), Some(*body)),
            Event::Signal { user, body } => (Some(*user), None, None, Some(*body)),
            Event::Join { user } | Event::Leave { user } => (Some(*user), None, None, None),
            Event::Fetch { user } => (*user, None, None, None),
            Event::Tick { .. } | Event::Upgrade { .. } => (None, None, None, None),
        };
        let text = match what {
            what::USER => user.map(UserName::as_str),
            what::KEY => key,
            what::HOP => return Ok(hop.map_or(Said::Nothing, |hop| Said::Number(f64::from(hop)))),
            _ => return Ok(body.map_or(Said::Nothing, |body| Said::Number(body.bytes.len() as f64))),
        };
        Ok(say_text(&mut self.buffers.text, text))
    }

    fn of_room(&mut self, what: u32, arguments: &Arguments<'_>) -> Result<Said, No> {
        let call = self.call.as_ref().ok_or_else(no_room)?;
        let room = &call.room;
        match what {
            what::NAME => Ok(say_text(&mut self.buffers.text, Some(room.name))),
            // Of 64 bits, which no number of Luau holds.
            what::EPOCH => Ok(say_text(&mut self.buffers.text, Some(itoa::Buffer::new().format(room.epoch.0)))),
            what::HEAD => Ok(Said::Number(room.head.0 as f64)),
            what::MEMBERS => Ok(Said::Number(room.members as f64)),
            what::HAS => Ok(Said::Bool((room.has)(arguments.text(0, "room.has")?))),
            _ => error("room has no such field"),
        }
    }

    fn effect(&mut self, what: u32, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        meter.take(CHANGE_UNITS)?;
        meter.take_bytes(arguments.size())?;
        let effect = match what {
            what::POST => Effect::Post(arguments.body(0, "room.post")?),
            what::SIGNAL => Effect::Signal(arguments.body(0, "room.signal")?),
            what::POST_TO => {
                let name = arguments.text(0, "room.post_to")?;
                let room = RoomName::new(name).or_else(|fault| error(format!("no name of a room: {fault}")))?;
                Effect::PostTo(room, arguments.body(1, "room.post_to")?)
            }
            what::WHISPER => {
                let name = arguments.text(0, "room.whisper")?;
                let user = UserName::new(name).or_else(|fault| error(format!("no name of a user: {fault}")))?;
                Effect::Whisper(user, arguments.body(1, "room.whisper")?)
            }
            _ => return error("room has no such function"),
        };
        self.in_call()?.effects.push(effect)?;
        Ok(Said::Nothing)
    }

    fn timer(&mut self, what: u32, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        meter.take(CHANGE_UNITS)?;
        if what == what::CANCEL {
            let name = arguments.text(0, "room.cancel")?;
            self.state()?.cancel_timer(name);
            return Ok(Said::Nothing);
        }
        let in_ms = arguments.milliseconds(0, "room.after")?;
        let name = arguments.text(1, "room.after")?;
        self.state()?.set_timer(name, in_ms)?;
        Ok(Said::Nothing)
    }

    fn of_state(&mut self, what: u32, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        match what {
            what::STATE_GET => {
                let key = arguments.text(0, "state.get")?;
                self.in_call()?;
                let value = self.call.as_ref().and_then(|call| call.state.get(key));
                let Some(value) = value else { return Ok(Said::Nothing) };
                self.buffers.read(value, meter)
            }
            what::STATE_SET => {
                meter.take(CHANGE_UNITS)?;
                meter.take_bytes(arguments.size())?;
                // What was changed is a list in order: those behind a key move.
                meter.take(self.in_call()?.state.changed() / CHANGES_PER_UNIT)?;
                let key = arguments.text(0, "state.set")?;
                if arguments.is_nil(1) {
                    self.state()?.forget(key);
                    return Ok(Said::Nothing);
                }
                let lives_ms = match arguments.is_nil(2) {
                    true => None,
                    false => Some(arguments.milliseconds(2, "state.set")?),
                };
                arguments.write_json(1, &mut self.buffers.json)?;
                let call = self.call.as_mut().ok_or_else(no_room)?;
                call.state.set(key, &self.buffers.json, lives_ms)?;
                Ok(Said::Nothing)
            }
            _ => {
                let prefix = if arguments.is_nil(0) { "" } else { arguments.text(0, "state.keys")? };
                let draft = self.in_call()?;
                // Each key is looked at, and those that are given are sorted.
                meter.take(draft.state.count() + 1)?;
                let (tokens, source) = (&mut self.buffers.tokens, &mut self.buffers.source);
                source.clear();
                tokens.list.clear();
                let keys = self.call.as_mut().map(|call| call.state.keys(prefix)).unwrap_or_default();
                tokens.list.push(Token::List(keys.len() as u32));
                for key in keys {
                    let from = source.len();
                    source.extend_from_slice(key.as_bytes());
                    tokens.list.push(Token::Plain(from, source.len()));
                }
                Ok(Said::Tokens)
            }
        }
    }

    fn random(&mut self, arguments: &Arguments<'_>) -> Result<Said, No> {
        let seed = self.in_call()?.room.seed;
        let (first, last) = match (arguments.is_nil(0), arguments.is_nil(1)) {
            (true, _) => (0.0, 0.0),
            (false, true) => (1.0, arguments.number(0, "random")?),
            (false, false) => (arguments.number(0, "random")?, arguments.number(1, "random")?),
        };
        let is_whole = |number: f64| is_whole(number) && number.abs() <= 9_007_199_254_740_992.0;
        if !is_whole(first) || !is_whole(last) || first > last {
            return error("random wants two whole numbers, the smaller one first");
        }
        let random = self.random.get_or_insert_with(|| Random::new(seed));
        if arguments.is_nil(0) {
            return Ok(Said::Number(random.fraction()));
        }
        Ok(Said::Number(random.between(first as i64, last as i64) as f64))
    }

    fn log(&mut self, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        meter.take(CHANGE_UNITS)?;
        meter.take_bytes(arguments.size())?;
        let mut line = Vec::new();
        for number in 0..arguments.list.len() {
            if number > 0 {
                line.push(b' ');
            }
            match arguments.part(number) {
                Part::Text(text) => line.extend_from_slice(text),
                _ => line.extend_from_slice(&arguments.json(number)?),
            }
        }
        let line = printable(&line, LOG_LINE_BYTES_MAX);
        self.in_call()?.effects.push(Effect::Log(line.into()))?;
        Ok(Said::Nothing)
    }

    fn verdict(&mut self, what: u32, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        meter.take(CHANGE_UNITS)?;
        meter.take_bytes(arguments.size())?;
        self.in_call()?;
        if self.verdicts.len() >= VERDICTS_MAX {
            return error(format!("a call makes {VERDICTS_MAX} verdicts at most"));
        }
        let verdict = match what {
            what::REFUSE => arguments.refusal()?,
            what::TAKE => {
                let reply = if arguments.is_nil(0) { None } else { Some(arguments.json(0)?) };
                let max = self.in_call()?.effects.body_bytes_max();
                if reply.as_ref().is_some_and(|reply| reply.len() > max) {
                    return Err(EffectFault::TooLarge(max).into());
                }
                Verdict::Take { reply }
            }
            _ => {
                let name = arguments.text(0, "route")?;
                let room = RoomName::new(name).or_else(|fault| error(format!("no name of a room: {fault}")))?;
                self.in_call()?.effects.may_reach(&room)?;
                Verdict::Route(room)
            }
        };
        self.verdicts.push(verdict);
        Ok(Said::Verdict(self.verdicts.len() as u32 - 1))
    }

    fn words(&mut self, arguments: &Arguments<'_>) -> Result<Said, No> {
        let name = arguments.text(0, "words")?;
        match self.grants.words.iter().position(|(there, _)| there == name) {
            Some(number) => Ok(Said::Words(number as u32)),
            None => error(format!("`grants` of this program has no words `{}`", printable(name.as_bytes(), 40))),
        }
    }

    /// `words:has(text)` and `words:mask(text, mask?)`. What is no text has none of them: a body may hold anything.
    fn of_words(&mut self, what: u32, arguments: &Arguments<'_>, meter: &mut Meter<'_>) -> Result<Said, No> {
        let grants = self.grants;
        let words = match arguments.part(0) {
            Part::Number(number) => grants.words.get(number as usize).map(|(_, words)| words),
            _ => None,
        };
        let Some(words) = words else { return error("there are no such words") };
        let text = match arguments.part(1) {
            Part::Text(text) => std::str::from_utf8(text).unwrap_or_default(),
            _ => "",
        };
        meter.take(text.len() / WORD_BYTES_PER_UNIT)?;
        if what == what::WORDS_HAS {
            return Ok(Said::Bool(words.has(text)));
        }
        let mask = if arguments.is_nil(2) { "*" } else { arguments.text(2, "words:mask")? };
        let mut characters = mask.chars();
        let (Some(mask), None) = (characters.next(), characters.next()) else {
            return error("words:mask wants one character to mask with");
        };
        let count = words.mask(text, mask, &mut self.buffers.masked);
        if count == 0 {
            return Ok(Said::SameAndNumber(0.0));
        }
        Ok(Said::MaskedAndNumber(f64::from(count)))
    }
}

fn say_text(out: &mut Vec<u8>, text: Option<&str>) -> Said {
    let Some(text) = text else { return Said::Nothing };
    out.clear();
    out.extend_from_slice(text.as_bytes());
    Said::Text
}

impl Host for Asked<'_, '_, '_> {
    fn ask<'h>(
        &'h mut self,
        what: u32,
        arguments: &[Node<'_>],
        tables: &Nodes<'_>,
        left: u32,
        units: &mut u32,
    ) -> Answer<'h> {
        let arguments = Arguments { list: arguments, tables };
        let said = self.answer(what, &arguments, &mut Meter { left, units });
        let buffers = &mut *self.buffers;
        match said {
            Ok(Said::Nothing) => Answer::Nothing,
            Ok(Said::Bool(value)) => Answer::Part(Part::Bool(value)),
            Ok(Said::Number(number)) => Answer::Part(Part::Number(number)),
            Ok(Said::Text) => Answer::Part(Part::Text(&buffers.text)),
            Ok(Said::Tokens) => Answer::Tokens(&buffers.tokens, &buffers.source),
            Ok(Said::MaskedAndNumber(number)) => Answer::TextAndNumber(buffers.masked.as_bytes(), number),
            Ok(Said::SameAndNumber(number)) => Answer::SameAndNumber(number),
            Ok(Said::Verdict(number)) => Answer::Verdict(number),
            Ok(Said::Words(number)) => Answer::Words(number),
            Err(No::Error(text)) => {
                buffers.error = text;
                Answer::Error(&buffers.error)
            }
            Err(No::Fault(kind, text)) => {
                self.fault.get_or_insert((kind, text));
                Answer::Fault
            }
            Err(No::Spent) => Answer::Spent,
        }
    }
}
