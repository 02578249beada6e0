//! What a backend does with rooms: says something, reads a history, looks who is there.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use banter_access::api_key::ApiRights;
use banter_chat::address::Core;
use banter_chat::backend::{BackendAnswer, BackendAsk, LISTED_MAX, RoomState};
use banter_chat::parcel::{Answer, OwnedBody};
use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event;
use banter_protocol::ids::{PostKey, RoomName, Sequence, UserName};
use banter_protocol::json;
use banter_protocol::request::{BodyFormat, FetchFrom};
use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::Plane;
use super::asked::{Asked, InRoom, Said, room_name, user_name};
use super::caller::Caller;
use super::cores;
use super::fault::{ApiFault, ErrorAnswer};

/// Rooms that one broadcast may name.
pub const BROADCAST_ROOMS_MAX: usize = 1_000;
/// Posts of one broadcast that are under way at once, so that it does not push others' posts aside.
const BROADCAST_POSTS_MAX: usize = 64;
/// How long a broadcast may take until it says what became of it: less than a request may.
const BROADCAST_MAX: Duration = Duration::from_secs(20);
/// Bytes of a message's frame beside the body and the names: what is left of `frame_bytes_max` for them.
const FRAME_OVERHEAD_BYTES: usize = 256;
/// Messages of a page unless told otherwise.
const PAGE_MESSAGES: u32 = 50;
/// Names of a list unless told otherwise.
const LISTED: usize = 100;
/// The header that makes a post safe to repeat, as others call it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Where a list of rooms goes on: the core, in the upper bits, and a place of its table.
const CURSOR_CORE_SHIFT: u32 = 40;

/// A message to say.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageToPost {
    /// Who says it.
    user: String,
    /// What is said: any JSON value, nested at most 64 deep.
    #[schema(value_type = Option<Object>)]
    #[serde(default, deserialize_with = "present")]
    body: Option<Box<RawValue>>,
    /// What is said, as bytes in base64, instead of `body`.
    body_base64: Option<String>,
    /// Makes it safe to repeat; the same as the header `Idempotency-Key`.
    key: Option<String>,
}

/// A message to say in several rooms.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Broadcast {
    /// The rooms, each once; at most 1,000.
    rooms: Vec<String>,
    /// Who says it.
    user: String,
    /// What is said: any JSON value.
    #[schema(value_type = Option<Object>)]
    #[serde(default, deserialize_with = "present")]
    body: Option<Box<RawValue>>,
    /// What is said, as bytes in base64, instead of `body`.
    body_base64: Option<String>,
    /// Makes it safe to repeat, in each room.
    key: Option<String>,
}

/// What is told and not kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalToSend {
    /// Who tells it.
    user: String,
    /// What is told: any JSON value.
    #[schema(value_type = Option<Object>)]
    #[serde(default, deserialize_with = "present")]
    body: Option<Box<RawValue>>,
    /// What is told, as bytes in base64, instead of `body`.
    body_base64: Option<String>,
}

/// Which part of a history.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageWanted {
    /// Messages before that place; the newest without it and without `after`.
    before: Option<u64>,
    /// Messages behind that place.
    after: Option<u64>,
    /// Messages at most, from 1 on; 50 unless told otherwise, never more than `fetch_messages_max`.
    limit: Option<u32>,
}

/// Which rooms.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RoomsWanted {
    /// Whose names begin so.
    #[serde(default)]
    prefix: String,
    /// `next` of the answer before.
    #[serde(default)]
    cursor: u64,
    /// Rooms at most, from 1 on; 100 unless told otherwise, never more than 1,000.
    limit: Option<usize>,
}

/// Which members.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MembersWanted {
    /// Those whose names come behind that one.
    after: Option<String>,
    /// Names at most, from 1 on; 100 unless told otherwise, never more than 1,000.
    limit: Option<usize>,
}

