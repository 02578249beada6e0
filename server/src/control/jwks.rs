//! The keys of `jwks_url`: fetched on a thread of its own, kept in the data folder, and handed to who judges tokens.
//!
//! ```text
//!  auth thread ─unknown kid─▶ JwksDesk ─▶ thread: Jwks decides, reqwest fetches ─▶ file in the data folder, next judge
//! ```
//!
//! A thread of its own, with a tokio of its own: whoever floods the interface for backends holds no key up.
//!
//! Invariants:
//! - What is fetched, how often and how long it holds is decided by [`Jwks`], a pure machine; here is only how.
//! - An answer is bounded: [`FETCH_MAX`] in time, [`KEY_TEXT_BYTES_MAX`] in bytes. A redirect is not followed.
//! - The set that is kept is that of this very address.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use banter_access::jwks::{Due, Jwks, UnknownKid, max_age_ms};
use banter_access::keys::{KEY_TEXT_BYTES_MAX, Keys};
use reqwest::header::{ACCEPT, CACHE_CONTROL};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::wall_clock;

/// How long a fetch may take, from the first byte of a name's look-up to the last of the answer.
pub const FETCH_MAX: Duration = Duration::from_secs(10);
/// The file in the data folder.
const FILE_NAME: &str = "jwks.json";

/// What a run keeps for the next.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    url: String,
    fetched_unix_ms: u64,
    keys: String,
}

/// The keys of an address. Clones are the same.
#[derive(Clone)]
pub struct JwksDesk(Arc<Shared>);

struct Shared {
    url: String,
    file: PathBuf,
    began: Instant,
    state: Mutex<State>,
    /// Something is due sooner than it was.
    sooner: Notify,
}

struct State {
    jwks: Jwks,
    /// Goes up each time that other keys hold.
    version: u64,
    /// A key was there at some time of this run.
    had_keys: bool,
    /// Those that hold.
    keys: usize,
    /// When they were fetched, in seconds since 1970.
    fetched_unix_s: Option<u64>,
    /// Why the last fetch brought nothing.
    failure: Option<String>,
}

/// What there is to say of the keys of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksTold {
    /// The address.
    pub url: String,
    /// Keys that hold.
    pub keys: usize,
    /// When they were fetched, in seconds since 1970.
    pub fetched_unix_s: Option<u64>,
    /// Why the last fetch brought nothing; none where it brought keys, or none was made yet.
    pub failure: Option<String>,
}

impl JwksDesk {
    /// With what an earlier run kept in that data folder, if it is there and of this address.
    #[must_use]
    pub fn open(url: &str, data: &Path) -> Self {
        let (began, file) = (Instant::now(), data.join(FILE_NAME));
        let (mut jwks, mut fetched_unix_s) = (Jwks::new(0), None);
        if let Some(kept) = read(&file).filter(|kept| kept.url == url) {
            let age_ms = wall_clock::unix_ms().saturating_sub(kept.fetched_unix_ms);
            if let Err(fault) = jwks.keep(&kept.keys, age_ms, 0) {
                tracing::warn!("{}: {fault}: it is fetched anew", file.display());
            }
            fetched_unix_s = jwks.text().map(|_| kept.fetched_unix_ms / 1_000);
        }
        let (had_keys, keys) = (jwks.text().is_some(), jwks.text().map_or(0, count));
        let state = State { version: 0, had_keys, jwks, keys, fetched_unix_s, failure: None };
        JwksDesk(Arc::new(Shared { url: url.to_owned(), file, began, state: Mutex::new(state), sooner: Notify::new() }))
    }

    /// Adds the keys that hold now, and says which version of them that is.
    pub fn add_to(&self, keys: &mut Keys) -> u64 {
        let state = self.state();
        let added = state.jwks.text().map(|text| keys.add_jwks(text));
        if let Some(Err(fault)) = added {
            tracing::error!("{}: {fault}: its keys are left out", self.0.url);
        }
        state.version
    }

    /// Whether a key was there at some time of this run: until then nobody comes in.
    #[must_use]
    pub fn had_keys(&self) -> bool {
        self.state().had_keys
    }

    /// What there is to say of them.
    #[must_use]
    pub fn told(&self) -> JwksTold {
        let state = self.state();
        JwksTold {
            url: self.0.url.clone(),
            keys: state.keys,
            fetched_unix_s: state.fetched_unix_s,
            failure: state.failure.clone(),
        }
    }

    /// A token came that no key of that version took. Whether one that may take it is here by now, or may come soon; what it
    /// takes for that is begun.
    #[must_use]
    pub fn may_have(&self, kid: Option<&str>, version: u64) -> bool {
        let mut state = self.state();
        if state.version != version || state.jwks.text().is_none() {
            return true;
        }
        let said = kid.map(|_| state.jwks.unknown_kid(self.now_ms()));
        if said == Some(UnknownKid::Fetch) {
            self.0.sooner.notify_one();
        }
        !matches!(said, None | Some(UnknownKid::Refuse))
    }

