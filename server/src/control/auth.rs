//! The thread that judges tokens: a check takes longer than a core's turn should, and a crowd that comes back brings many.
//!
//! ```text
//!  core ─Proving─▶ AuthDesk (bounded) ─▶ thread: judge ─Proved─▶ core's inbox and bell
//! ```

mod judge;

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use banter_access::keys::{KEYS_TRIED_MAX, KeyFault, Keys, LeftOut};
use banter_access::proof::Proof;
use banter_access::self_test::{SelfTestFault, self_test};
use banter_chat::address::Core;
use banter_chat::proving::{NotProved, Proved, Proving};

use crate::config::TokenAuth;
use crate::control::jwks::JwksDesk;
use crate::control::{CoreLink, ToCore};
use crate::wall_clock;

pub use judge::{Judge, OwnKeys, VERDICTS_MAX};

/// How long a token waits to be judged at most: whoever sent it will soon be gone.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Tokens that wait to be judged at most, of all cores; above it who comes is told to come again.
pub const TOKENS_WAITING_MAX: usize = 16_384;

/// Why no token could be judged.
#[derive(Debug, thiserror::Error)]
pub enum AuthFault {
    /// A file cannot be read.
    #[error("cannot read {path}, which [auth] names: {error}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file holds no key that is taken.
    #[error("{path}, which [auth] names: {fault}", path = .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: KeyFault,
    },
    /// The environment holds no secret that is taken.
    #[error("the environment variable {name}, which [auth] names as secret_env: {what}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// More keys than are ever tried.
    #[error(
        "[auth] names {count} keys of one kind without a kid, and a token without one is tried with {KEYS_TRIED_MAX}: give them \
         kids, as JWK or JWKS, or fewer"
    )]
    TooManyWithoutKid {
        /// How many there are.
        count: usize,
    },
    /// The library does not do what it should.
    #[error("tokens cannot be checked by this build: {0}")]
    SelfTest(#[from] SelfTestFault),
}

/// A place that keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file with public keys.
    File(PathBuf),
    /// A file with a secret.
    SecretFile(PathBuf),
    /// An environment variable with a secret.
    SecretEnv(String),
}

impl KeySource {
    /// All that the configuration names.
    #[must_use]
    pub fn all(auth: &TokenAuth) -> Vec<Self> {
        let files = auth.keys.iter().cloned().map(KeySource::File);
        let secret = auth.secret_file.iter().cloned().map(KeySource::SecretFile);
        files.chain(secret).chain(auth.secret_env.iter().cloned().map(KeySource::SecretEnv)).collect()
    }

    /// Reads its keys, beside those that are there.
    ///
    /// # Errors
    /// It cannot be read, or holds none.
    pub fn read(&self, keys: &mut Keys) -> Result<(), AuthFault> {
        match self {
            KeySource::File(path) => read_file(path, keys),
            KeySource::SecretFile(path) => {
                let secret = read_secret(path)?;
                keys.add_secret(&secret, None).map_err(|fault| AuthFault::Key { path: path.clone(), fault })
            }
            KeySource::SecretEnv(name) => {
                let environment = |what: String| AuthFault::Environment { name: name.clone(), what };
                let secret = std::env::var_os(name).ok_or_else(|| environment("it is not set".to_owned()))?;
                keys.add_secret(secret.as_bytes(), None).map_err(|fault| environment(fault.to_string()))
            }
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::File(path) => write!(out, "{}", path.display()),
            KeySource::SecretFile(path) => write!(out, "{}, secret_file", path.display()),
            KeySource::SecretEnv(name) => write!(out, "the environment variable {name}, secret_env"),
        }
    }
}

fn read_file(path: &Path, keys: &mut Keys) -> Result<(), AuthFault> {
    let path = || path.to_owned();
    let text = std::fs::read_to_string(path()).map_err(|error| AuthFault::Unreadable { path: path(), error })?;
    let left_out = keys.add_text(&text).map_err(|fault| AuthFault::Key { path: path(), fault })?;
    for LeftOut { kid, fault } in left_out {
        let kid = kid.as_deref().unwrap_or("without a kid");
        tracing::warn!("{}: the key {kid} is left out: {fault}", path().display());
    }
    Ok(())
}

/// Reads the keys that the configuration names.
///
/// # Errors
/// One cannot be read, or is none.
pub fn read_keys(auth: &TokenAuth) -> Result<Keys, AuthFault> {
    let mut keys = Keys::new();
    KeySource::all(auth).iter().try_for_each(|source| source.read(&mut keys))?;
    let count = keys.without_kid();
    if count > KEYS_TRIED_MAX {
        return Err(AuthFault::TooManyWithoutKid { count });
    }
    Ok(keys)
}

