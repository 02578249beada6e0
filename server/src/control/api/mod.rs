//! The backend's interface over HTTP: a thread with a tokio of its own, which speaks to the cores by mail and to nobody else.
//!
//! ```text
//!  program ─HTTP─▶ doors (listeners, bounds) ─▶ caller (key, rate) ─▶ rooms, users, operate (handlers) ─▶ cores (mail) ─▶ a core
//! ```
//!
//! Invariants:
//! - The cores know nothing of it but values: an ask with a place for its answer. Whatever hangs here, hangs here.
//! - At each door at most [`CONNECTIONS_MAX`] connections, [`REQUESTS_MAX`] requests under way and [`REQUEST_MAX`] for each, so that what the
//!   cores hold for it is bounded.
//! - Nothing is answered 200 before it is done: a post has reached its room's level, a revocation lies on the disk.

mod asked;
mod caller;
mod cores;
mod described;
mod doors;
mod fault;
mod feed;
mod frontier;
mod log_level;
mod operate;
mod programs;
mod rooms;
mod seats;
mod status;
mod users;

use banter_chat::address::Placement;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use banter_protocol::error_code::ErrorCode;
use tokio::sync::Semaphore;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::feeds::FeedState;
use crate::control::reload::ReloadDesk;
use crate::control::revocations::{RevocationsFault, RevocationsFile};
use crate::control::{CoreLink, ToControl};
use crate::storage::feed::FeedLog;
use cores::Cores;
use fault::ApiFault;
use feed::Feeds;
use seats::FEEDS_MAX;

use asked::Came;
use caller::Door;
pub use caller::Keys;
pub use cores::{Order, Reply};
pub use doors::{DoorFault, Doors};
pub use status::StatusParts;

/// Connections of a door at a time; those above wait in the kernel.
pub const CONNECTIONS_MAX: usize = 512;
/// Requests of a door that are under way at a time.
pub const REQUESTS_MAX: usize = 256;
/// How long one request may take, its body and its answer included.
pub const REQUEST_MAX: Duration = Duration::from_secs(30);
/// Threads for what waits for a disk, or for the configuration's files, beside one for each feed.
const BLOCKING_THREADS_MAX: usize = 4 + FEEDS_MAX;
/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// What every handler has.
pub struct Plane {
    cores: Cores,
    keys: Arc<Keys>,
    control: flume::Sender<ToControl>,
    revocations: Arc<Mutex<RevocationsFile>>,
    /// Held by whoever changes them, until every core has the change.
    revoking: tokio::sync::Mutex<()>,
    /// Bytes of a frame, as at the start.
    frame_bytes_max: usize,
    reload: ReloadDesk,
    /// Who reads the log as a stream; none where there is no log.
    feeds: Option<Feeds>,
    status: StatusParts,
    /// Requests that may come over HTTP, and over the socket: who fills the one door leaves the other to the operator.
    requests: Semaphore,
    socket_requests: Semaphore,
}

impl Plane {
    /// Does something with the file of revocations on another thread, since a disk may take its time.
    async fn with_revocations<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut RevocationsFile) -> T + Send + 'static,
    ) -> Result<T, ApiFault> {
        let file = self.revocations.clone();
        let task = move || act(&mut file.lock().unwrap_or_else(PoisonError::into_inner));
        let fault = |_| ApiFault::new(ErrorCode::Unavailable, "the server is stopping");
        tokio::task::spawn_blocking(task).await.map_err(fault)
    }

    /// Changes what is revoked, on the disk and then on every core. It goes on when whoever asked has gone: else what is listed
    /// as revoked might hold nowhere.
    async fn change_revocations<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut RevocationsFile) -> Result<T, RevocationsFault> + Send + 'static,
        order: Order,
    ) -> Result<T, ApiFault> {
        let plane = self.clone();
        let task = async move {
            // Held until the cores have it too, so that they learn of what is added and lifted in the order of the file.
            let _turn = plane.revoking.lock().await;
            let done = plane.with_revocations(change).await?.map_err(ApiFault::from)?;
            plane.cores.order(&order).await?;
            Ok(done)
        };
        let fault = |_| ApiFault::new(ErrorCode::Unavailable, "the server is stopping");
        tokio::spawn(task).await.map_err(fault)?
    }
}

