//! One connection to the engine's servers: how it is made, and one question at a time about streams.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::config::{ClusterName, EngineConfig};
use crate::fault::EngineFault;
use crate::limits::{
    CARE_MAX, CARE_TRIES, INBOX_MESSAGES_MAX, OUTBOX_MESSAGES_MAX, RETRY_AFTER_MAX, SIGN_EVERY, TRY_MAX,
};
use crate::names::Names;

/// How long the same word of a server is not told again.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// A connection to the servers, which is made again whenever it is lost.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(crate) client: Client,
    pub(crate) names: Names,
    /// How often it was lost.
    pub(crate) losses: watch::Receiver<u64>,
}

impl Connection {
    /// Connects to any of the servers.
    ///
    /// # Errors
    /// What was told is wrong, or none of them takes us in time.
    pub async fn open(config: &EngineConfig) -> Result<Self, EngineFault> {
        let names = Names::new(ClusterName::new(&config.cluster)?);
        let servers = addresses(&config.servers)?;
        let (told, losses) = watch::channel(0_u64);
        let options = options(config, &servers, told).await?;
        let shown = shown(&servers);
        let connect_max = Duration::from_millis(config.connect_timeout_ms);
        let connected = tokio::time::timeout(connect_max, options.connect(&*servers)).await;
        match connected {
            Ok(Ok(client)) => Ok(Connection { client, names, losses }),
            Ok(Err(error)) => Err(not_connected(shown, &error)),
            Err(_) => {
                let why = format!("nothing came within {} ms", config.connect_timeout_ms);
                Err(EngineFault::Unreachable { servers: shown, why })
            }
        }
    }

    /// The names of this cluster's streams.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The name of the server that it leads to, or led to last.
    pub fn server_name(&self) -> String {
        self.client.server_info().server_name
    }

    /// Asks JetStream one thing, and reads its answer. It may be asked twice, and has to be such that this is the same as once.
    ///
    /// # Errors
    /// Nothing came, or it is not what was asked for, or it refuses.
    pub(crate) async fn api<T: DeserializeOwned>(&self, subject: &str, body: Bytes) -> Result<T, ApiFault> {
        let subject = format!("$JS.API.{subject}");
        for _ in 0..CARE_TRIES {
            let request = async_nats::Request::new().payload(body.clone()).timeout(None);
            let request = self.client.send_request(subject.clone(), request);
            // The library bounds the wait for the answer, and not the one for its own queue.
            if let Ok(message) = tokio::time::timeout(CARE_MAX, request).await {
                let message = message.map_err(|error| ApiFault::Silent(error.to_string()))?;
                return read(&message.payload);
            }
        }
        let waited = CARE_MAX * u32::try_from(CARE_TRIES).unwrap_or(u32::MAX);
        Err(ApiFault::Silent(format!("nothing came within {} s", waited.as_secs())))
    }
}

/// What comes back from JetStream, but for the answer itself.
#[derive(serde::Deserialize)]
struct Refusal {
    error: Option<ApiError>,
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, ApiFault> {
    let unread = |error: serde_json::Error| ApiFault::Unread(error.to_string());
    let refusal: Refusal = serde_json::from_slice(json).map_err(unread)?;
    match refusal.error {
        Some(error) => Err(ApiFault::Refused { code: error.err_code, what: error.description }),
        None => serde_json::from_slice(json).map_err(unread),
    }
}

/// Why JetStream refuses.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

/// Why there is no answer to a question about streams.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiFault {
    /// Nothing came.
    #[error("JetStream does not answer ({0}): turn it on in every server, and start more than half of them")]
    Silent(String),
    /// It is not what was asked for.
    #[error("JetStream's answer cannot be read: {0}")]
    Unread(String),
    /// It refuses.
    #[error("JetStream refuses: {what} (error {code})")]
    Refused {
        /// Its number.
        code: u64,
        /// What it says.
        what: String,
    },
}

fn addresses(servers: &[String]) -> Result<Vec<ServerAddr>, EngineFault> {
    if servers.is_empty() {
        return Err(EngineFault::NoServers);
    }
    let servers = servers.iter().enumerate().map(|(index, server)| address(index + 1, server));
    let servers = servers.collect::<Result<Vec<_>, _>>()?;
    if servers.iter().any(|server| server.tls_required() != servers[0].tls_required()) {
        return Err(EngineFault::MixedTls);
    }
    let user = |server: &ServerAddr| (server.username().map(str::to_owned), server.password().map(str::to_owned));
    if servers.iter().any(|server| user(server) != user(&servers[0])) {
        return Err(EngineFault::MixedUsers);
    }
    Ok(servers)
}

fn address(number: usize, server: &str) -> Result<ServerAddr, EngineFault> {
    let parsed: ServerAddr =
        server.parse().map_err(|error: std::io::Error| EngineFault::Address { number, why: error.to_string() })?;
    let why = match parsed.scheme() {
        "nats" | "tls" if parsed.host().is_empty() => "it names no host",
        "nats" | "tls" => return Ok(parsed),
        _ => "it is neither nats:// nor tls://",
    };
    Err(EngineFault::Address { number, why: why.to_owned() })
}

