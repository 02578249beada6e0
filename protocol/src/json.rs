//! The JSON form: requests read without copying their bodies, events written byte by byte.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::event::{Event, Message};
use crate::fault::RequestFault;
use crate::features::{FeatureNames, Features};
use crate::frame::Frames;
use crate::ids::{Cursor, Epoch, JSON_INTEGER_MAX, RequestId, Sequence};
use crate::native::{Kept, as_told, read_kept};
use crate::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request, Text};

/// Arrays and objects that a body may nest. Recursive readers, browsers' among them, handle that many.
pub const DEPTH_MAX: usize = 64;

/// Every field that some request has. Which of them a request may hold is checked behind the parse, so that one pass
/// reads the text and a field in the wrong place is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    id: Option<u64>,
    #[serde(borrow)]
    user: Option<BorrowedText<'a>>,
    #[serde(borrow)]
    token: Option<BorrowedText<'a>>,
    #[serde(borrow)]
    room: Option<BorrowedText<'a>>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    before: Option<u64>,
    last: Option<u64>,
    limit: Option<u64>,
    echo: Option<bool>,
    presence: Option<bool>,
    #[serde(borrow, default, deserialize_with = "present")]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<BorrowedText<'a>>,
    #[serde(borrow)]
    features: Option<BorrowedNames<'a>>,
}

/// A text that serde borrows where nothing in it is escaped. (In `Option<Cow<str>>` it always copies.)
#[derive(Deserialize)]
#[serde(transparent)]
struct BorrowedText<'a>(#[serde(borrow)] Cow<'a, str>);

/// Names of features, of which no more are read than there may be.
struct BorrowedNames<'a>(FeatureNames<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for BorrowedNames<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = FeatureNames<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of names")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut names = FeatureNames::default();
                while let Some(BorrowedText(name)) = list.next_element()? {
                    names.push(name).map_err(A::Error::custom)?;
                }
                Ok(names)
            }
        }
        deserializer.deserialize_seq(Names).map(BorrowedNames)
    }
}

/// Keeps `null`, which is a body like any other and which `Option` would read as none.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Takes the text out of a field.
fn text<'a>(field: &mut Option<BorrowedText<'a>>) -> Option<Text<'a>> {
    field.take().map(|text| text.0)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CursorFields {
    epoch: u64,
    sequence: u64,
}

/// Only the number, for the answer to a text whose other fields are wrong.
#[derive(Deserialize)]
struct IdField {
    id: Option<u64>,
}

/// Reads a request from a text.
///
/// # Errors
/// Bad JSON, an unknown type, a wrong, missing or misplaced field, or a body nested deeper than [`DEPTH_MAX`].
pub fn read_request(text: &str) -> Result<Request<'_>, RequestFault> {
    if !is_object(text) {
        return Err(RequestFault::new(None, "a request is one JSON object"));
    }
    let mut fields: Fields<'_> = serde_json::from_str(text).map_err(|error| {
        let id = serde_json::from_str::<IdField>(text).ok().and_then(|fields| fields.id).filter(is_exact);
        RequestFault::new(id, error.to_string())
    })?;
    let id = fields.id.take();
    if !id.as_ref().is_none_or(is_exact) {
        // Told back, it might be another number by the time the client reads it.
        return Err(RequestFault::new(None, "`id` must be below 2^53"));
    }
    let fault = |message: String| RequestFault::new(id, message);
    let ask = fields.take_ask().map_err(fault)?;
    match fields.left_over() {
        Some(field) => Err(fault(format!("`{field}` does not belong in `{}`", fields.kind))),
        None => Ok(Request { id, ask }),
    }
}

/// Whether every JSON parser reads that number as it is.
fn is_exact(id: &u64) -> bool {
    *id <= JSON_INTEGER_MAX
}

/// serde would also read the fields from an array, in their order.
fn is_object(json: &str) -> bool {
    json.trim_ascii_start().starts_with('{')
}