    /// Starts the thread, which ends with the process. `changed` is called each time that other keys hold.
    ///
    /// # Errors
    /// No thread could be made, or nothing that speaks TLS.
    pub fn spawn(&self, changed: impl Fn() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        let client = reqwest::Client::builder()
            .timeout(FETCH_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("banter/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(std::io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let desk = self.clone();
        std::thread::Builder::new().name("jwks".into()).spawn(move || runtime.block_on(desk.run(&client, &changed)))
    }

    async fn run(&self, client: &reqwest::Client, changed: &impl Fn()) {
        loop {
            let due = self.tick();
            if due.changed {
                tracing::error!("{} was not to be had for a day: its keys hold no longer", self.0.url);
                changed();
            }
            if due.fetch {
                self.fetch(client, changed).await;
            }
            let due_ms = self.state().jwks.next_due().unwrap_or(u64::MAX);
            let wait = Duration::from_millis(due_ms.saturating_sub(self.now_ms()));
            let _ = tokio::time::timeout(wait, self.0.sooner.notified()).await;
        }
    }

    fn tick(&self) -> Due {
        let mut state = self.state();
        let due = state.jwks.tick(self.now_ms());
        state.version += u64::from(due.changed);
        if due.changed {
            // They held for long enough.
            state.keys = 0;
        }
        due
    }

    async fn fetch(&self, client: &reqwest::Client, changed: &impl Fn()) {
        let answer = fetched(client, &self.0.url).await;
        match answer.and_then(|(text, age_ms)| self.take(&text, age_ms).map(|is_changed| (text, is_changed))) {
            Ok((text, is_changed)) => {
                if is_changed {
                    changed();
                }
                self.keep(text, is_changed);
            }
            Err(why) => {
                tracing::warn!("keys could not be fetched from {}: {why}", self.0.url);
                let mut state = self.state();
                state.jwks.failed(self.now_ms());
                state.failure = Some(why);
            }
        }
    }

    /// Says whether other keys hold from now on.
    fn take(&self, text: &str, age_ms: Option<u64>) -> Result<bool, String> {
        let mut state = self.state();
        let is_changed = state.jwks.fetched(text, age_ms, self.now_ms()).map_err(|fault| fault.to_string())?;
        state.had_keys = true;
        state.version += u64::from(is_changed);
        (state.keys, state.fetched_unix_s, state.failure) = (count(text), Some(wall_clock::unix_ms() / 1_000), None);
        Ok(is_changed)
    }

    /// Writes down what holds, for the next start. Without it that one waits for the address.
    fn keep(&self, keys: String, is_changed: bool) {
        if is_changed {
            tell(&self.0.url, &keys);
        }
        let kept = Kept { url: self.0.url.clone(), fetched_unix_ms: wall_clock::unix_ms(), keys };
        if let Err(error) = write(&self.0.file, &kept) {
            tracing::warn!("{}: keys could not be kept for the next start: {error}", self.0.file.display());
        }
    }

    fn now_ms(&self) -> u64 {
        self.0.began.elapsed().as_millis() as u64
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(text: &str) -> usize {
    let mut keys = Keys::new();
    // What was taken before is one, and has some.
    let _ = keys.add_jwks(text);
    keys.len()
}

/// Says which keys came, and which of them are left out.
fn tell(url: &str, text: &str) {
    let mut keys = Keys::new();
    let left_out = keys.add_jwks(text).unwrap_or_default();
    let left_out: Vec<String> = left_out
        .iter()
        .map(|left| format!("; the key {:?} is left out: {}", left.kid.as_deref().unwrap_or_default(), left.fault))
        .collect();
    tracing::info!("{} keys from {url}{}", keys.len(), left_out.concat());
}

/// The text of the address, and for how long it is good by its own word.
async fn fetched(client: &reqwest::Client, url: &str) -> Result<(String, Option<u64>), String> {
    let told = |error: reqwest::Error| told(&error.without_url());
    let mut response = client.get(url).header(ACCEPT, "application/json").send().await.map_err(told)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("it answered {}", response.status()));
    }
    let age_ms = response.headers().get(CACHE_CONTROL).and_then(|value| max_age_ms(value.to_str().ok()?));
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(told)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > KEY_TEXT_BYTES_MAX {
            return Err(format!("its answer has more than {KEY_TEXT_BYTES_MAX} bytes"));
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| "its answer is not UTF-8".to_owned())?;
    Ok((text, age_ms))
}

/// An error with its causes, of which the last says most.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn read(file: &Path) -> Option<Kept> {
    let bytes = std::fs::read(file).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!("{}: {error}: it is fetched anew", file.display()))
        .ok()
}

/// Beside the old one and then over it, so that a power cut leaves one of both; what it leaves is checked when it is read.
fn write(file: &Path, kept: &Kept) -> std::io::Result<()> {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, serde_json::to_vec(kept)?)?;
    std::fs::rename(&draft, file)
}

#[cfg(test)]
mod tests;
