//! What a request to the interface says, read strictly: a room in the path, a query, a JSON body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::request::Parts;
use banter_access::guest::PROGRAM_PREFIX;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::{RoomName, UserName};
use serde::de::DeserializeOwned;

use super::fault::ApiFault;

/// The room that the path names.
pub struct InRoom(pub RoomName);

/// The user that the path names.
pub struct OfUser(pub UserName);

/// The query, in which nothing is unknown.
pub struct Asked<T>(pub T);

/// Whether a request came as a whole: from then on something may have been done for it.
#[derive(Clone, Debug, Default)]
pub struct Came(Arc<AtomicBool>);

impl Came {
    /// Whether it did.
    pub fn is_whole(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The JSON body, in which nothing is unknown, and beside which no query says anything.
pub struct Said<T>(pub T);

async fn path_part<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, ApiFault> {
    let params = RawPathParams::from_request_parts(parts, state).await;
    let params = params.map_err(|fault| ApiFault::bad_request(fault.to_string()))?;
    let part = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    part.ok_or_else(|| ApiFault::bad_request(format!("the path names no {name}")))
}

/// A room's name.
pub fn room_name(text: &str) -> Result<RoomName, ApiFault> {
    RoomName::new(text).map_err(|fault| ApiFault::new(ErrorCode::RoomNameInvalid, format!("the room's name: {fault}")))
}

/// A user's name.
pub fn user_name(text: &str) -> Result<UserName, ApiFault> {
    match UserName::new(text) {
        Ok(name) if text.starts_with(PROGRAM_PREFIX) => {
            let name = name.as_str();
            Err(ApiFault::invalid(format!("the user's name: {name} is one that only a program has")))
        }
        name => name.map_err(|fault| ApiFault::invalid(format!("the user's name: {fault}"))),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for InRoom {
    type Rejection = ApiFault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiFault> {
        room_name(&path_part(parts, state, "room").await?).map(InRoom)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfUser {
    type Rejection = ApiFault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiFault> {
        user_name(&path_part(parts, state, "user").await?).map(OfUser)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiFault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiFault> {
        let query = Query::try_from_uri(&parts.uri);
        query.map(|Query(query)| Asked(query)).map_err(|fault| ApiFault::bad_request(format!("the query: {fault}")))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Said<T> {
    type Rejection = ApiFault;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiFault> {
        if request.uri().query().is_some_and(|query| !query.is_empty()) {
            return Err(ApiFault::bad_request("this takes no query: say it in the body"));
        }
        let came = request.extensions().get::<Came>().cloned();
        let body = Bytes::from_request(request, state).await;
        came.inspect(|came| came.0.store(true, Ordering::Relaxed));
        let body = body.map_err(|fault| match fault.status().as_u16() {
            413 => ApiFault::new(ErrorCode::FrameTooLarge, "the body is larger than 1 MiB"),
            _ => ApiFault::bad_request(format!("the body: {fault}")),
        })?;
        // A list is read as an object's values in their order, which nobody means.
        if body.trim_ascii_start().first().is_some_and(|first| *first == b'[') {
            return Err(ApiFault::bad_request("the body: an object is expected, and not a list"));
        }
        let said = serde_json::from_slice(&body);
        said.map(Said).map_err(|fault| ApiFault::bad_request(format!("the body: {fault}")))
    }
}
