//! Who asks the interface for something: a program with a key, or whoever may open the unix socket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use banter_access::api_key::{self, ApiKey, ApiRights};
use banter_protocol::error_code::ErrorCode;
use tokio::sync::watch;

use super::Plane;
use super::fault::ApiFault;
use crate::config::{Auth, Config};

/// Milliseconds in which the requests of a key are counted together.
const WINDOW_MS: u64 = 1_000;

/// The way by which a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// HTTP, where a key is asked for.
    Http,
    /// The unix socket, which its file's mode guards.
    Socket,
}

/// Who asks. `None`: whoever may open the socket, who may do everything.
#[derive(Clone, Debug)]
pub struct Caller(Option<ApiKey>);

impl Caller {
    /// What log lines call it.
    pub fn name(&self) -> &str {
        self.0.as_ref().map_or("socket", |key| &key.name)
    }

    /// The digest of its key.
    pub fn key_digest(&self) -> Option<[u8; 32]> {
        self.0.as_ref().map(|key| key.digest)
    }

    /// That it may do that, in that room or, without one, on the whole server.
    ///
    /// # Errors
    /// It may not.
    pub fn must(&self, right: ApiRights, room: Option<&str>) -> Result<(), ApiFault> {
        let Some(key) = &self.0 else { return Ok(()) };
        self.must_somewhere(right)?;
        let forbidden = |why: String| Err(ApiFault::new(ErrorCode::Forbidden, why));
        match room {
            Some(room) if !key.covers(room) => forbidden(format!("the key \"{}\" is not for this room", key.name)),
            None if !key.covers_all() => forbidden(format!("the key \"{}\" is for some rooms alone", key.name)),
            _ => Ok(()),
        }
    }

    /// That it may do that somewhere: what it is shown is for [`Caller::sees`] to say.
    ///
    /// # Errors
    /// It may not.
    pub fn must_somewhere(&self, right: ApiRights) -> Result<(), ApiFault> {
        let Some(key) = self.0.as_ref().filter(|key| !key.rights.contains(right)) else { return Ok(()) };
        let names: Vec<_> = right.names().collect();
        let why = format!("the key \"{}\" has no right to {}", key.name, names.join(", "));
        Err(ApiFault::new(ErrorCode::Forbidden, why))
    }

    /// Whether it may do that on the whole server.
    pub fn may(&self, right: ApiRights) -> bool {
        self.must(right, None).is_ok()
    }

    /// Whether it may see the room in a list.
    pub fn sees(&self, room: &str) -> bool {
        self.0.as_ref().is_none_or(|key| key.covers(room))
    }
}

/// The keys there are, and how often each asked in this second.
#[derive(Debug)]
pub struct Keys {
    now: Mutex<Counted>,
    /// Seconds that a token may hold that was taken in this run; 0: none are asked for.
    tokens_seconds_max: AtomicU64,
    started: Instant,
    /// Told of each reload.
    reloaded: watch::Sender<()>,
}

#[derive(Debug)]
struct Counted {
    keys: Arc<[ApiKey]>,
    requests_per_second_max: u32,
    window: u64,
    requests: Vec<u32>,
}

impl Counted {
    fn new(keys: Vec<ApiKey>, requests_per_second_max: u32) -> Self {
        Counted { requests: vec![0; keys.len()], keys: keys.into(), requests_per_second_max, window: 0 }
    }
}

impl Keys {
    /// Those of a configuration that has such an interface.
    pub fn of(config: &Config) -> Option<Self> {
        let admin = config.admin.as_ref()?;
        let keys = Self::new(admin.keys.clone(), admin.api_requests_per_second_max);
        keys.tokens_hold(&config.auth);
        Some(keys)
    }

    fn new(keys: Vec<ApiKey>, requests_per_second_max: u32) -> Self {
        let now = Mutex::new(Counted::new(keys, requests_per_second_max));
        let (tokens_seconds_max, reloaded) = (AtomicU64::new(0), watch::Sender::new(()));
        Keys { now, tokens_seconds_max, started: Instant::now(), reloaded }
    }

    /// Those of another configuration from now on.
    pub fn follow(&self, config: &Config) {
        self.tokens_hold(&config.auth);
        let Some(admin) = &config.admin else { return };
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let window = now.window;
        *now = Counted { window, ..Counted::new(admin.keys.clone(), admin.api_requests_per_second_max) };
        drop(now);
        self.reloaded.send_replace(());
    }

