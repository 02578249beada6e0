//! `[auth]`: whether connections prove who they are, with which keys, and what a token must say.

use std::net::IpAddr;
use std::path::PathBuf;

use banter_access::claims::ClaimPath;
use banter_access::token::{LIFETIME_SECONDS_MAX, Rules};
use banter_protocol::credentials::is_cookie_name;
use banter_protocol::origin::AllowedOrigin;
use toml::Spanned;
use toml::de::DeValue;

use super::file::Document;
use super::{ConfigFault, Given, Place, Table};

/// The keys of `[auth]`.
pub(super) const AUTH_KEYS: [&str; 14] = [
    "mode",
    "keys",
    "secret_file",
    "secret_env",
    "jwks_url",
    "issuer",
    "audience",
    "user_claim",
    "rooms_claim",
    "lifetime_hours_max",
    "grace_ms",
    "origins",
    "cookie",
    "guests",
];
/// Milliseconds from a token's end to that of its connection, unless told otherwise.
pub const DEFAULT_GRACE_MS: u64 = 25_000;
/// A month: a token that holds longer is a password.
pub const LIFETIME_HOURS_LARGEST: u64 = 31 * 24;
const GRACE_MS_LARGEST: u64 = 3_600_000;
const SECONDS_AN_HOUR: u64 = 3_600;

const MUST_AUTH: &str = "must be a table: [auth]";
const MUST_MODE: &str = "must be \"open\" or \"token\"";
const MUST_KEYS: &str = "must be a list of files with public keys, like [\"/etc/banter/app.pem\"]";
const MUST_FILE: &str = "must be the path of a file, as a string";
const MUST_ENV: &str = "must be the name of an environment variable, like \"BANTER_SECRET\"";
const MUST_COOKIE: &str = "must be the name of a cookie, like \"__Host-banter\"";
const MUST_URL: &str =
    "must be an address with https, or with http on this host, like \"https://id.example.com/.well-known/jwks.json\"";
const MUST_TEXT: &str = "must be a text that is not empty";
const MUST_CLAIM: &str = "must be a claim, or a path to one with dots, like \"sub\" or \"banter.rooms\"";

/// Whether connections prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// A user is who it says.
    #[default]
    Open,
    /// A user is who its token says.
    Token(Box<TokenAuth>),
}

/// Which tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAuth {
    /// Files with public keys: PEM, JWK or JWKS.
    pub keys: Vec<PathBuf>,
    /// A file that holds a secret.
    pub secret_file: Option<PathBuf>,
    /// An environment variable that holds a secret.
    pub secret_env: Option<String>,
    /// An address with public keys, as a JWKS.
    pub jwks_url: Option<String>,
    /// What a token must say.
    pub rules: Rules,
    /// Milliseconds from a token's end to that of its connection.
    pub grace_ms: u64,
    /// The cookie in which an upgrade may bring its token.
    pub cookie: Option<String>,
    /// Whether who shows no token comes in as a guest.
    pub guests: bool,
}

impl Auth {
    /// Whether a running server can go over to the other: it asks for tokens or not, and fetches keys where it did.
    pub(super) fn is_like(&self, other: &Auth) -> bool {
        match (self, other) {
            (Auth::Open, Auth::Open) => true,
            (Auth::Token(one), Auth::Token(other)) => one.jwks_url == other.jwks_url,
            _ => false,
        }
    }

