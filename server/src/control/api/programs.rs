//! What a backend is told of programs, and how it has one read again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use banter_access::api_key::ApiRights;
use banter_chat::program::FaultKind;
use banter_protocol::error_code::ErrorCode;
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::Plane;
use super::caller::Caller;
use super::fault::{ApiFault, ErrorAnswer};
use super::operate::{ReloadedTold, reload_now};
use crate::control::ToControl;

/// The programs of the server.
#[derive(Serialize, ToSchema)]
pub struct ProgramsTold {
    /// In no order that means anything; what is counted is since the start, over all cores.
    programs: Vec<ProgramTold>,
}

/// A program, and what it did.
#[derive(Default, Serialize, ToSchema)]
pub struct ProgramTold {
    /// Its name.
    name: String,
    /// The first bytes of the digest of its text, words and configuration.
    digest: String,
    /// Calls.
    calls: u64,
    /// Units that they took.
    units: u64,
    /// Times that it refused something.
    refusals: u64,
    /// Posts that it edited.
    edits: u64,
    /// Posts that it kept for itself.
    takes: u64,
    /// Posts of its own.
    posts: u64,
    /// Calls that came to no decision, by kind: `cpu`, `memory`, `state`, `effects`, `error`, and `suspended` for those not made.
    faults: BTreeMap<&'static str, u64>,
    /// Times that it was suspended in a room.
    suspensions: u64,
}

/// The programs that rooms have, and what they did since the start.
#[utoipa::path(get, path = "/v1/programs", tag = "programs", responses((status = 200, body = ProgramsTold)))]
pub async fn programs(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ProgramsTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    all(&plane).await.map(|programs| Json(ProgramsTold { programs }))
}

/// Reads a program's file again, as a reload does: with it all others, and what else a reload takes. A file that is no program
/// changes nothing.
#[utoipa::path(post, path = "/v1/programs/{name}/load", tag = "programs", params(("name" = String, Path)),
    responses((status = 200, body = ReloadedTold), (status = 404, body = ErrorAnswer), (status = 422, body = ErrorAnswer, description = "Nothing is changed, and why")))]
pub async fn load(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<ReloadedTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    if !all(&plane).await?.iter().any(|program| program.name == name) {
        return Err(ApiFault::of(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such program: GET /v1/programs lists them",
        ));
    }
    tracing::info!(by = caller.name(), program = name, "told to read programs again");
    reload_now(&plane).await.map(Json)
}

async fn all(plane: &Plane) -> Result<Vec<ProgramTold>, ApiFault> {
    let (reply, surveyed) = oneshot::channel();
    // The control thread lives longer than this one.
    let _ = plane.control.send(ToControl::Surveyed(reply));
    let surveyed = surveyed.await.map_err(|_| ApiFault::new(ErrorCode::Draining, "the server is stopping"))?;
    let mut programs: BTreeMap<&str, ProgramTold> = BTreeMap::new();
    for (rule, counts) in surveyed.cores.iter().flatten().flat_map(|core| &core.programs) {
        let told = programs.entry(&rule.name).or_default();
        (told.name, told.digest) = (rule.name.to_string(), format!("{:016x}", rule.digest));
        told.calls += counts.calls;
        told.units += counts.units;
        told.refusals += counts.refusals;
        told.edits += counts.edits;
        told.takes += counts.takes;
        told.posts += counts.posts;
        told.suspensions += counts.suspensions;
        for kind in FaultKind::ALL {
            *told.faults.entry(kind.name()).or_default() += counts.faults[kind as usize];
        }
    }
    Ok(programs.into_values().collect())
}
