//! Why a request to the backend's interface is refused: the HTTP status says it, and the body says it with the protocol's codes.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use banter_chat::parcel::Refusal;
use banter_protocol::error_code::ErrorCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::control::revocations::RevocationsFault;

/// A refusal.
#[derive(Clone, Debug)]
pub struct ApiFault {
    status: StatusCode,
    error: ErrorBody,
}

/// What a refusal says.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// Which kind, as in docs/protocol.md, or one of the interface's own: `not_found`, `method_not_allowed`, `unknown`.
    #[schema(value_type = String)]
    code: Cow<'static, str>,
    /// For people.
    #[schema(value_type = String)]
    message: Cow<'static, str>,
    /// When to try again, in milliseconds, where that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The room, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<String>,
    /// A word for your code, where a program of the room gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The body of a refusal.
#[derive(Serialize, ToSchema)]
pub struct ErrorAnswer {
    error: ErrorBody,
}

impl ApiFault {
    /// With a code of the protocol.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::of(status_of(code), code.as_str(), message)
    }

    /// With a code of the interface's own.
    pub fn of(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        ApiFault {
            status,
            error: ErrorBody {
                code: code.into(),
                message: message.into(),
                retry_after_ms: None,
                room: None,
                reason: None,
            },
        }
    }

    /// The request cannot be read.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// The request is whole, and one of its values is none.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::of(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::BadRequest.as_str(), message)
    }

    /// About that room.
    #[must_use]
    pub fn in_room(mut self, room: &str) -> Self {
        self.error.room = Some(room.to_owned());
        self
    }

    /// To be tried again then.
    #[must_use]
    pub fn again_in(mut self, retry_after_ms: u64) -> Self {
        self.error.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// What it says, for an answer that holds several.
    pub fn into_answer(self) -> ErrorAnswer {
        ErrorAnswer { error: self.error }
    }
}

impl From<Refusal> for ApiFault {
    fn from(refusal: Refusal) -> Self {
        let mut fault = ApiFault::new(refusal.code, refusal.message);
        fault.error.retry_after_ms = refusal.retry_after_ms;
        fault.error.reason = refusal.reason.map(String::from);
        fault
    }
}

impl From<RevocationsFault> for ApiFault {
    fn from(fault: RevocationsFault) -> Self {
        let text = fault.to_string();
        match fault {
            RevocationsFault::Full(_) => {
                ApiFault::of(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Overloaded.as_str(), text)
            }
            RevocationsFault::Disk { .. } | RevocationsFault::Damaged { .. } => {
                ApiFault::new(ErrorCode::LogFailed, text)
            }
        }
    }
}

impl IntoResponse for ApiFault {
    fn into_response(self) -> Response {
        let retry_after = self.error.retry_after_ms.map(|ms| HeaderValue::from(ms.div_ceil(1_000)));
        let mut response = (self.status, Json(self.into_answer())).into_response();
        response.headers_mut().extend(retry_after.map(|seconds| (header::RETRY_AFTER, seconds)));
        response
    }
}

/// The HTTP status of a code.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadFrame | ErrorCode::BadRequest | ErrorCode::NotJoined => StatusCode::BAD_REQUEST,
        ErrorCode::RoomNameInvalid | ErrorCode::ProgramRefused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::FrameTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::Unauthorized | ErrorCode::Expired => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::KeyConflict | ErrorCode::WrongEpoch | ErrorCode::CursorAhead => StatusCode::CONFLICT,
        ErrorCode::LogFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::LogFailed | ErrorCode::ProgramFailed => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::TimedOut => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_the_code_says() {
        for (code, status) in [
            (ErrorCode::BadRequest, 400),
            (ErrorCode::Forbidden, 403),
            (ErrorCode::KeyConflict, 409),
            (ErrorCode::ProgramRefused, 422),
            (ErrorCode::ProgramFailed, 500),
            (ErrorCode::FrameTooLarge, 413),
            (ErrorCode::RateLimited, 429),
            (ErrorCode::Draining, 503),
            (ErrorCode::Overloaded, 503),
            (ErrorCode::LogFull, 507),
            (ErrorCode::LogFailed, 500),
        ] {
            assert_eq!(ApiFault::new(code, "x").into_response().status().as_u16(), status, "{code:?}");
        }
    }

    #[test]
    fn a_time_to_try_again_is_told_in_whole_seconds_too() {
        let response = ApiFault::new(ErrorCode::Overloaded, "x").again_in(1_200).into_response();
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
