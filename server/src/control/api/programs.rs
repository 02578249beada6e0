//! What a backend is told of programs and of the rooms where they are dear or suspended, and how it has one read again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use banter_access::api_key::ApiRights;
use banter_chat::backend::{BackendAnswer, BackendAsk};
use banter_chat::program::FaultKind;
use banter_chat::programming::dearest::{DEAREST_MAX, DearRoom};
use banter_chat::programming::{SUSPENDED_LISTED_MAX, SuspendedRoom};
use banter_protocol::error_code::ErrorCode;
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::Plane;
use super::caller::Caller;
use super::fault::{ApiFault, ErrorAnswer};
use super::operate::{ReloadedTold, reload_now};
use super::rooms::refused;
use crate::control::{Surveyed, ToControl};
use crate::metrics::CoreReport;

/// The programs of the server.
#[derive(Serialize, ToSchema)]
pub struct ProgramsTold {
    /// In no order that means anything; what is counted is since the start, over all cores.
    programs: Vec<ProgramTold>,
    /// Rooms in which a program is suspended, those first that call it again the soonest; at most 100.
    suspended: Vec<SuspendedTold>,
    /// There are others.
    more_suspended: bool,
}

/// A room that does not call its program now, since it failed there too often.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SuspendedTold {
    /// The program.
    program: String,
    /// The room.
    room: String,
    /// The core that owns it.
    core: u16,
    /// For how many milliseconds yet.
    left_ms: u64,
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
    /// Rooms in which it is suspended now.
    suspended_rooms: u64,
    /// Bytes of what its rooms in memory remember, as far as it is committed.
    state_bytes: u64,
}

/// The rooms whose programs took the most lately.
#[derive(Serialize, ToSchema)]
pub struct DearestTold {
    /// The dearest first, at most 20; none that called nothing.
    rooms: Vec<DearRoomTold>,
}

/// A room, and what its program took there in the last ten seconds and the one that goes on.
#[derive(Serialize, ToSchema)]
pub struct DearRoomTold {
    /// The program.
    program: String,
    /// The room.
    room: String,
    /// The core that owns it.
    core: u16,
    /// Calls.
    calls: u32,
    /// Units that they took.
    units: u32,
    /// Units a second of that time.
    units_per_second: u64,
    /// Units a second that the room may take; 0: there is no limit.
    units_per_second_max: u32,
    /// Calls that came to no decision.
    faults: u32,
    /// For how many milliseconds yet the program is suspended there; 0: it is not.
    suspended_ms: u64,
}

impl DearRoomTold {
    fn new(core: usize, dear: DearRoom) -> Self {
        let DearRoom { program, room, used, units_per_second, units_per_second_max, suspended_ms } = dear;
        DearRoomTold {
            program: program.into(),
            room: room.as_str().to_owned(),
            core: core as u16,
            calls: used.calls,
            units: used.units,
            units_per_second,
            units_per_second_max,
            faults: used.faults,
            suspended_ms,
        }
    }
}

/// The programs that rooms have, and what they did since the start.
#[utoipa::path(get, path = "/v1/programs", tag = "programs", responses((status = 200, body = ProgramsTold)))]
pub async fn programs(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ProgramsTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    let surveyed = survey(&plane).await?;
    let (programs, suspended) = (counted(&surveyed), suspended(&surveyed));
    let suspended_rooms: u64 = programs.iter().map(|program| program.suspended_rooms).sum();
    let more_suspended = suspended_rooms > suspended.len() as u64;
    Ok(Json(ProgramsTold { programs, suspended, more_suspended }))
}

/// The rooms whose programs took the most in the last ten seconds, over all cores.
#[utoipa::path(get, path = "/v1/programs/top", tag = "programs",
    responses((status = 200, body = DearestTold), (status = 503, body = ErrorAnswer)))]
pub async fn dearest(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<DearestTold>, ApiFault> {
    caller.must(ApiRights::OPERATE, None)?;
    let mut rooms = Vec::new();
    for (core, answer) in plane.cores.ask_all(|| BackendAsk::DearestRooms).await?.into_iter().enumerate() {
        let BackendAnswer::DearestRooms(dear) = answer else { return Err(refused(answer)) };
        rooms.extend(dear.into_iter().map(|dear| DearRoomTold::new(core, dear)));
    }
    rooms.sort_by_key(|room| std::cmp::Reverse(room.units));
    rooms.truncate(DEAREST_MAX);
    Ok(Json(DearestTold { rooms }))
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
    if !counted(&survey(&plane).await?).iter().any(|program| program.name == name) {
        return Err(ApiFault::of(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such program: GET /v1/programs lists them",
        ));
    }
    tracing::info!(by = caller.name(), program = name, "told to read programs again");
    reload_now(&plane).await.map(Json)
}

async fn survey(plane: &Plane) -> Result<Surveyed, ApiFault> {
    let (reply, surveyed) = oneshot::channel();
    // The control thread lives longer than this one.
    let _ = plane.control.send(ToControl::Surveyed(reply));
    surveyed.await.map_err(|_| ApiFault::new(ErrorCode::Draining, "the server is stopping"))
}

/// What is counted of each program, over all cores.
fn counted(surveyed: &Surveyed) -> Vec<ProgramTold> {
    let mut programs: BTreeMap<&str, ProgramTold> = BTreeMap::new();
    for (rule, counts) in known(surveyed).flat_map(|(_, core)| &core.programs) {
        let told = programs.entry(&rule.name).or_default();
        (told.name, told.digest) = (rule.name.to_string(), format!("{:016x}", rule.digest));
        told.calls += counts.calls;
        told.units += counts.units;
        told.refusals += counts.refusals;
        told.edits += counts.edits;
        told.takes += counts.takes;
        told.posts += counts.posts;
        told.suspensions += counts.suspensions;
        told.suspended_rooms += counts.suspended_rooms;
        told.state_bytes += counts.state_bytes;
        for kind in FaultKind::ALL {
            *told.faults.entry(kind.name()).or_default() += counts.faults[kind as usize];
        }
    }
    programs.into_values().collect()
}

/// The suspended rooms that the cores name, those first that call their programs again the soonest.
fn suspended(surveyed: &Surveyed) -> Vec<SuspendedTold> {
    let rooms = known(surveyed).flat_map(|(index, core)| core.suspended.iter().map(move |room| (index, room)));
    let told = |(core, room): (usize, &SuspendedRoom)| SuspendedTold {
        program: room.program.to_string(),
        room: room.room.as_str().to_owned(),
        core: core as u16,
        left_ms: room.left_ms,
    };
    let mut rooms: Vec<SuspendedTold> = rooms.map(told).collect();
    rooms.sort_by_key(|room| room.left_ms);
    rooms.truncate(SUSPENDED_LISTED_MAX);
    rooms
}

/// The cores that answered in time.
fn known(surveyed: &Surveyed) -> impl Iterator<Item = (usize, &CoreReport)> {
    surveyed.cores.iter().enumerate().filter_map(|(index, core)| Some((index, core.as_deref()?)))
}
