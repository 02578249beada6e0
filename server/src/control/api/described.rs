//! What OpenAPI asks of a description and the handlers leave out.

use axum::http::StatusCode;
use utoipa::openapi::{OpenApi, RefOr};

/// Says of each answer what it is, as OpenAPI must have it: where its handler says nothing, what HTTP calls its status.
pub fn whole(mut openapi: OpenApi) -> OpenApi {
    for path in openapi.paths.paths.values_mut() {
        let operations = [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete];
        for operation in operations.into_iter().flatten() {
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    let reason = status.parse::<StatusCode>().ok().and_then(|status| status.canonical_reason());
                    reason.unwrap_or(status.as_str()).clone_into(&mut response.description);
                }
            }
        }
    }
    openapi
}