/// What the interface is made of.
pub struct PlaneParts {
    /// The ends to all cores.
    pub cores: Vec<CoreLink>,
    /// Which of them has which room.
    pub placement: Placement,
    /// Who may ask.
    pub keys: Arc<Keys>,
    /// To the control thread.
    pub control: flume::Sender<ToControl>,
    /// To who reads the configuration again.
    pub reload: ReloadDesk,
    /// What is revoked.
    pub revocations: RevocationsFile,
    /// Bytes of a frame.
    pub frame_bytes_max: u32,
    /// The log, where there is one.
    pub log: Option<FeedLog>,
    /// What feeds come to.
    pub feeds: Arc<FeedState>,
    /// What is told of the server beside.
    pub status: StatusParts,
}

/// Starts the thread, which ends with the process.
///
/// # Errors
/// No thread, or no runtime on it, could be made.
pub fn spawn(parts: PlaneParts, doors: Doors) -> std::io::Result<JoinHandle<()>> {
    let PlaneParts { cores, placement, keys, control, reload, revocations, frame_bytes_max, log, feeds, status } =
        parts;
    let feeds = log.map(|log| Feeds::new(log, &cores, feeds));
    let plane = Arc::new(Plane {
        cores: Cores::new(cores, placement),
        keys,
        control,
        reload,
        feeds,
        status,
        revocations: Arc::new(Mutex::new(revocations)),
        revoking: tokio::sync::Mutex::new(()),
        frame_bytes_max: frame_bytes_max as usize,
        requests: Semaphore::new(REQUESTS_MAX),
        socket_requests: Semaphore::new(REQUESTS_MAX),
    });
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()?;
    std::thread::Builder::new().name("api".into()).spawn(move || runtime.block_on(doors::serve(router(plane), doors)))
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Banter",
    description = "The interface for backends. Its words are those of docs/protocol.md; docs/api.md walks through it."
))]
struct Described;

fn routes() -> OpenApiRouter<Arc<Plane>> {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(rooms::post, rooms::messages))
        .routes(routes!(rooms::broadcast))
        .routes(routes!(rooms::signal))
        .routes(routes!(rooms::rooms))
        .routes(routes!(rooms::room))
        .routes(routes!(rooms::members))
        .routes(routes!(feed::feed))
        .routes(routes!(operate::revoke, operate::revocations, operate::lift))
        .routes(routes!(operate::kick))
        .routes(routes!(users::user))
        .routes(routes!(operate::disconnect))
        .routes(routes!(operate::drain))
        .routes(routes!(operate::reload))
        .routes(routes!(operate::metrics))
        .routes(routes!(programs::programs))
        .routes(routes!(programs::dearest))
        .routes(routes!(programs::load))
        .routes(routes!(status::status))
        .routes(routes!(log_level::log_level, log_level::set_log_level))
}

/// The interface's description, as `/openapi.json` has it.
pub fn openapi() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| described::whole(routes().into_openapi()).to_pretty_json().unwrap_or_default() + "\n");
    &TEXT
}

fn router(plane: Arc<Plane>) -> Router {
    let (router, _) = routes().split_for_parts();
    let open = Router::new()
        .route("/openapi.json", axum::routing::get(operate::described))
        .route("/healthz", axum::routing::get(operate::health))
        .route("/readyz", axum::routing::get(operate::readiness));
    router
        .route_layer(from_fn_with_state(plane.clone(), caller::admit))
        .merge(open)
        .fallback(|| async {
            ApiFault::of(StatusCode::NOT_FOUND, "not_found", "there is no such path: see /openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            ApiFault::of(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path takes another method: see /openapi.json",
            )
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(plane.clone(), bounded))
        .with_state(plane)
}

/// So many requests at a time, and so long for each.
async fn bounded(State(plane): State<Arc<Plane>>, mut request: Request, next: Next) -> Response {
    let is_socket = request.extensions().get() == Some(&Door::Socket);
    let requests = if is_socket { &plane.socket_requests } else { &plane.requests };
    let Ok(_permit) = requests.try_acquire() else {
        let message = "as many requests as may be are under way";
        return ApiFault::new(ErrorCode::Overloaded, message).again_in(1_000).into_response();
    };
    let came = Came::default();
    request.extensions_mut().insert(came.clone());
    match tokio::time::timeout(REQUEST_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) if came.is_whole() => cores::unknown().into_response(),
        Err(_) => ApiFault::new(ErrorCode::TimedOut, "the request did not come within 30 s").into_response(),
    }
}