    /// Its name in the file.
    pub(super) fn mode(&self) -> &'static str {
        match self {
            Auth::Open => "open",
            Auth::Token(_) => "token",
        }
    }

    /// Seconds that a token may hold; none where none is asked for.
    pub fn lifetime_seconds_max(&self) -> Option<u64> {
        match self {
            Auth::Open => None,
            Auth::Token(auth) => Some(auth.rules.lifetime_seconds_max),
        }
    }

    /// As the file says it.
    pub(super) fn to_toml(&self) -> String {
        if *self == Auth::Open {
            return String::new();
        }
        let entries = self.entries().into_iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value?)));
        format!("\n[auth]\n{}", entries.collect::<String>())
    }

    /// Keys and values as the file says them; none where a key is left out.
    pub(super) fn entries(&self) -> Vec<(&'static str, Option<String>)> {
        let text = |text: &str| toml::Value::from(text).to_string();
        let path = |path: &PathBuf| text(&path.to_string_lossy());
        let mode = ("mode", Some(text(self.mode())));
        let Auth::Token(auth) = self else { return vec![mode] };
        let keys: Vec<String> = auth.keys.iter().map(path).collect();
        let Rules { issuer, audience, lifetime_seconds_max, user_claim, rooms_claim, .. } = &auth.rules;
        vec![
            mode,
            ("keys", Some(format!("[{}]", keys.join(", ")))),
            ("secret_file", auth.secret_file.as_ref().map(path)),
            ("secret_env", auth.secret_env.as_deref().map(text)),
            ("jwks_url", auth.jwks_url.as_deref().map(text)),
            ("issuer", issuer.as_deref().map(text)),
            ("audience", audience.as_deref().map(text)),
            ("user_claim", Some(text(user_claim.as_str()))),
            ("rooms_claim", Some(text(rooms_claim.as_str()))),
            ("lifetime_hours_max", Some((lifetime_seconds_max / SECONDS_AN_HOUR).to_string())),
            ("grace_ms", Some(auth.grace_ms.to_string())),
            ("cookie", auth.cookie.as_deref().map(text)),
            ("guests", Some(auth.guests.to_string())),
        ]
    }
}

impl Document<'_> {
    /// `[auth]`.
    pub(super) fn auth(&self, value: &Spanned<DeValue<'_>>) -> Result<Given<Auth>, ConfigFault> {
        let table = value.get_ref().as_table().ok_or_else(|| self.wrong("auth", value, MUST_AUTH))?;
        let place = self.place(&value.span());
        let mut is_token = None;
        let mut auth = TokenAuth {
            keys: Vec::new(),
            secret_file: None,
            secret_env: None,
            jwks_url: None,
            rules: Rules { lifetime_seconds_max: LIFETIME_SECONDS_MAX, ..Rules::default() },
            grace_ms: DEFAULT_GRACE_MS,
            cookie: None,
            guests: false,
        };
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match name {
                "mode" => is_token = Some(self.text_value(name, value, MUST_MODE, parse_mode)?.value),
                "keys" => auth.keys = self.key_files(value)?,
                "secret_file" => auth.secret_file = Some(self.text(name, value, MUST_FILE)?.into()),
                "secret_env" => auth.secret_env = Some(self.text(name, value, MUST_ENV)?),
                "jwks_url" => auth.jwks_url = Some(self.text_value(name, value, MUST_URL, parse_jwks_url)?.value),
                "issuer" => auth.rules.issuer = Some(self.text(name, value, MUST_TEXT)?.into()),
                "audience" => auth.rules.audience = Some(self.text(name, value, MUST_TEXT)?.into()),
                "user_claim" => auth.rules.user_claim = self.claim(name, value)?,
                "rooms_claim" => auth.rules.rooms_claim = self.claim(name, value)?,
                "lifetime_hours_max" => {
                    let hours = self.number(name, value, LIFETIME_HOURS_LARGEST)?.value;
                    if hours == 0 {
                        return Err(self.wrong(name, value, "must be at least 1"));
                    }
                    auth.rules.lifetime_seconds_max = hours * SECONDS_AN_HOUR;
                }
                "cookie" => auth.cookie = Some(self.text_value(name, value, MUST_COOKIE, parse_cookie)?.value),
                "guests" => auth.guests = self.boolean(name, value)?.value,
                // The same as outside the tables: `auth_origins`.
                "origins" => {}
                "grace_ms" => auth.grace_ms = self.number(name, value, GRACE_MS_LARGEST)?.value,
                unknown => return Err(self.unknown_key(&key.span(), unknown, Table::Auth)),
            }
        }
        let value = match is_token {
            None => return Err(ConfigFault::Table { place, what: format!("[auth] has no mode: it {MUST_MODE}") }),
            Some(false) if table.keys().any(|key| !matches!(&**key.get_ref(), "mode" | "origins")) => {
                let what = "[auth] says what tokens must be, and mode = \"open\" asks for none: say mode = \"token\""
                    .to_owned();
                return Err(ConfigFault::Table { place, what });
            }
            Some(false) => Auth::Open,
            Some(true) if !auth.has_key() => {
                let what =
                    "[auth] asks for tokens and has no key to check them with: say keys = [\"FILE\"], secret_file, \
                            secret_env or jwks_url"
                        .to_owned();
                return Err(ConfigFault::Table { place, what });
            }
            Some(true) if auth.jwks_url.is_some() && !auth.is_for_this_server() => {
                let what = "[auth] takes keys from jwks_url, and whoever has an account there would come in: say issuer and audience, \
                            which its tokens must have"
                    .to_owned();
                return Err(ConfigFault::Table { place, what });
            }
            Some(true) => Auth::Token(Box::new(auth)),
        };
        Ok(Given { value, place })
    }

    /// `origins` where it stands in `[auth]`.
    pub(super) fn auth_origins(
        &self,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Option<Given<Vec<AllowedOrigin>>>, ConfigFault> {
        let mut entries = value.get_ref().as_table().into_iter().flatten();
        entries.find(|(key, _)| key.get_ref() == "origins").map(|(_, value)| self.origins(value)).transpose()
    }

    fn key_files(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<PathBuf>, ConfigFault> {
        let list = value.get_ref().as_array().ok_or_else(|| self.wrong("keys", value, MUST_KEYS))?;
        list.iter().map(|item| self.text("keys", item, MUST_KEYS).map(PathBuf::from)).collect()
    }

    fn text(&self, key: &str, value: &Spanned<DeValue<'_>>, must: &str) -> Result<String, ConfigFault> {
        let parse = |text: &str| if text.is_empty() { Err(must.to_owned()) } else { Ok(text.to_owned()) };
        Ok(self.text_value(key, value, must, parse)?.value)
    }

    fn claim(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<ClaimPath, ConfigFault> {
        let parse = |text: &str| text.parse().map_err(|fault| format!("{MUST_CLAIM}: {fault}"));
        Ok(self.text_value(key, value, MUST_CLAIM, parse)?.value)
    }
}

/// A cookie comes with every page that the visitor has open, so the pages must be named from which it counts.
pub(super) fn check_cookie(auth: &Auth, origins: &[AllowedOrigin], place: Place) -> Result<(), ConfigFault> {
    let Auth::Token(auth) = auth else { return Ok(()) };
    if auth.cookie.is_some() && (origins.is_empty() || origins.contains(&AllowedOrigin::Any)) {
        let what = "cookie needs origins that name the pages from which it counts, and not \"*\"".to_owned();
        return Err(ConfigFault::Table { place, what });
    }
    Ok(())
}

fn parse_cookie(text: &str) -> Result<String, String> {
    if is_cookie_name(text) { Ok(text.to_owned()) } else { Err(MUST_COOKIE.to_owned()) }
}

impl TokenAuth {
    fn has_key(&self) -> bool {
        !self.keys.is_empty() || self.secret_file.is_some() || self.secret_env.is_some() || self.jwks_url.is_some()
    }

    fn is_for_this_server(&self) -> bool {
        self.rules.issuer.is_some() && self.rules.audience.is_some()
    }
}

/// Keys that come over a network in the clear are whoever's who can reach the wire; on this host there is none.
fn parse_jwks_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|_| MUST_URL.to_owned())?;
    let host = url.host_str().unwrap_or_default();
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_own = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_own);
    // What stands there for a password would stand in lines of the log.
    let has_secret = !url.username().is_empty() || url.password().is_some();
    if is_safe && !has_secret && !host.is_empty() { Ok(text.to_owned()) } else { Err(MUST_URL.to_owned()) }
}