/// Keeps `null`, which is a body like any other and which `Option` would read as none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// A room.
#[derive(Serialize, ToSchema)]
pub struct RoomTold {
    /// Its name.
    room: String,
    /// Its history.
    epoch: u64,
    /// Its newest message; 0: none.
    head: u64,
    /// Its oldest message that is kept; `head` + 1: none.
    first: u64,
    /// Messages that are kept.
    messages: u64,
    /// Bytes of its messages that memory holds.
    memory_bytes: u64,
    /// Connections that read it.
    readers: u64,
    /// Users that read it.
    members: u64,
    /// When its messages are acknowledged and shown.
    durability: String,
    /// The core that owns it.
    core: u16,
}

/// Rooms that are in memory.
#[derive(Serialize, ToSchema)]
pub struct RoomsTold {
    /// The rooms.
    rooms: Vec<RoomTold>,
    /// `cursor` of the next question; none: these were the last.
    next: Option<u64>,
}

/// Members of a room.
#[derive(Serialize, ToSchema)]
pub struct MembersTold {
    /// The room.
    room: String,
    /// All of them.
    count: u64,
    /// Those that were asked for, by name.
    users: Vec<String>,
    /// `after` of the next question; none: these were the last.
    next: Option<String>,
}

impl From<RoomState> for RoomTold {
    fn from(state: RoomState) -> Self {
        RoomTold {
            room: state.room.as_str().to_owned(),
            epoch: state.epoch.0,
            head: state.head.0,
            first: state.first.0,
            messages: (state.head.0 + 1).saturating_sub(state.first.0),
            memory_bytes: state.memory_bytes,
            readers: state.readers,
            members: state.members,
            durability: state.durability.name().to_owned(),
            core: state.core.0,
        }
    }
}

/// Says something in a room, which nobody has to have joined, and answers behind the room's durability level.
#[utoipa::path(post, path = "/v1/rooms/{room}/messages", tag = "rooms",
    params(("room" = String, Path), ("Idempotency-Key" = Option<String>, Header, description = "The post's key: sent again with it, also behind a crash, it is answered with the first place")),
    request_body = MessageToPost,
    responses((status = 200, description = "`posted`, or `taken` where the room's program keeps it, as docs/protocol.md has them"), (status = 409, body = ErrorAnswer), (status = 507, body = ErrorAnswer)))]
pub async fn post(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    InRoom(room): InRoom,
    headers: HeaderMap,
    Said(said): Said<MessageToPost>,
) -> Result<Response, ApiFault> {
    caller.must(ApiRights::POST, Some(room.as_str()))?;
    let MessageToPost { user, body, body_base64, key } = said;
    let key = key_of(key, &headers)?;
    let saying = Saying { user: user_name(&user)?, key, body: body_of(body, body_base64)? };
    say(&plane, room, saying).await.map(json_answer)
}

/// Says the same in many rooms; a line of the answer for each, in their order, each what a post there alone is answered.
#[utoipa::path(post, path = "/v1/broadcast", tag = "rooms", request_body = Broadcast,
    responses((status = 200, content_type = "application/x-ndjson", description = "A line a room: `posted`, or an error with the room's name")))]