impl<'a> Fields<'a> {
    /// Takes the fields that the type needs.
    fn take_ask(&mut self) -> Result<Ask<'a>, String> {
        Ok(match &*self.kind {
            "post" => Ask::Post { room: self.take_room()?, body: self.take_body()?, key: text(&mut self.key) },
            "signal" => Ask::Signal { room: self.take_room()?, body: self.take_body()? },
            "hello" => {
                let (user, token) = (text(&mut self.user), text(&mut self.token));
                let features = self.features.take().map_or(FeatureNames::NONE, |names| names.0);
                Ask::Hello { user: user.unwrap_or_default(), token, features }
            }
            "join" => Ask::Join {
                room: self.take_room()?,
                from: self.take_join_from()?,
                echo: self.echo.take().unwrap_or(true),
                presence: self.presence.take().unwrap_or(false),
                token: text(&mut self.token),
            },
            "fetch" => Ask::Fetch { room: self.take_room()?, from: self.take_fetch_from()?, limit: self.limit.take() },
            "members" => Ask::Members { room: self.take_room()? },
            "leave" => Ask::Leave { room: self.take_room()? },
            "renew" => Ask::Renew { token: text(&mut self.token).ok_or("`renew` needs `token`")? },
            "ping" => Ask::Ping,
            other => return Err(format!("`type` is unknown: {other:?}")),
        })
    }

    fn take_room(&mut self) -> Result<Text<'a>, String> {
        text(&mut self.room).ok_or_else(|| format!("`{}` needs `room`", self.kind))
    }

    fn take_body(&mut self) -> Result<Body<'a>, String> {
        let raw = self.body.take().ok_or_else(|| format!("`{}` needs `body`", self.kind))?.get();
        check_depth(raw.as_bytes()).map_err(|why| format!("`body`: {why}"))?;
        Ok(Body { format: BodyFormat::Json, bytes: raw.as_bytes() })
    }

    fn take_join_from(&mut self) -> Result<JoinFrom, String> {
        let last = self.last.take();
        let Some(after) = self.after.take() else { return Ok(last.map_or(JoinFrom::Now, JoinFrom::Last)) };
        if !is_object(after.get()) {
            return Err("`after` of a join must be {\"epoch\":E,\"sequence\":N}".into());
        }
        let cursor: CursorFields = serde_json::from_str(after.get())
            .map_err(|error| format!("`after` must be {{\"epoch\":E,\"sequence\":N}}: {error}"))?;
        Ok(JoinFrom::After(Cursor { epoch: Epoch(cursor.epoch), sequence: Sequence(cursor.sequence) }))
    }

    fn take_fetch_from(&mut self) -> Result<FetchFrom, String> {
        match (self.before.take(), self.after.take()) {
            (Some(before), None) => Ok(FetchFrom::Before(Sequence(before))),
            (None, Some(after)) => serde_json::from_str(after.get())
                .map(|after| FetchFrom::After(Sequence(after)))
                .map_err(|_| "`after` of a fetch must be a sequence".into()),
            _ => Err("`fetch` needs one of `before` and `after`".into()),
        }
    }

    /// A field that the type had no use for.
    fn left_over(&self) -> Option<&'static str> {
        [
            ("user", self.user.is_some()),
            ("token", self.token.is_some()),
            ("room", self.room.is_some()),
            ("after", self.after.is_some()),
            ("before", self.before.is_some()),
            ("last", self.last.is_some()),
            ("limit", self.limit.is_some()),
            ("echo", self.echo.is_some()),
            ("presence", self.presence.is_some()),
            ("body", self.body.is_some()),
            ("key", self.key.is_some()),
            ("features", self.features.is_some()),
        ]
        .into_iter()
        .find_map(|(name, is_there)| is_there.then_some(name))
    }
}

/// Checks that bytes are one JSON value that a text may hold.
///
/// # Errors
/// Why they are not.
pub fn check_value(bytes: &[u8]) -> Result<(), String> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| error.to_string())?;
    check_depth(bytes)
}