fn parse_mode(text: &str) -> Result<bool, String> {
    match text {
        "open" => Ok(false),
        "token" => Ok(true),
        _ => Err(MUST_MODE.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, fault};
    use super::*;

    fn token(text: &str) -> TokenAuth {
        match config(text).unwrap().auth {
            Auth::Token(auth) => *auth,
            Auth::Open => panic!("{text}"),
        }
    }

    #[test]
    fn without_a_word_users_are_who_they_say() {
        assert_eq!(config("").unwrap().auth, Auth::Open);
        assert_eq!(config("[auth]\nmode = 'open'").unwrap().auth, Auth::Open);
    }

    #[test]
    fn what_is_said_of_tokens_holds_and_the_rest_has_defaults() {
        let auth = token("[auth]\nmode = 'token'\nsecret_file = 's'");
        assert_eq!((auth.secret_file, auth.grace_ms, auth.guests), (Some("s".into()), 25_000, false));
        assert_eq!(auth.rules, Rules::default());
        let auth = token(
            "[auth]\nmode = 'token'\nkeys = ['a.pem', 'b.jwks']\nissuer = 'i'\naudience = 'a'\nuser_claim = 'x.y'\n\
             rooms_claim = 'r'\nlifetime_hours_max = 2\ngrace_ms = 0\nsecret_env = 'E'\nguests = true",
        );
        assert_eq!(auth.keys, ["a.pem", "b.jwks"].map(PathBuf::from));
        assert_eq!((auth.rules.issuer.as_deref(), auth.rules.audience.as_deref()), (Some("i"), Some("a")));
        assert_eq!(auth.rules.user_claim.names().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!((auth.rules.lifetime_seconds_max, auth.grace_ms, auth.guests), (7_200, 0, true));
        assert_eq!(auth.secret_env.as_deref(), Some("E"));
    }

    #[test]
    fn keys_come_from_an_address_with_tls_or_from_this_host() {
        for url in ["https://id.example.com/keys", "http://127.0.0.1:8080/k", "http://[::1]:1/k", "http://localhost/k"]
        {
            let auth = token(&format!("[auth]\nmode = 'token'\njwks_url = '{url}'\nissuer = 'i'\naudience = 'a'"));
            assert_eq!(auth.jwks_url.as_deref(), Some(url));
        }
    }

    #[test]
    fn a_printed_auth_can_be_fed_back() {
        let text = "[auth]\nmode = 'token'\nkeys = ['a\"b.pem']\nissuer = 'i'\naudience = 'a'\njwks_url = 'https://i/k'\nuser_claim = 'https://e.com/c.uid'\n\
                    grace_ms = 7\nlifetime_hours_max = 3\nguests = true\n[[rooms]]\nmatch = 'lobby'\nusers = ['member']\n\
                    guests = ['read']\nposts_per_second_max = 9\n[[rooms]]\nmatch = 'news-*'\nusers = ['read', 'history']\n\
                    [[rooms]]\nmatch = 'door'\nguests = ['member']";
        let config = config(text).unwrap();
        assert_eq!(super::super::tests::config(&config.to_toml().unwrap()).unwrap(), config);
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        for (text, says) in [
            ("auth = 1", "banter.toml:1: auth must be a table: [auth]"),
            ("[auth]\nkeys = ['a']", "[auth] has no mode"),
            ("[auth]\nmode = 'jwt'", "banter.toml:2: mode must be \"open\" or \"token\", and is 'jwt'"),
            ("[auth]\nmode = 'token'", "has no key to check them with"),
            ("[auth]\nmode = 'token'\nkeys = []", "has no key to check them with"),
            ("[auth]\nmode = 'open'\nissuer = 'A'", "asks for none"),
            ("[auth]\nmode = 'open'\nguests = true", "asks for none"),
            ("[auth]\nmode = 'token'\nguests = 'all'", "guests must be true or false"),
            ("[auth]\nmode = 'token'\nkeys = 'a'", "keys must be a list of files"),
            ("[auth]\nmode = 'token'\nkeys = [1]", "keys must be a list of files"),
            ("[auth]\nmode = 'token'\nsecret_file = ''", "secret_file must be the path of a file"),
            ("[auth]\nmode = 'token'\nsecret_env = 3", "secret_env must be the name"),
            ("[auth]\nuser_claim = 'a..b'", "user_claim must be a claim"),
            ("[auth]\nlifetime_hours_max = 0", "lifetime_hours_max must be at least 1"),
            ("[auth]\nlifetime_hours_max = 745", "must be a whole number from 0 to 744"),
            ("[auth]\nmode = 'token'\njwks_url = 'https://i.example/k'", "say issuer and audience"),
            ("[auth]\nmode = 'token'\njwks_url = 'https://i.example/k'\nissuer = 'i'", "say issuer and audience"),
            ("[auth]\njwks_url = 'http://i.example/k'", "jwks_url must be an address with https"),
            ("[auth]\njwks_url = 'http://127.0.0.1.example/k'", "jwks_url must be an address with https"),
            ("[auth]\njwks_url = 'file:///etc/keys'", "jwks_url must be an address with https"),
            ("[auth]\njwks_url = 'id.example.com'", "jwks_url must be an address with https"),
            ("[auth]\nmod = 'token'", "unknown key \"mod\" in [auth]: did you mean \"mode\"?"),
            ("[auth]\nzzz = 1", "the known ones are mode, keys"),
            ("issuer = 'a'", "did you mean \"issuer\" in [auth]?"),
        ] {
            assert!(fault(text).contains(says), "{text}: {}", fault(text));
        }
    }
}