pub async fn broadcast(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Said(said): Said<Broadcast>,
) -> Result<Response, ApiFault> {
    let Broadcast { rooms, user, body, body_base64, key } = said;
    if rooms.is_empty() || rooms.len() > BROADCAST_ROOMS_MAX {
        return Err(ApiFault::invalid(format!("`rooms` has to name 1 to {BROADCAST_ROOMS_MAX} rooms")));
    }
    let rooms = rooms.iter().map(|room| room_name(room).map_err(|fault| fault.in_room(room)));
    let rooms = rooms.collect::<Result<Vec<_>, _>>()?;
    rooms.iter().try_for_each(|room| caller.must(ApiRights::POST, Some(room.as_str())))?;
    let saying = Saying { user: user_name(&user)?, key: key_of(key, &headers)?, body: body_of(body, body_base64)? };
    let lines = say_everywhere(&plane, rooms, &saying).await.concat();
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// A post in each room, some at once; a line for each, in the rooms' order. Of those that have no answer when the time is over
/// nobody knows whether they were said.
async fn say_everywhere(plane: &Arc<Plane>, rooms: Vec<RoomName>, saying: &Saying) -> Vec<Vec<u8>> {
    let (until, at_once) = (Instant::now() + BROADCAST_MAX, Arc::new(Semaphore::new(BROADCAST_POSTS_MAX)));
    let unknown = |room: &RoomName| error_line(cores::unknown().in_room(room.as_str()));
    let mut lines: Vec<Vec<u8>> = rooms.iter().map(unknown).collect();
    let mut posts = JoinSet::new();
    for (index, room) in rooms.into_iter().enumerate() {
        let (plane, at_once, saying) = (plane.clone(), at_once.clone(), saying.clone());
        posts.spawn(async move {
            let _permit = at_once.acquire().await;
            let name = room.as_str().to_owned();
            let said = say(&plane, room, saying).await;
            (index, said.unwrap_or_else(|fault| error_line(fault.in_room(&name))))
        });
    }
    while let Ok(Some(done)) = tokio::time::timeout_at(until, posts.join_next()).await {
        if let Ok((index, line)) = done {
            lines[index] = line;
        }
    }
    lines.iter_mut().for_each(|line| line.push(b'\n'));
    lines
}

fn error_line(fault: ApiFault) -> Vec<u8> {
    serde_json::to_vec(&fault.into_answer()).unwrap_or_default()
}

/// Tells the members of a room something that nobody keeps.
#[utoipa::path(post, path = "/v1/rooms/{room}/signals", tag = "rooms", params(("room" = String, Path)),
    request_body = SignalToSend, responses((status = 202, description = "It was handed on")))]
pub async fn signal(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    InRoom(room): InRoom,
    Said(said): Said<SignalToSend>,
) -> Result<StatusCode, ApiFault> {
    caller.must(ApiRights::POST, Some(room.as_str()))?;
    let (user, body) = (user_name(&said.user)?, body_of(said.body, said.body_base64)?);
    check_size(&plane, &room, &user, &body)?;
    match plane.cores.ask_room(BackendAsk::Signal { room, user, body }).await? {
        BackendAnswer::Told => Ok(StatusCode::ACCEPTED),
        other => Err(refused(other)),
    }
}

/// A part of a room's history, ascending.
#[utoipa::path(get, path = "/v1/rooms/{room}/messages", tag = "rooms", params(("room" = String, Path), PageWanted),
    responses((status = 200, description = "`page`, as docs/protocol.md has it")))]
pub async fn messages(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    InRoom(room): InRoom,
    Asked(wanted): Asked<PageWanted>,
) -> Result<Response, ApiFault> {
    caller.must(ApiRights::READ, Some(room.as_str()))?;
    let from = match (wanted.before, wanted.after) {
        (Some(_), Some(_)) => return Err(ApiFault::bad_request("say `before` or `after`, not both")),
        (before, None) => FetchFrom::Before(Sequence(before.unwrap_or(u64::MAX))),
        (None, Some(after)) => FetchFrom::After(Sequence(after)),
    };
    // The core has a limit of its own, which the configuration says.
    let messages_max = limit_of(wanted.limit, PAGE_MESSAGES, u32::MAX)?;
    match plane.cores.ask_room(BackendAsk::Fetch { room, from, messages_max }).await? {
        BackendAnswer::Answer(Answer::Page { room, epoch, messages, more }) => {
            let event = Event::Page { id: None, room: room.as_str(), epoch, messages: &messages, more };
            Ok(json_answer(written(&event)))
        }
        other => Err(refused(other)),
    }
}

