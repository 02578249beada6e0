//! `banter token inspect`: what a token says, which key takes it, and why a server with that configuration would refuse it.
//!
//! No server has to run for it, and none is asked: whether a token was revoked is not told here.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use banter_access::claims::ClaimPath;
use banter_access::keys::Keys;
use banter_access::pattern::PatternRef;
use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_access::token::{Refusal, Rules, TOKEN_BYTES_MAX, judge};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::Args;
use serde_json::Value;

use crate::config::{Auth, ConfigFault, DEFAULT_DATA, Settings, TokenAuth};
use crate::control::auth::{AuthFault, KeySource};
use crate::control::jwks::JwksDesk;
use crate::host::EXIT_CONFIG;
use crate::token_tool::idle_warnings;
use crate::wall_clock;

/// The exit code of a token that is refused.
const EXIT_REFUSED: u8 = 1;
/// Bytes that are read of stdin: a token, a line end, and one more, which shows that there is too much.
const STDIN_BYTES_MAX: u64 = TOKEN_BYTES_MAX as u64 + 3;

/// Which token, and what would judge it.
#[derive(Clone, Debug, Args)]
pub struct InspectTask {
    /// The token; without one it is read from stdin, which leaves it out of the shell's history
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
    /// The server's configuration, whose [auth] judges it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
enum InspectFault {
    #[error("cannot read the token from stdin: {0}")]
    Stdin(#[from] io::Error),
    #[error(transparent)]
    Config(#[from] ConfigFault),
    #[error("{0}")]
    Key(#[from] AuthFault),
    #[error("the configuration asks for no tokens: say mode = \"token\" in [auth]")]
    Open,
}

/// What would judge the token.
struct Judging {
    rules: Rules,
    /// Keys by the place that they come from.
    keys: Vec<(String, Keys)>,
}

/// Looks at it, and says what there is to say on stdout.
pub fn run(task: &InspectTask) -> ExitCode {
    match inspected(task) {
        Ok((text, is_taken)) => {
            // Who has closed the pipe has read enough.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            if is_taken { ExitCode::SUCCESS } else { ExitCode::from(EXIT_REFUSED) }
        }
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn inspected(task: &InspectTask) -> Result<(String, bool), InspectFault> {
    let judging = task.config.as_deref().map(|path| Judging::read(&Settings::read(path)?)).transpose()?;
    let token = match &task.token {
        Some(token) => token.clone(),
        None => {
            let mut text = String::new();
            io::stdin().take(STDIN_BYTES_MAX).read_to_string(&mut text)?;
            text
        }
    };
    Ok(said(token.trim(), judging.as_ref(), wall_clock::unix_ms() / 1_000))
}

impl Judging {
    fn read(settings: &Settings) -> Result<Self, InspectFault> {
        let Some(Auth::Token(auth)) = settings.auth.as_ref().map(|auth| &auth.value) else {
            return Err(InspectFault::Open);
        };
        let TokenAuth { rules, .. } = auth.as_ref();
        let read = |source: KeySource| {
            let mut keys = Keys::new();
            source.read(&mut keys).map(|()| (source.to_string(), keys))
        };
        let mut keys = KeySource::all(auth).into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        if let Some(url) = &auth.jwks_url {
            let data = settings.data.as_ref().map_or(Path::new(DEFAULT_DATA), |data| &data.value);
            let mut kept = Keys::new();
            JwksDesk::open(url, data).add_to(&mut kept);
            keys.push((format!("{url}, as {} has it", data.display()), kept));
        }
        Ok(Judging { rules: rules.clone(), keys })
    }

    /// The proof and the place of the key that took it, or why there is none.
    fn judge(&self, token: &str, now_seconds: u64) -> (Option<&str>, Result<Proof, Refusal>) {
        let mut refusal = Refusal::KeyUnknown;
        for (source, keys) in &self.keys {
            match judge(token, keys, &self.rules, now_seconds) {
                // Another key may have made it. That says less than a signature that is wrong.
                Err(Refusal::KeyUnknown) => {}
                Err(other @ (Refusal::Signature | Refusal::Algorithm)) => refusal = other,
                verdict => return (is_behind_signature(&verdict).then_some(source.as_str()), verdict),
            }
        }
        (None, Err(refusal))
    }
}

/// Whether a key has taken the signature: what is wrong with the form is seen ahead of it.
fn is_behind_signature(verdict: &Result<Proof, Refusal>) -> bool {
    use Refusal::{Encrypted, HeaderName, TooLong, Type, WrongForm};
    !matches!(verdict, Err(TooLong | WrongForm | Encrypted | HeaderName { .. } | Type))
}

/// What there is to say, and whether the token would be taken; where nothing judges it, it is.
fn said(token: &str, judging: Option<&Judging>, now_seconds: u64) -> (String, bool) {
    let mut parts = token.split('.');
    let (header, claims) = (parts.next().and_then(part), parts.next().and_then(part));
    let mut out = format!("header   {}\nclaims   {}\n", shown(header.as_ref()), shown(claims.as_ref()));
    for (name, key) in [("made", "iat"), ("from", "nbf"), ("ends", "exp")] {
        if let Some(seconds) = claims.as_ref().and_then(|claims| claims.get(key)?.as_u64()) {
            let _ = writeln!(out, "{name:9}{}, {}", wall_clock::utc(seconds), distance(seconds, now_seconds));
        }
    }
    let path = judging.map_or_else(ClaimPath::rooms, |judging| judging.rules.rooms_claim.clone());
    for warning in idle_warnings(&grants(claims.as_ref(), &path)) {
        let _ = writeln!(out, "warning  {warning}");
    }
    let Some(judging) = judging else {
        out.push_str("verdict  none: say --config FILE, and the keys and rules of its [auth] judge it\n");
        return (out, true);
    };
    let (source, verdict) = judging.judge(token, now_seconds);
    let _ = writeln!(out, "key      {}", source.unwrap_or("none took the signature"));
    match &verdict {
        Ok(proof) => {
            let _ = writeln!(out, "user     {}\nverdict  taken, unless it was revoked", proof.user().as_str());
        }
        Err(refusal) => {
            let _ = writeln!(out, "verdict  refused: {refusal}");
        }
    }
    (out, verdict.is_ok())
}

/// What the token gives in rooms, as far as it can be read: what cannot is told by the verdict.
fn grants<'a>(claims: Option<&'a Value>, path: &ClaimPath) -> Vec<(PatternRef<'a>, Rights)> {
    let rooms = claims.and_then(|claims| path.names().try_fold(claims, |object, name| object.get(name)));
    let right = |name: &Value| name.as_str().and_then(|name| Rights::from_name(name).ok()).unwrap_or_default();
    let rights = |said: &Value| match said {
        Value::Array(names) => names.iter().map(right).fold(Rights::NONE, Rights::union),
        said => right(said),
    };
    let rooms = rooms.and_then(Value::as_object).into_iter().flatten();
    rooms.filter_map(|(pattern, said)| Some((PatternRef::new(pattern).ok()?, rights(said)))).collect()
}

fn part(text: &str) -> Option<Value> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// JSON over several lines. What a terminal would take for a command stands there as an escape.
fn shown(value: Option<&Value>) -> String {
    let Some(text) = value.and_then(|value| serde_json::to_string_pretty(value).ok()) else {
        return "cannot be read: no base64url of JSON".to_owned();
    };
    let escaped = |character: char| match character {
        '\n' => character.to_string(),
        character if character.is_control() => character.escape_unicode().to_string(),
        character => character.to_string(),
    };
    text.chars().map(escaped).collect()
}

fn distance(seconds: u64, now_seconds: u64) -> String {
    match seconds.checked_sub(now_seconds) {
        Some(ahead) => format!("in {ahead} s"),
        None => format!("{} s ago", now_seconds - seconds),
    }
}

#[cfg(test)]
mod tests {
    use banter_access::mint::{ClaimsToMint, SigningKey, mint, mint_raw};
    use banter_access::pattern::Pattern;

    use super::*;

    const SECRETS: [&str; 2] = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"];

    fn signing(secret: &str) -> SigningKey {
        SigningKey::from_secret(secret.as_bytes()).unwrap()
    }

    fn judging(folder: &tempfile::TempDir) -> Judging {
        let file = folder.path().join("secret");
        std::fs::write(&file, SECRETS[0]).unwrap();
        let config = folder.path().join("banter.toml");
        let text = format!("[auth]\nmode = 'token'\nsecret_file = '{}'\naudience = 'us'", file.display());
        std::fs::write(&config, text).unwrap();
        Judging::read(&Settings::read(&config).unwrap()).unwrap()
    }

    fn token(secret: &str, change: impl Fn(&mut ClaimsToMint)) -> String {
        let mut claims = ClaimsToMint { audience: Some("us".to_owned()), ..ClaimsToMint::new("ann", 1_000, 1_600) };
        change(&mut claims);
        mint(&signing(secret), &claims).unwrap()
    }

    #[test]
    fn a_token_that_would_be_taken_names_its_key_and_its_times() {
        let folder = tempfile::tempdir().unwrap();
        let (text, is_taken) = said(&token(SECRETS[0], |_| {}), Some(&judging(&folder)), 1_100);
        assert!(is_taken, "{text}");
        for says in [
            "\"alg\": \"HS256\"",
            "\"sub\": \"ann\"",
            "made     1970-01-01T00:16:40Z, 100 s ago",
            "ends     1970-01-01T00:26:40Z, in 500 s",
            "secret, secret_file",
            "user     ann",
            "verdict  taken",
        ] {
            assert!(text.contains(says), "{says}: {text}");
        }
        assert!(!text.contains(SECRETS[0]), "{text}");
    }

    #[test]
    fn a_token_that_would_be_refused_says_why_and_whether_a_key_took_it() {
        let folder = tempfile::tempdir().unwrap();
        let judging = judging(&folder);
        let headed = |header: &str| mint_raw(&signing(SECRETS[0]), header, "{}").unwrap();
        for (token, key, says) in [
            (token(SECRETS[1], |_| {}), "none took", "signature was not made"),
            (token(SECRETS[0], |it| it.audience = Some("them".to_owned())), "secret_file", "aud is not the audience"),
            (token(SECRETS[0], |it| it.expires_seconds = 1_050), "secret_file", "ended 50 s ago"),
            (headed("{\"alg\":\"none\"}"), "none took", "alg is not that of the key"),
            (headed("{\"alg\":\"HS256\",\"crit\":[]}"), "none took", "header has crit"),
            ("abc".to_owned(), "none took", "this is no token"),
            ("x".repeat(4_097), "none took", "more than 4096 bytes"),
        ] {
            let (text, is_taken) = said(&token, Some(&judging), 1_100);
            let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
            assert!(!is_taken && line("verdict  refused").contains(says), "{says}: {text}");
            assert!(line("key").contains(key), "{key}: {text}");
        }
    }

    #[test]
    fn without_a_configuration_it_is_read_and_not_judged() {
        let (text, is_taken) = said(&token(SECRETS[1], |_| {}), None, 1_100);
        assert!(is_taken && text.contains("\"sub\": \"ann\"") && text.contains("verdict  none"), "{text}");
    }

    #[test]
    fn a_right_that_is_of_no_use_is_told_also_without_a_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let rooms =
            vec![(Pattern::new("lobby").unwrap(), Rights::WRITE), (Pattern::new("news").unwrap(), Rights::MEMBER)];
        let token = token(SECRETS[0], |it| it.rooms = rooms.clone());
        for judging in [None, Some(&judging(&folder))] {
            let (text, is_taken) = said(&token, judging, 1_100);
            let told: Vec<_> = text.lines().filter(|line| line.starts_with("warning")).collect();
            assert!(is_taken && told.len() == 1 && told[0].contains("'lobby' has write and not read"), "{text}");
        }
    }

    #[test]
    fn what_a_token_says_gives_the_terminal_no_orders() {
        let payload = "{\"sub\":\"a\u{9b}31m\\u001b[2J\"}";
        let token = mint_raw(&signing(SECRETS[0]), "{\"alg\":\"HS256\"}", payload).unwrap();
        let (text, _) = said(&token, None, 0);
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
        assert!(text.contains("\\u{9b}31m") && text.contains("\\u001b[2J"), "{text}");
    }
}
