//! The feed: every committed message as a line, for a backend that follows the whole server and goes on where it was.
//!
//! The next piece is read when the connection takes one, so that a slow reader costs the piece that it is at. It stands outside of
//! [`super::REQUESTS_MAX`] and [`super::REQUEST_MAX`], which are over with the answer's head, and has a bound of its own.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use banter_access::api_key::ApiRights;
use banter_access::pattern::Pattern;
use banter_protocol::error_code::ErrorCode;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::Plane;
use super::asked::Asked;
use super::caller::{Caller, Keys};
use super::fault::{ApiFault, ErrorAnswer};
use super::frontier::Following;
use super::seats::{Seat, Seats};
use crate::control::CoreLink;
use crate::control::feeds::FeedState;
use crate::core::rare_line::RareLine;
use crate::storage::feed::{Cursor, FeedLog, FeedReader, Frontier, OpenFault, Origin, READ_RETRY, Stepped};

/// Quiet behind which a line says that the feed lives, and how far it has come.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Behind its last line, so that it is sent before the server may end.
const LAST_LINE_PAUSE: Duration = Duration::from_millis(20);
/// The cursor that stands for the oldest message.
const START: &str = "start";

/// Which part of the log.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FeedWanted {
    /// The `cursor` of the last line that was handled: what comes behind it is told. `start`: from the oldest message that is kept.
    /// Without it, from now on.
    cursor: Option<String>,
    /// Only messages of these rooms: a name, or the begin of names with a `*`.
    rooms: Option<String>,
}

impl FeedWanted {
    fn origin(&self) -> Result<Origin, ApiFault> {
        match self.cursor.as_deref() {
            None => Ok(Origin::Now),
            Some(START) => Ok(Origin::Oldest),
            Some(text) => {
                let cursor = Cursor::decode(text);
                cursor.map(Origin::Cursor).map_err(|fault| ApiFault::bad_request(format!("`cursor`: {fault}")))
            }
        }
    }

    fn pattern(&self) -> Result<Option<Pattern>, ApiFault> {
        let pattern = self.rooms.as_deref().map(Pattern::new).transpose();
        let pattern = pattern.map_err(|fault| ApiFault::invalid(format!("`rooms`: {fault}")))?;
        match pattern {
            Some(pattern) if pattern.as_str().contains('{') => {
                Err(ApiFault::invalid("`rooms`: a feed has no user who {user} could stand for"))
            }
            pattern => Ok(pattern),
        }
    }
}

/// What all feeds share.
pub struct Feeds {
    log: Arc<FeedLog>,
    following: Arc<Following>,
    seats: Arc<Seats>,
    state: Arc<FeedState>,
}

impl Feeds {
    /// Of that log, which these cores write.
    pub fn new(log: FeedLog, cores: &[CoreLink], state: Arc<FeedState>) -> Self {
        let following = Following::new(cores.to_vec());
        Feeds { log: log.into(), following: following.into(), seats: Arc::default(), state }
    }

    async fn open(&self, origin: Origin, seat: Seat) -> Result<(Held, watch::Receiver<Frontier>), ApiFault> {
        let frontier = self.following.begin().await?;
        let (log, now) = (self.log.clone(), frontier.borrow().clone());
        let open = move || FeedReader::open(log, origin, &now, std::time::Instant::now());
        let opened = tokio::task::spawn_blocking(open).await;
        let reader = opened.map_err(|_| stopping())?.map_err(|fault| match fault {
            OpenFault::OtherLog => ApiFault::of(StatusCode::CONFLICT, "wrong_log", fault.to_string()),
            OpenFault::Lanes { .. } => ApiFault::bad_request(format!("`cursor`: {fault}")),
            OpenFault::Disk(_) => ApiFault::new(ErrorCode::Unavailable, fault.to_string()).again_in(1_000),
        })?;
        Ok((Held { reader, _seat: seat }, frontier))
    }
}

fn stopping() -> ApiFault {
    ApiFault::new(ErrorCode::Draining, "the server is stopping: go on from your cursor once it is back").again_in(1_000)
}

/// Every committed message of the server as a line of NDJSON, without end, each core's log in its order: so each room's messages come in
/// theirs. What is told behind a cursor may have been told before it too.
#[utoipa::path(get, path = "/v1/feed", tag = "rooms", params(FeedWanted),
    responses((status = 200, content_type = "application/x-ndjson", description = "Lines: `message`, `gap`, `heartbeat`, `end`; see docs/api.md"),
        (status = 400, body = ErrorAnswer, description = "The cursor is none"),
        (status = 409, body = ErrorAnswer, description = "`wrong_log`: the cursor is of another log"),
        (status = 501, body = ErrorAnswer, description = "`no_log`: no room of this server is logged"),
        (status = 503, body = ErrorAnswer, description = "As many feeds as may be are open, or the key has its share, or the server is stopping")))]
pub async fn feed(
    State(plane): State<Arc<Plane>>,
    Extension(caller): Extension<Caller>,
    Asked(wanted): Asked<FeedWanted>,
) -> Result<Response, ApiFault> {
    caller.must_somewhere(ApiRights::READ)?;
    let (origin, pattern) = (wanted.origin()?, wanted.pattern()?);
    let Some(feeds) = &plane.feeds else {
        let message = "there is no log here to follow: this server is a node of a cluster, which has no feed yet, or every room of it is \
                       in memory only (durability)";
        return Err(ApiFault::of(StatusCode::NOT_IMPLEMENTED, "no_log", message));
    };
    let (ending, mut reloads) = (feeds.state.endings(), plane.keys.reloads());
    if *ending.borrow() {
        return Err(stopping());
    }
    // One may have come since the key was looked at.
    reloads.mark_changed();
    let seat = feeds.seats.take(caller.key_digest())?;
    let (held, frontier) = feeds.open(origin, seat).await?;
    let feed = Feed {
        held: Some(held),
        frontier,
        ending,
        reloads,
        keys: plane.keys.clone(),
        filter: Filter { caller, pattern }.into(),
        // The first line says where it begins.
        heartbeat_at: Instant::now(),
        is_over: false,
        failures: RareLine::default(),
        counted: Counted::new(feeds.state.clone()),
    };
    let head = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((head, Body::new(FeedBody { next: Box::pin(feed.next()) })).into_response())
}