/// Rooms that are in memory: somebody reads them, or did lately. Those that only the log knows are told one by one.
#[utoipa::path(get, path = "/v1/rooms", tag = "rooms", params(RoomsWanted), responses((status = 200, body = RoomsTold)))]
pub async fn rooms(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    Asked(wanted): Asked<RoomsWanted>,
) -> Result<Json<RoomsTold>, ApiFault> {
    caller
        .must(ApiRights::READ, Some(&format!("{}*", wanted.prefix)))
        .or_else(|_| caller.must(ApiRights::READ, None))?;
    let rooms_max = limit_of(wanted.limit, LISTED, LISTED_MAX)?;
    let core = (wanted.cursor >> CURSOR_CORE_SHIFT) as u16;
    let from = wanted.cursor & ((1 << CURSOR_CORE_SHIFT) - 1);
    if usize::from(core) >= plane.cores.count() {
        return Err(ApiFault::invalid("`cursor` is none that this server gave"));
    }
    let ask = BackendAsk::Rooms { prefix: wanted.prefix, from, rooms_max };
    let BackendAnswer::Rooms { rooms, next } = plane.cores.ask(Core(core), ask).await? else {
        return Err(ApiFault::new(ErrorCode::Unavailable, "the core answered something else"));
    };
    let next_core = (usize::from(core) + 1 < plane.cores.count()).then(|| u64::from(core + 1) << CURSOR_CORE_SHIFT);
    let next = next.map(|slot| u64::from(core) << CURSOR_CORE_SHIFT | slot).or(next_core);
    let rooms = rooms.into_iter().filter(|room| caller.sees(room.room.as_str())).map(RoomTold::from).collect();
    Ok(Json(RoomsTold { rooms, next }))
}

/// One room, whether it is in memory or only in the log.
#[utoipa::path(get, path = "/v1/rooms/{room}", tag = "rooms", params(("room" = String, Path)),
    responses((status = 200, body = RoomTold), (status = 404, body = ErrorAnswer)))]
pub async fn room(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    InRoom(room): InRoom,
) -> Result<Json<RoomTold>, ApiFault> {
    caller.must(ApiRights::READ, Some(room.as_str()))?;
    let name = room.as_str().to_owned();
    match plane.cores.ask_room(BackendAsk::Room(room)).await? {
        BackendAnswer::Room(Some(state)) => Ok(Json(state.into())),
        other @ BackendAnswer::Answer(_) => Err(refused(other).in_room(&name)),
        _ => Err(ApiFault::of(StatusCode::NOT_FOUND, "not_found", "there is no such room").in_room(&name)),
    }
}

/// The users who read a room, by name; all of them, part by part.
#[utoipa::path(get, path = "/v1/rooms/{room}/members", tag = "rooms", params(("room" = String, Path), MembersWanted),
    responses((status = 200, body = MembersTold)))]
pub async fn members(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    InRoom(room): InRoom,
    Asked(wanted): Asked<MembersWanted>,
) -> Result<Json<MembersTold>, ApiFault> {
    caller.must(ApiRights::READ, Some(room.as_str()))?;
    let name = room.as_str().to_owned();
    let after = wanted.after.as_deref().map(user_name).transpose()?;
    let users_max = limit_of(wanted.limit, LISTED, LISTED_MAX)?;
    let answer = plane.cores.ask_room(BackendAsk::Members { room, after, users_max }).await?;
    let BackendAnswer::Members { count, users, more } = answer else { return Err(refused(answer)) };
    let users: Vec<String> = users.iter().map(|user| user.as_str().to_owned()).collect();
    let next = users.last().filter(|_| more).cloned();
    Ok(Json(MembersTold { room: name, count, users, next }))
}

/// What is said, and by whom.
#[derive(Clone)]
struct Saying {
    user: UserName,
    key: Option<PostKey>,
    body: OwnedBody,
}