/// The secret in a file: its bytes but for one line end, which editors and `echo` add.
///
/// # Errors
/// It cannot be read.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, AuthFault> {
    let mut secret = std::fs::read(path).map_err(|error| AuthFault::Unreadable { path: path.to_owned(), error })?;
    if secret.last() == Some(&b'\n') {
        secret.pop();
    }
    Ok(secret)
}

/// A core's end to the thread.
#[derive(Clone)]
pub struct AuthDesk {
    core: Core,
    asks: flume::Sender<Waiting>,
}

/// A token that waits to be judged, since when, and for whose core.
type Waiting = (Core, Instant, Proving);

impl AuthDesk {
    /// Has a token judged, unless too many wait: then it is given back.
    ///
    /// # Errors
    /// The token.
    pub fn judge(&self, proving: Proving) -> Result<(), Proving> {
        self.asks.try_send((self.core, Instant::now(), proving)).map_err(|full| full.into_inner().2)
    }
}

/// Where judges are made, and the next one lies until the thread takes it, ahead of the next token; one that was not taken is
/// replaced. No mail, since where no token comes nothing would take any out. Clones are the same.
#[derive(Clone)]
pub struct JudgeSlot(Arc<Slot>);

struct Slot {
    /// Held while a judge is made of them, so that the last one made is of the newest.
    own: Mutex<OwnKeys>,
    jwks: Option<JwksDesk>,
    next: Mutex<Option<Judge>>,
    /// Keys of the last judge that was made.
    keys: AtomicUsize,
}

impl JudgeSlot {
    /// With the configuration's keys, and those of an address.
    #[must_use]
    pub fn new(own: OwnKeys, jwks: Option<JwksDesk>) -> Self {
        let (own_now, next) = (Mutex::new(OwnKeys::default()), Mutex::new(None));
        let slot = JudgeSlot(Arc::new(Slot { own: own_now, jwks, next, keys: AtomicUsize::new(0) }));
        slot.put(own);
        slot
    }

    /// Tokens that are looked at from now on are judged by these keys and rules. Says how many keys that are, with those of the
    /// address.
    pub fn put(&self, new: OwnKeys) -> usize {
        let mut own = lock(&self.0.own);
        *own = new;
        self.renew_by(&own)
    }

    /// The address has other keys than before.
    pub fn renew(&self) {
        self.renew_by(&lock(&self.0.own));
    }

    fn renew_by(&self, own: &OwnKeys) -> usize {
        let judge = Judge::of(own, self.0.jwks.as_ref());
        let keys = judge.keys();
        *lock(&self.0.next) = Some(judge);
        self.0.keys.store(keys, Ordering::Relaxed);
        keys
    }

    /// Keys that tokens are checked with, those of the address among them.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.keys.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> Option<Judge> {
        lock(&self.0.next).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's end: made ahead of the cores, since each has a desk.
pub struct AuthInbox {
    asks: flume::Receiver<Waiting>,
    judge: Judge,
    slot: JudgeSlot,
}

/// Reads the keys, and makes a desk for each core.
///
/// # Errors
/// The keys cannot be had, or nothing can check a token.
pub fn open(auth: &TokenAuth, jwks: Option<JwksDesk>, cores: usize) -> Result<(Vec<AuthDesk>, AuthInbox), AuthFault> {
    self_test()?;
    let own = OwnKeys::read(auth)?;
    let judge = Judge::of(&own, jwks.as_ref());
    tracing::info!("tokens are asked for, and checked with {} keys", judge.keys());
    let (asks, inbox) = flume::bounded(TOKENS_WAITING_MAX);
    let desks = (0..cores).map(|core| AuthDesk { core: Core(core as u16), asks: asks.clone() }).collect();
    Ok((desks, AuthInbox { asks: inbox, judge, slot: JudgeSlot::new(own, jwks) }))
}

impl AuthInbox {
    /// Where the next judge is put.
    #[must_use]
    pub fn slot(&self) -> JudgeSlot {
        self.slot.clone()
    }

    fn judge(&mut self, proving: &Proving) -> Result<Arc<Proof>, NotProved> {
        self.judge.judge(&proving.token, wall_clock::unix_ms() / 1_000)
    }

    /// Starts the thread. It ends when no core has a desk any more.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn spawn(mut self, cores: Vec<CoreLink>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("auth".into()).spawn(move || {
            crate::host::yield_to_cores();
            while let Ok((core, since, proving)) = self.asks.recv() {
                if let Some(next) = self.slot.take() {
                    self.judge = next;
                }
                // Above what it can judge in time, it would judge only those who have gone.
                let verdict =
                    if since.elapsed() > WAIT_MAX { Err(NotProved::Unavailable) } else { self.judge(&proving) };
                if let Some(link) = cores.get(core.index()) {
                    link.send(ToCore::Proved(Box::new(Proved { proving, verdict })));
                }
            }
        })
    }
}
