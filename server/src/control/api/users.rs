//! What a backend is told of a user: its connections over all cores.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use banter_access::api_key::ApiRights;
use banter_chat::backend::{BackendAnswer, BackendAsk};
use banter_chat::people::{CONNECTIONS_LISTED_MAX, ConnectionState};
use banter_protocol::wire::WireForm;
use serde::Serialize;
use utoipa::ToSchema;

use super::Plane;
use super::asked::OfUser;
use super::caller::Caller;
use super::fault::{ApiFault, ErrorAnswer};
use super::rooms::refused;

/// The connections of a user.
#[derive(Serialize, ToSchema)]
pub struct UserTold {
    /// The user.
    user: String,
    /// Connections that it has, over all cores; 0 also of a user that nobody has ever heard of.
    count: u64,
    /// At most 100 of them, the oldest first.
    connections: Vec<ConnectionTold>,
    /// There are more than are listed.
    more: bool,
}

/// A connection.
#[derive(Serialize, ToSchema)]
pub struct ConnectionTold {
    /// What `welcome` called its session.
    session: String,
    /// The login session of its token, which can be revoked as `session`; only for keys that may operate.
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    /// `json` or `rkyv` over WebSocket, or `native`.
    form: &'static str,
    /// The core that owns it.
    core: u16,
    /// Where it comes from, or whom a trusted proxy speaks for; only for keys that may operate.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// When it said who it is, in milliseconds since 1970.
    since_ms: u64,
    /// Rooms that it reads.
    rooms_count: usize,
    /// The first 100 of them that it joined.
    rooms: Vec<String>,
    /// It reads more than 100.
    more_rooms: bool,
    /// Rooms of which it is behind, and catches up from the history.
    rooms_behind: u32,
    /// Bytes that wait to be written to it, beside the newest messages of rooms.
    waiting_bytes: u64,
}

impl ConnectionTold {
    fn new(core: usize, state: ConnectionState, caller: &Caller) -> Self {
        let ConnectionState {
            id: _,
            session,
            form,
            since_ms,
            login_session,
            rooms_count,
            rooms,
            rooms_behind,
            waiting_bytes,
            address,
        } = state;
        let may_operate = caller.may(ApiRights::OPERATE);
        ConnectionTold {
            session,
            sid: login_session.filter(|_| may_operate).map(String::from),
            form: match form {
                WireForm::Json => "json",
                WireForm::WebSocketRkyv => "rkyv",
                WireForm::Native => "native",
            },
            core: core as u16,
            address: address.filter(|_| may_operate).map(|address| address.to_string()),
            since_ms,
            rooms_count,
            more_rooms: rooms.len() < rooms_count,
            rooms: rooms.iter().map(|room| room.as_str().to_owned()).collect(),
            rooms_behind,
            waiting_bytes,
        }
    }
}

/// The connections of a user: where they are, since when, what they read, and how far behind they are. Only for keys that are
/// for all rooms; addresses and login sessions only for those that may operate the server.
#[utoipa::path(get, path = "/v1/users/{user}", tag = "users", params(("user" = String, Path)),
    responses((status = 200, body = UserTold, description = "An empty list for a user without connections"), (status = 503, body = ErrorAnswer)))]
pub async fn user(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    OfUser(user): OfUser,
) -> Result<Json<UserTold>, ApiFault> {
    caller.must(ApiRights::READ, None)?;
    let answers = plane.cores.ask_all(|| BackendAsk::User(user.clone())).await?;
    let (mut count, mut connections) = (0, Vec::new());
    for (core, answer) in answers.into_iter().enumerate() {
        let BackendAnswer::User(state) = answer else { return Err(refused(answer)) };
        count += state.count;
        connections.extend(state.connections.into_iter().map(|there| ConnectionTold::new(core, there, &caller)));
    }
    connections.sort_by_key(|there| there.since_ms);
    connections.truncate(CONNECTIONS_LISTED_MAX);
    let more = connections.len() as u64 != count;
    Ok(Json(UserTold { user: user.as_str().to_owned(), count, connections, more }))
}