async fn say(plane: &Plane, room: RoomName, saying: Saying) -> Result<Vec<u8>, ApiFault> {
    let Saying { user, key, body } = saying;
    check_size(plane, &room, &user, &body)?;
    match plane.cores.ask_room(BackendAsk::Post { room, user, key, body }).await? {
        BackendAnswer::Answer(Answer::Posted { room, epoch, sequence, time_ms, duplicate }) => {
            Ok(written(&Event::Posted { id: None, room: room.as_str(), epoch, sequence, time_ms, duplicate }))
        }
        BackendAnswer::Answer(Answer::Taken { room, reply }) => {
            Ok(written(&Event::Taken { id: None, room: room.as_str(), reply: reply.as_deref() }))
        }
        other => Err(refused(other)),
    }
}

/// A message has to fit the frame that its readers take.
fn check_size(plane: &Plane, room: &RoomName, user: &UserName, body: &OwnedBody) -> Result<(), ApiFault> {
    let frame_bytes = body.bytes.len() + room.as_str().len() + user.as_str().len() + FRAME_OVERHEAD_BYTES;
    if frame_bytes <= plane.frame_bytes_max {
        return Ok(());
    }
    Err(ApiFault::new(ErrorCode::FrameTooLarge, "with this body the message is larger than frame_bytes_max"))
}

/// How many entries of a list: as many as may be, where more are asked for.
fn limit_of<Count: PartialEq + From<u8> + Ord>(
    said: Option<Count>,
    unless_said: Count,
    max: Count,
) -> Result<Count, ApiFault> {
    match said.unwrap_or(unless_said) {
        none if none == Count::from(0) => Err(ApiFault::invalid("`limit` must be at least 1")),
        count => Ok(count.min(max)),
    }
}

fn key_of(key: Option<String>, headers: &HeaderMap) -> Result<Option<PostKey>, ApiFault> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let header = all.next().map(|value| value.to_str().map(str::to_owned));
    if all.next().is_some() {
        return Err(ApiFault::bad_request("Idempotency-Key is there twice: say one"));
    }
    let header = header.transpose().map_err(|_| ApiFault::bad_request("Idempotency-Key is no text"))?;
    let key = match (key, header) {
        (Some(key), Some(header)) if key != header => {
            return Err(ApiFault::bad_request("`key` and Idempotency-Key differ: say one of them"));
        }
        (key, header) => key.or(header),
    };
    let key = key.map(|key| PostKey::new(&key)).transpose();
    key.map_err(|fault| ApiFault::invalid(format!("the key: {fault}")))
}

fn body_of(body: Option<Box<RawValue>>, body_base64: Option<String>) -> Result<OwnedBody, ApiFault> {
    match (body, body_base64) {
        (Some(body), None) => {
            let bytes: Box<[u8]> = Box::<str>::from(body).into();
            json::check_value(&bytes).map_err(|fault| ApiFault::bad_request(format!("`body`: {fault}")))?;
            Ok(OwnedBody { format: BodyFormat::Json, bytes: Vec::from(bytes).into() })
        }
        (None, Some(text)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            let bytes = bytes.map_err(|fault| ApiFault::bad_request(format!("`body_base64`: {fault}")))?;
            Ok(OwnedBody { format: BodyFormat::Bytes, bytes: bytes.into() })
        }
        _ => Err(ApiFault::bad_request("say `body` or `body_base64`, and one of them only")),
    }
}

fn written(event: &Event<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    json::write_event(event, &mut out);
    out
}

fn json_answer(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

/// What was answered where something else was asked for.
pub fn refused(answer: BackendAnswer) -> ApiFault {
    match answer {
        BackendAnswer::Answer(
            Answer::Refused(refusal) | Answer::PostRefused(refusal) | Answer::FetchRefused(refusal),
        ) => refusal.into(),
        _ => ApiFault::new(ErrorCode::Unavailable, "the core answered something else"),
    }
}