/// The addresses without what is secret in them.
fn shown(servers: &[ServerAddr]) -> String {
    let shown: Vec<_> = servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
    shown.join(", ")
}

async fn options(
    config: &EngineConfig,
    servers: &[ServerAddr],
    told: watch::Sender<u64>,
) -> Result<ConnectOptions, EngineFault> {
    let told = Arc::new(told);
    let said = Arc::new(Mutex::new(Said::default()));
    let mut options = ConnectOptions::new()
        .name(format!("banter {}", config.cluster))
        .connection_timeout(TRY_MAX)
        .ping_interval(SIGN_EVERY)
        .client_capacity(OUTBOX_MESSAGES_MAX)
        .subscription_capacity(INBOX_MESSAGES_MAX)
        .reconnect_delay_callback(retry_after)
        .event_callback(move |event| {
            let (told, said) = (told.clone(), said.clone());
            async move {
                match event {
                    Event::Disconnected | Event::Closed => told.send_modify(|losses| *losses += 1),
                    // Most of all, that this user may not speak of these subjects: an ask then has no answer.
                    Event::ServerError(error) => {
                        let text = error.to_string();
                        if said.lock().unwrap_or_else(PoisonError::into_inner).is_new(&text) {
                            tracing::warn!("the engine's server says: {text}{}", cure_of(&text));
                        }
                    }
                    _ => {}
                }
            }
        });
    if let Some(first) = servers.first() {
        // A server that another one told of has no scheme of its own, and must not be spoken to in the clear.
        options = options.require_tls(first.tls_required());
        options = match (first.username(), first.password()) {
            (Some(user), Some(password)) => options.user_and_password(plain(user), plain(password)),
            (Some(token), None) => options.token(plain(token)),
            (None, _) => options,
        };
    }
    if let Some(path) = &config.credentials {
        let credentials = options.credentials_file(path).await;
        options = credentials.map_err(|error| EngineFault::Credentials { path: path.clone(), error })?;
    }
    // The library takes the process's provider, and panics if that is not clear; it is already set if this fails.
    let _ = async_nats::rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some(path) = &config.certificate_authority {
        check_certificates(path)?;
        options = options.add_root_certificates(path.clone());
    }
    Ok(options)
}

/// What a server said last, and when that was told: what is refused is asked again twice a second.
#[derive(Default)]
struct Said {
    text: String,
    told: Option<Instant>,
}

impl Said {
    /// Whether it is to be told: it is another thing than before, or a while ago.
    fn is_new(&mut self, text: &str) -> bool {
        let is_new = self.text != text || self.told.is_none_or(|told| told.elapsed() >= SAID_AGAIN);
        if is_new {
            (self.text, self.told) = (text.to_owned(), Some(Instant::now()));
        }
        is_new
    }
}

/// What to do about what a server says.
fn cure_of(text: &str) -> &'static str {
    if text.contains("Permissions Violation") {
        "; this user may not speak of that: give it `banter.NAME.>`, with the name of this cluster (deploy/nats/banter-common.conf)"
    } else {
        ""
    }
}

/// A part of an address, in which some characters are written as `%40`.
fn plain(part: &str) -> String {
    percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned()
}

/// The library reads the file at each connection, and takes one without any certificate for one.
fn check_certificates(path: &Path) -> Result<(), EngineFault> {
    let why = match std::fs::read_to_string(path) {
        Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => return Ok(()),
        Ok(_) => "it holds no certificate".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(EngineFault::CertificateAuthority { path: path.to_owned(), why })
}

/// At once for the first tries, so that a server that leaves costs little, then less and less often.
fn retry_after(tries: usize) -> Duration {
    let doublings = u32::try_from(tries.saturating_sub(2)).unwrap_or(u32::MAX).min(16);
    if tries <= 2 { Duration::ZERO } else { RETRY_AFTER_MAX.min(Duration::from_millis(5 << doublings)) }
}

fn not_connected(servers: String, error: &ConnectError) -> EngineFault {
    let why = error.to_string();
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            EngineFault::Refused { servers, why }
        }
        ConnectErrorKind::Tls => EngineFault::Tls { servers, why },
        // A certificate that is not trusted shows as an error of the socket.
        ConnectErrorKind::Io if why.contains("certificate") => EngineFault::Tls { servers, why },
        _ => EngineFault::Unreachable { servers, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_over_and_over_is_told_once_a_while_with_its_cure() {
        let mut said = Said::default();
        assert!(said.is_new("a") && !said.is_new("a") && said.is_new("b") && said.is_new("a"));
        assert!(cure_of("nats: Permissions Violation for Publish to \"banter.b.beat\"").contains("banter.NAME.>"));
    }
}