/// Bounds the nesting of a valid JSON value.
fn check_depth(json: &[u8]) -> Result<(), String> {
    let opens = json.iter().filter(|&&byte| byte == b'[' || byte == b'{').count();
    if opens <= DEPTH_MAX {
        return Ok(()); // As good as always: one pass that the compiler vectorises.
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("it is nested deeper than {DEPTH_MAX}"));
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Writes the members of one JSON object, so that the events below read like what they produce.
struct Object<'o>(&'o mut Vec<u8>);

impl<'o> Object<'o> {
    fn event(out: &'o mut Vec<u8>, kind: &str) -> Self {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        Object(out)
    }

    fn name(self, name: &str) -> Self {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self
    }

    fn raw(self, name: &str, json: &[u8]) -> Self {
        let this = self.name(name);
        this.0.extend_from_slice(json);
        this
    }

    fn text(self, name: &str, text: &str) -> Self {
        let this = self.name(name);
        write_text(text, this.0);
        this
    }

    fn number(self, name: &str, number: u64) -> Self {
        self.raw(name, itoa::Buffer::new().format(number).as_bytes())
    }

    fn maybe_number(self, name: &str, number: Option<u64>) -> Self {
        match number {
            Some(number) => self.number(name, number),
            None => self,
        }
    }

    fn truth(self, name: &str, truth: bool) -> Self {
        self.raw(name, if truth { b"true" } else { b"false" })
    }

    fn id(self, id: RequestId) -> Self {
        self.maybe_number("id", id)
    }

    fn body(self, body: Body<'_>) -> Self {
        match body.format {
            BodyFormat::Json => self.raw("body", body.bytes),
            BodyFormat::Bytes => {
                self.text("body_base64", &base64::engine::general_purpose::STANDARD.encode(body.bytes))
            }
        }
    }

    fn end(self) {
        self.0.push(b'}');
    }
}

/// Appends a JSON string.
fn write_text(text: &str, out: &mut Vec<u8>) {
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else if serde_json::to_writer(&mut *out, text).is_err() {
        debug_assert!(false, "writing a text to a vector cannot fail");
    }
}

/// Appends a message as JSON.
pub fn write_message(message: &Message<'_>, out: &mut Vec<u8>) {
    let object = Object::event(out, "message")
        .text("room", message.room)
        .number("epoch", message.epoch.0)
        .number("sequence", message.sequence.0)
        .number("time_ms", message.time_ms)
        .text("user", message.user)
        .body(message.body);
    match message.key {
        Some(key) => object.text("key", key).end(),
        None => object.end(),
    }
}

/// Appends what has a place in a history as JSON. What is no message is told as a gap of one: no place goes unsaid.
pub fn write_kept(kept: &Kept<'_>, out: &mut Vec<u8>) {
    match *kept {
        Kept::Message(ref message, _) => write_message(message, out),
        Kept::Change(_) | Kept::Erased { .. } => write_event(&kept.as_gap(), out),
    }
}

/// Appends an event as JSON, for a reader who knows the base alone.
pub fn write_event(event: &Event<'_>, out: &mut Vec<u8>) {
    write_event_to(event, Features::NONE, out);
}