/// Which rooms are told.
struct Filter {
    caller: Caller,
    pattern: Option<Pattern>,
}

impl Filter {
    fn covers(&self, room: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.matches(room, "")) && self.caller.sees(room)
    }
}

/// The reader and its place, which stays taken while a piece is read for who has gone.
struct Held {
    reader: FeedReader,
    _seat: Seat,
}

/// One of those that are open.
struct Counted(Arc<FeedState>);

impl Counted {
    fn new(state: Arc<FeedState>) -> Self {
        state.open.fetch_add(1, Ordering::Relaxed);
        Counted(state)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A feed on its way to one reader.
struct Feed {
    /// None while a piece is read.
    held: Option<Held>,
    frontier: watch::Receiver<Frontier>,
    ending: watch::Receiver<bool>,
    reloads: watch::Receiver<()>,
    keys: Arc<Keys>,
    filter: Arc<Filter>,
    heartbeat_at: Instant,
    /// The last line was told.
    is_over: bool,
    failures: RareLine,
    counted: Counted,
}

impl Feed {
    /// The next lines; none: it is over.
    async fn next(mut self) -> Option<(Feed, Bytes)> {
        loop {
            if self.is_over {
                tokio::time::sleep(LAST_LINE_PAUSE).await;
                return None;
            }
            if let Some(code) = self.end_code() {
                self.is_over = true;
                let line = self.line(&format!("\"type\":\"end\",\"code\":\"{code}\""))?;
                return Some((self, line));
            }
            if self.heartbeat_at <= Instant::now() {
                self.heartbeat_at = Instant::now() + HEARTBEAT;
                let line = self.line("\"type\":\"heartbeat\"")?;
                return Some((self, line));
            }
            let stepped = self.step().await?;
            if let Some(error) = stepped.as_ref().map_or_else(Some, |stepped| stepped.failure.as_ref())
                && let Some(untold) = self.failures.due(std::time::Instant::now())
            {
                tracing::warn!(%error, untold, "the log cannot be read for a feed: it is tried again, and nothing is left out");
            }
            match stepped {
                Ok(stepped) if !stepped.lines.is_empty() => {
                    self.heartbeat_at = Instant::now() + HEARTBEAT;
                    self.counted.0.messages.fetch_add(stepped.messages, Ordering::Relaxed);
                    return Some((self, stepped.lines.into()));
                }
                Ok(stepped) if stepped.is_idle => {
                    let again_at = stepped.again_at.map_or(self.heartbeat_at, Instant::from_std);
                    self.wait(again_at.min(self.heartbeat_at)).await;
                }
                Ok(_) => {}
                Err(_) => {
                    let retry_at = Instant::now() + READ_RETRY;
                    tokio::select! {
                        () = tokio::time::sleep_until(retry_at.min(self.heartbeat_at)) => {}
                        _ = self.ending.changed() => {}
                    }
                }
            }
        }
    }

    fn line(&self, head: &str) -> Option<Bytes> {
        let cursor = self.held.as_ref()?.reader.cursor();
        Some(format!("{{{head},\"cursor\":\"{cursor}\"}}\n").into())
    }

    /// Why it ends, if it does.
    fn end_code(&mut self) -> Option<&'static str> {
        if *self.ending.borrow() {
            return Some(ErrorCode::Draining.as_str());
        }
        if self.reloads.has_changed().unwrap_or(false) {
            self.reloads.mark_unchanged();
            let Ok(caller) = self.keys.renewed(&self.filter.caller) else {
                return Some(ErrorCode::Unauthorized.as_str());
            };
            if caller.must_somewhere(ApiRights::READ).is_err() {
                return Some(ErrorCode::Forbidden.as_str());
            }
            self.filter = Filter { caller, pattern: self.filter.pattern.clone() }.into();
        }
        None
    }

    /// Reads a piece on another thread; none: the server ends.
    async fn step(&mut self) -> Option<std::io::Result<Stepped>> {
        let frontier = self.frontier.borrow_and_update().clone();
        let (mut held, filter) = (self.held.take()?, self.filter.clone());
        let task = move || {
            let stepped = held.reader.step(&frontier, &|room| filter.covers(room), std::time::Instant::now());
            (held, stepped)
        };
        let (held, stepped) = tokio::task::spawn_blocking(task).await.ok()?;
        self.held = Some(held);
        Some(stepped)
    }

    /// Waits until there may be more to tell.
    async fn wait(&mut self, until: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            _ = self.frontier.changed() => {}
            _ = self.ending.changed() => {}
            _ = self.reloads.changed() => self.reloads.mark_changed(),
        }
    }
}

/// What is to come of a feed.
type Next = Pin<Box<dyn Future<Output = Option<(Feed, Bytes)>> + Send>>;

/// The answer's body, which is asked for more when the connection has taken what it had.
struct FeedBody {
    next: Next,
}

impl hyper::body::Body for FeedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match ready!(self.next.as_mut().poll(context)) {
            Some((feed, lines)) => {
                self.next = Box::pin(feed.next());
                Poll::Ready(Some(Ok(Frame::data(lines))))
            }
            None => {
                self.next = Box::pin(std::future::pending());
                Poll::Ready(None)
            }
        }
    }
}