    /// Tells of reloads.
    pub fn reloads(&self) -> watch::Receiver<()> {
        self.reloaded.subscribe()
    }

    /// A caller as the keys are now.
    ///
    /// # Errors
    /// Its key is none any more.
    pub fn renewed(&self, caller: &Caller) -> Result<Caller, ApiFault> {
        let Some(key) = &caller.0 else { return Ok(Caller(None)) };
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let found = now.keys.iter().find(|there| there.digest == key.digest).cloned();
        found.map(|key| Caller(Some(key))).ok_or_else(no_key)
    }

    /// Tokens that were taken by an earlier configuration are still there.
    fn tokens_hold(&self, auth: &Auth) {
        self.tokens_seconds_max.fetch_max(auth.lifetime_seconds_max().unwrap_or(0), Ordering::Relaxed);
    }

    /// Seconds that a token may hold; none where none are asked for.
    pub fn tokens_seconds_max(&self) -> Option<u64> {
        Some(self.tokens_seconds_max.load(Ordering::Relaxed)).filter(|&seconds| seconds > 0)
    }

    /// Whose key that is, if it may ask now.
    fn admit(&self, text: &str) -> Result<ApiKey, ApiFault> {
        let now_ms = self.started.elapsed().as_millis() as u64;
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let index = api_key::find(&now.keys, text).ok_or_else(no_key)?;
        if now.window != now_ms / WINDOW_MS {
            now.window = now_ms / WINDOW_MS;
            now.requests.fill(0);
        }
        let requests_max = now.requests_per_second_max;
        if requests_max != 0 && now.requests[index] >= requests_max {
            let message = "api_requests_per_second_max of this key is reached";
            return Err(ApiFault::new(ErrorCode::RateLimited, message).again_in(WINDOW_MS - now_ms % WINDOW_MS));
        }
        now.requests[index] += 1;
        Ok(now.keys[index].clone())
    }
}

fn no_key() -> ApiFault {
    ApiFault::new(ErrorCode::Unauthorized, "say Authorization: Bearer and a key of [[admin.keys]]")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

/// Lets in who may ask, and says to the handlers who it is.
pub async fn admit(State(plane): State<Arc<Plane>>, mut request: Request, next: Next) -> Response {
    let caller = match request.extensions().get::<Door>() {
        Some(Door::Socket) => Ok(Caller(None)),
        _ => bearer(request.headers())
            .ok_or_else(no_key)
            .and_then(|key| plane.keys.admit(key))
            .map(|key| Caller(Some(key))),
    };
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(fault) => fault.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use banter_access::api_key::digest_of;
    use banter_access::pattern::Pattern;

    use super::*;

    fn key(rights: ApiRights, room: &str) -> ApiKey {
        let rooms = vec![Pattern::new(room).unwrap()];
        ApiKey { name: "shop".into(), digest: digest_of("k"), rights, rooms }
    }

    #[test]
    fn a_key_may_do_what_it_says_where_it_says_it() {
        let caller = Caller(Some(key(ApiRights::POST, "game-*")));
        assert!(caller.must(ApiRights::POST, Some("game-1")).is_ok() && caller.sees("game-1"));
        assert!(caller.must(ApiRights::POST, Some("lobby")).is_err() && !caller.sees("lobby"));
        assert!(caller.must(ApiRights::READ, Some("game-1")).is_err());
        assert!(caller.must(ApiRights::POST, None).is_err(), "a key for some rooms is not for the server");
        assert!(caller.must_somewhere(ApiRights::POST).is_ok() && caller.must_somewhere(ApiRights::READ).is_err());
        assert!(!caller.may(ApiRights::POST) && Caller(Some(key(ApiRights::POST, "*"))).may(ApiRights::POST));
        assert!(Caller(Some(key(ApiRights::OPERATE, "*"))).must(ApiRights::OPERATE, None).is_ok());
        assert!(Caller(None).must(ApiRights::ALL, None).is_ok() && Caller(None).sees("lobby"));
    }

    #[test]
    fn above_its_rate_a_key_waits_and_a_wrong_one_never_gets_in() {
        let keys = Keys::new(vec![key(ApiRights::ALL, "*")], 2);
        assert!(keys.admit("wrong").is_err());
        let admitted = (0..50).filter(|_| keys.admit("k").is_ok()).count();
        assert!((2..=4).contains(&admitted), "a second, or two if one began meanwhile: {admitted}");
    }
}