/// Appends an event as JSON, for a reader who agreed on these features.
pub fn write_event_to(event: &Event<'_>, agreed: Features, out: &mut Vec<u8>) {
    match *event {
        Event::Welcome { id, session, user, durability, features, limits, expires_in_ms } => {
            let object = Object::event(out, "welcome")
                .id(id)
                .text("session", session)
                .text("user", user)
                .text("durability", durability)
                .name("features");
            write_list(features.lines(), object.0, write_text);
            let object = object.name("limits");
            write_limits(limits, object.0);
            object.maybe_number("expires_in_ms", expires_in_ms).end();
        }
        Event::Nodes { nodes } => {
            let object = Object::event(out, "nodes").name("nodes");
            write_list(nodes.lines(), object.0, write_text);
            object.end();
        }
        Event::Joined { id, room, epoch, sequence, members, durability } => Object::event(out, "joined")
            .id(id)
            .text("room", room)
            .number("epoch", epoch.0)
            .number("sequence", sequence.0)
            .number("members", members)
            .text("durability", durability)
            .end(),
        Event::Posted { id, room, epoch, sequence, time_ms, duplicate } => Object::event(out, "posted")
            .id(id)
            .text("room", room)
            .number("epoch", epoch.0)
            .number("sequence", sequence.0)
            .number("time_ms", time_ms)
            .truth("duplicate", duplicate)
            .end(),
        Event::Page { id, room, epoch, messages, more } => {
            let object = Object::event(out, "page").id(id).text("room", room).number("epoch", epoch.0).name("messages");
            // What is no whole frame of a history is left out, and nothing beside it.
            let told = as_told(messages, agreed).unwrap_or(Cow::Borrowed(messages));
            write_list(Frames(&told).flatten().flat_map(read_kept), object.0, |kept, out| {
                write_kept(&kept, out);
            });
            object.truth("more", more).end();
        }
        Event::Members { id, room, count, users } => {
            let object = Object::event(out, "members").id(id).text("room", room).number("count", count).name("users");
            write_list(users.lines(), object.0, write_text);
            object.end();
        }
        Event::Taken { id, room, reply } => {
            let object = Object::event(out, "taken").id(id).text("room", room);
            match reply {
                Some(reply) => object.raw("reply", reply).end(),
                None => object.end(),
            }
        }
        Event::Left { id, room } => Object::event(out, "left").id(id).text("room", room).end(),
        Event::Renewed { id, expires_in_ms } => {
            Object::event(out, "renewed").id(id).number("expires_in_ms", expires_in_ms).end();
        }
        Event::Expiring { in_ms } => Object::event(out, "expiring").number("in_ms", in_ms).end(),
        Event::Removed { room, code } => {
            Object::event(out, "removed").text("room", room).text("code", code.as_str()).end();
        }
        Event::Pong { id } => Object::event(out, "pong").id(id).end(),
        Event::Message(ref message) => write_message(message, out),
        Event::Signal { room, user, body } => {
            Object::event(out, "signal").text("room", room).text("user", user).body(body).end();
        }
        Event::Presence { room, change, count } => {
            let object = Object::event(out, "presence").text("room", room);
            let object = match change {
                Some((user, state)) => object.text("user", user).text("state", state.as_str()),
                None => object.text("state", "counts_only"),
            };
            object.number("count", count).end();
        }
        Event::Gap { room, epoch, from, to } => Object::event(out, "gap")
            .text("room", room)
            .number("epoch", epoch.0)
            .number("from", from.0)
            .number("to", to.0)
            .number("first_available", to.next().0)
            .end(),
        Event::Closing { code, reconnect_after_ms } => Object::event(out, "closing")
            .text("code", code.as_str())
            .number("reconnect_after_ms", reconnect_after_ms)
            .end(),
        Event::Error { id, code, message, retry_after_ms, scope, reason } => {
            let object = Object::event(out, "error").id(id).text("code", code.as_str());
            let object = match reason {
                Some(reason) => object.text("reason", reason),
                None => object,
            };
            let object = object.text("message", message);
            let object = match scope {
                Some(scope) => object.text("scope", scope.as_str()),
                None => object,
            };
            object.maybe_number("retry_after_ms", retry_after_ms).end();
        }
        // WebSocket pings do this for JSON clients; a text that says so harms nobody.
        Event::KeepAlive => Object::event(out, "keep_alive").end(),
    }
}

fn write_limits(limits: &str, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (name, value)) in limits.lines().filter_map(|line| line.split_once(' ')).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(name, out);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'}');
}

fn write_list<T>(items: impl Iterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests;
