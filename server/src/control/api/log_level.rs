//! What is logged, changed while the server runs, until the configuration is read again.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use banter_access::api_key::ApiRights;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Plane;
use super::asked::Said;
use super::caller::Caller;
use super::fault::{ApiFault, ErrorAnswer};
use crate::config::parse_log;
use crate::log_lines::FilterTexts;

/// Bytes of a filter: each line that may be logged is held against it.
pub const LOG_FILTER_BYTES_MAX: usize = 1_024;

/// A filter of the log.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevelWanted {
    /// A level (`off`, `error`, `warn`, `info`, `debug`, `trace`), or several with targets: `info,banter=debug`. At most 1,024
    /// bytes.
    filter: String,
}

/// What is logged.
#[derive(Serialize, ToSchema)]
pub struct LogLevelTold {
    /// The filter that holds.
    filter: String,
    /// What the configuration says. A reload has it hold again.
    configured: String,
}

impl From<FilterTexts> for LogLevelTold {
    fn from(FilterTexts { now, configured }: FilterTexts) -> Self {
        LogLevelTold { filter: now, configured }
    }
}

/// What is logged now, and what the configuration says.
#[utoipa::path(get, path = "/v1/log-level", tag = "server", responses((status = 200, body = LogLevelTold)))]
pub async fn log_level(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<LogLevelTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    Ok(Json(plane.status.log.texts().into()))
}

/// Changes what is logged, at once and until the configuration is read again.
#[utoipa::path(post, path = "/v1/log-level", tag = "server", request_body = LogLevelWanted,
    responses((status = 200, body = LogLevelTold), (status = 422, body = ErrorAnswer, description = "Nothing is changed, and why")))]
pub async fn set_log_level(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    Said(LogLevelWanted { filter }): Said<LogLevelWanted>,
) -> Result<Json<LogLevelTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    if filter.len() > LOG_FILTER_BYTES_MAX {
        return Err(ApiFault::invalid(format!("`filter` has more than {LOG_FILTER_BYTES_MAX} bytes")));
    }
    let filter = parse_log(&filter).map_err(|must| ApiFault::invalid(format!("`filter` {must}")))?;
    // By whichever of the two filters lets it pass: the one may end the log, and the other may begin it.
    let say = || tracing::info!(event = "log_level", by = caller.name(), filter, "what is logged was changed");
    let is_told = tracing::enabled!(tracing::Level::INFO);
    if is_told {
        say();
    }
    let log = &plane.status.log;
    log.set(&filter).map_err(|must| ApiFault::invalid(format!("`filter` {must}")))?;
    if !is_told {
        say();
    }
    Ok(Json(log.texts().into()))
}
