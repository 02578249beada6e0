//! What a backend does with the server and its users: revokes, takes out, drains, looks at what is counted.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use banter_access::address::Cidr;
use banter_access::api_key::ApiRights;
use banter_access::claims::TIME_SECONDS_MAX;
use banter_access::revocation::{Revocation, Subject};
use banter_access::token::{LEEWAY_SECONDS, LIFETIME_SECONDS_MAX};
use banter_protocol::error_code::ErrorCode;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

use super::Plane;
use super::asked::{Asked, InRoom, OfUser, Said, user_name};
use super::caller::Caller;
use super::cores::Order;
use super::fault::{ApiFault, ErrorAnswer};
use crate::config::{Change, Changes};
use crate::control::reload::ReloadFault;
use crate::control::revocations::RevocationsFile;
use crate::control::{AnswerTo, Asker, Question, ToControl};
use crate::wall_clock;

/// Revocations that one answer lists.
const LISTED_MAX: usize = 1_000;

/// Whom a revocation names: exactly one of these.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Named {
    /// Every token of a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// Every token of a login session (`sid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    /// One token (`jti`).
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Everybody from an address or a range of them, like `203.0.113.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

/// A revocation to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevocationToMake {
    /// Every token of a user.
    user: Option<String>,
    /// Every token of a login session (`sid`).
    session: Option<String>,
    /// One token (`jti`).
    token: Option<String>,
    /// Everybody from an address or a range of them, like `203.0.113.0/24`.
    address: Option<String>,
    /// Only tokens that were made (`iat`) in that second since 1970 or before; all without it.
    issued_before: Option<u64>,
    /// The second since 1970 at which it ends; without it, when every token that could be there today has ended
    /// (`lifetime_hours_max`).
    until: Option<u64>,
}

/// A revocation.
#[derive(Serialize, ToSchema)]
pub struct RevocationTold {
    #[serde(flatten)]
    named: Named,
    /// Only tokens that were made in that second since 1970 or before.
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<u64>,
    /// The second since 1970 at which it ends.
    until: u64,
}

/// Which revocations.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RevocationsWanted {
    /// `next` of the answer before.
    #[serde(default)]
    cursor: usize,
}

/// Revocations, the first to end first.
#[derive(Serialize, ToSchema)]
pub struct RevocationsTold {
    /// All of them.
    count: usize,
    /// Some.
    revocations: Vec<RevocationTold>,
    /// `cursor` of the next question; none: these were the last.
    next: Option<usize>,
}

/// How many were taken back.
#[derive(Serialize, ToSchema)]
pub struct Lifted {
    lifted: usize,
}

impl Named {
    fn subject(&self) -> Result<Subject, ApiFault> {
        let subject = self.named()?;
        subject.check().map_err(|fault| ApiFault::invalid(fault.to_string()))?;
        Ok(subject)
    }

    fn named(&self) -> Result<Subject, ApiFault> {
        match (&self.user, &self.session, &self.token, &self.address) {
            (Some(user), None, None, None) => user_name(user).map(Subject::User),
            (None, Some(session), None, None) => Ok(Subject::Session(session.as_str().into())),
            (None, None, Some(token), None) => Ok(Subject::Token(token.as_str().into())),
            (None, None, None, Some(address)) => {
                let range = address.parse::<Cidr>();
                range.map(Subject::Address).map_err(|fault| ApiFault::invalid(format!("`address`: {fault}")))
            }
            _ => Err(ApiFault::bad_request("say one of `user`, `session`, `token` and `address`")),
        }
    }

    fn of(subject: &Subject) -> Self {
        match subject {
            Subject::User(user) => Named { user: Some(user.as_str().to_owned()), ..Named::default() },
            Subject::Session(session) => Named { session: Some(session.as_ref().to_owned()), ..Named::default() },
            Subject::Token(token) => Named { token: Some(token.as_ref().to_owned()), ..Named::default() },
            Subject::Address(range) => Named { address: Some(range.to_string()), ..Named::default() },
        }
    }
}

impl RevocationToMake {
    fn revocation(self, now_seconds: u64, lifetime_seconds_max: Option<u64>) -> Result<Revocation, ApiFault> {
        let RevocationToMake { user, session, token, address, issued_before, until } = self;
        let subject = Named { user, session, token, address }.subject()?;
        if lifetime_seconds_max.is_none() && !matches!(subject, Subject::Address(_)) {
            let message = "no tokens are asked for ([auth] mode = \"open\"), so only an `address` can be revoked";
            return Err(ApiFault::invalid(message));
        }
        // A token may be dated ahead, and hold behind its end, by as much as clocks may differ.
        let lifetime_seconds_max = lifetime_seconds_max.unwrap_or(LIFETIME_SECONDS_MAX) + 2 * LEEWAY_SECONDS;
        let until = until.unwrap_or((now_seconds + lifetime_seconds_max).min(TIME_SECONDS_MAX));
        if until <= now_seconds {
            return Err(ApiFault::invalid("`until` is over: it is in seconds since 1970"));
        }
        Revocation::new(subject, issued_before, until).map_err(|fault| ApiFault::invalid(fault.to_string()))
    }
}

impl From<&Revocation> for RevocationTold {
    fn from(revocation: &Revocation) -> Self {
        RevocationTold {
            named: Named::of(revocation.subject()),
            issued_before: revocation.issued_before_seconds(),
            until: revocation.until_seconds(),
        }
    }
}

fn now_seconds() -> u64 {
    wall_clock::unix_ms() / 1_000
}

/// Revokes: once this is answered, it lies on the disk, every core has it, and connections that it names are being closed.
#[utoipa::path(post, path = "/v1/revocations", tag = "users", request_body = RevocationToMake,
    responses((status = 200, body = RevocationTold), (status = 507, body = ErrorAnswer)))]
pub async fn revoke(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    Said(said): Said<RevocationToMake>,
) -> Result<Json<RevocationTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    let revocation = said.revocation(now_seconds(), plane.keys.tokens_seconds_max())?;
    let (order, added) = (Order::Revoke(revocation.clone().into()), revocation.clone());
    let add = move |file: &mut RevocationsFile| file.add(&added, now_seconds()).map(drop);
    plane.change_revocations(add, order).await?;
    let until = revocation.until_seconds();
    tracing::info!(event = "revocation", by = caller.name(), until, "revoked: {}", revocation.subject());
    Ok(Json(RevocationTold::from(&revocation)))
}

/// What is revoked, the first to end first.
#[utoipa::path(get, path = "/v1/revocations", tag = "users", params(RevocationsWanted),
    responses((status = 200, body = RevocationsTold)))]
pub async fn revocations(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    Asked(wanted): Asked<RevocationsWanted>,
) -> Result<Json<RevocationsTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    let told = plane.with_revocations(move |file| {
        let count = file.all().len();
        let listed = file.all().iter().skip(wanted.cursor).take(LISTED_MAX);
        let revocations: Vec<_> = listed.map(|revocation| RevocationTold::from(&revocation)).collect();
        let end = wanted.cursor.saturating_add(revocations.len());
        RevocationsTold { count, revocations, next: (end < count).then_some(end) }
    });
    told.await.map(Json)
}

/// Takes back what is revoked of exactly that subject. Connections that were closed may come again.
#[utoipa::path(delete, path = "/v1/revocations", tag = "users", params(Named), responses((status = 200, body = Lifted)))]
pub async fn lift(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    Asked(named): Asked<Named>,
) -> Result<Json<Lifted>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    let subject = named.subject()?;
    let (order, lifting) = (Order::Lift(subject.clone().into()), subject.clone());
    let lifted = plane.change_revocations(move |file| file.lift(&lifting), order).await?;
    tracing::info!(event = "revocation", by = caller.name(), lifted, "no longer revoked: {subject}");
    Ok(Json(Lifted { lifted }))
}

/// Takes a user out of a room: each of its connections there is told `removed`, and may join again if it has the right.
#[utoipa::path(delete, path = "/v1/rooms/{room}/members/{user}", tag = "users",
    params(("room" = String, Path), ("user" = String, Path)), responses((status = 204)))]
pub async fn kick(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    InRoom(room): InRoom,
    OfUser(user): OfUser,
) -> Result<StatusCode, ApiFault> {
    caller.must(ApiRights::MODERATE, Some(room.as_str()))?;
    plane.cores.order(&Order::Kick(room.clone(), user.clone())).await?;
    let (room, user) = (room.as_str(), user.as_str());
    tracing::info!(event = "kick", by = caller.name(), room, user, "a user was taken out of a room");
    Ok(StatusCode::NO_CONTENT)
}

/// Closes every connection of a user, which may come again: revoke what it comes with first where it must not.
#[utoipa::path(post, path = "/v1/users/{user}/disconnect", tag = "users", params(("user" = String, Path)),
    responses((status = 204)))]
pub async fn disconnect(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    OfUser(user): OfUser,
) -> Result<StatusCode, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    plane.cores.order(&Order::Disconnect(user.clone())).await?;
    tracing::info!(event = "disconnect", by = caller.name(), user = user.as_str(), "a user's connections were ended");
    Ok(StatusCode::NO_CONTENT)
}

/// Stops the server in order, as SIGTERM does: newcomers are turned away, what was acknowledged is delivered.
#[utoipa::path(post, path = "/v1/drain", tag = "server", responses((status = 202)))]
pub async fn drain(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    tracing::info!(by = caller.name(), "told to drain");
    // The control thread lives longer than this one.
    let _ = plane.control.send(ToControl::Drain);
    Ok(StatusCode::ACCEPTED)
}

/// What a reload did.
#[derive(Serialize, ToSchema)]
pub struct ReloadedTold {
    /// What holds from now on.
    takes_effect: Vec<ChangeTold>,
    /// What was read, and holds from the next start on.
    needs_restart: Vec<ChangeTold>,
    /// Cores that hang, and will take it once they no longer do.
    silent_cores: Vec<u16>,
    /// Programs whose text, words or configuration is another from now on.
    programs: Vec<String>,
}

/// A value that differs.
#[derive(Serialize, ToSchema)]
pub struct ChangeTold {
    /// Its key, with the table's name ahead of it: `limits.rooms_max`.
    key: String,
    /// What held until then, as the file says it; none: it says nothing, and the default held.
    from: Option<String>,
    /// What the file says now, the same way; of a long list what differs.
    to: Option<String>,
}

impl From<&Change> for ChangeTold {
    fn from(Change { key, from, to }: &Change) -> Self {
        ChangeTold { key: key.clone(), from: from.clone(), to: to.clone() }
    }
}

/// Reads the configuration and its keys again, whole or not at all, as SIGHUP does.
#[utoipa::path(post, path = "/v1/reload", tag = "server",
    responses((status = 200, body = ReloadedTold), (status = 422, body = ErrorAnswer, description = "Nothing is changed, and why")))]
pub async fn reload(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ReloadedTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    tracing::info!(by = caller.name(), "told to reload");
    reload_now(&plane).await.map(Json)
}

/// Reloads, and says what that did.
///
/// # Errors
/// Nothing is changed, and why.
pub async fn reload_now(plane: &Plane) -> Result<ReloadedTold, ApiFault> {
    let refused = |fault: ReloadFault| match fault {
        ReloadFault::Busy => ApiFault::new(ErrorCode::Overloaded, fault.to_string()).again_in(1_000),
        ReloadFault::Stopping => ApiFault::new(ErrorCode::Draining, fault.to_string()),
        fault => ApiFault::invalid(fault.to_string()),
    };
    let answered = plane.reload.ask().map_err(refused)?;
    let answer = answered.recv_async().await;
    let reloaded = answer.unwrap_or(Err(ReloadFault::Stopping)).map_err(refused)?;
    let told = |changes: &[Change]| changes.iter().map(ChangeTold::from).collect();
    let Changes { takes_effect, needs_restart } = &reloaded.changes;
    let silent_cores = reloaded.silent_cores.iter().map(|core| core.0).collect();
    let programs = reloaded.programs.clone();
    Ok(ReloadedTold { takes_effect: told(takes_effect), needs_restart: told(needs_restart), silent_cores, programs })
}

/// Everything that is counted, as Prometheus reads it.
#[utoipa::path(get, path = "/v1/metrics", tag = "server", responses((status = 200, content_type = "text/plain")))]
pub async fn metrics(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    Ok(survey(&plane, Question::Metrics).await)
}

/// Whether every core answers.
pub async fn health(State(plane): State<Arc<Plane>>) -> Response {
    survey(&plane, Question::Health).await
}

/// Whether clients should be sent here.
pub async fn readiness(State(plane): State<Arc<Plane>>) -> Response {
    survey(&plane, Question::Readiness).await
}

/// This interface, in OpenAPI's words.
pub async fn described() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::openapi()).into_response()
}

async fn survey(plane: &Plane, question: Question) -> Response {
    let (reply, answer) = oneshot::channel();
    let _ = plane.control.send(ToControl::Asked(Asker { question, to: AnswerTo::Backend(reply) }));
    match answer.await {
        Ok((status, text)) => (StatusCode::from_u16(status).unwrap_or_default(), text).into_response(),
        Err(_) => ApiFault::new(ErrorCode::Draining, "the server is stopping").into_response(),
    }
}
