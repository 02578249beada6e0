//! Which web pages may open a WebSocket, by what a browser says of them: `Origin`, the page's, and `Host`, the server's.
//!
//! Invariant: a page gets in only if its origin was allowed by name, or if it is the server's own page, and
//! where the server listens on loopback by a name that nobody else can point there.
//!
//! A browser lets any page connect to anything that its visitor can reach, and says in `Origin` which page it is. Who is
//! no browser says nothing, and could say whatever it liked. An own page is one whose origin is the host that it talks to;
//! but whoever owns a name may first serve a page from it and then let it resolve to the visitor's own machine ("DNS
//! rebinding"). So a server that listens on a loopback address only believes the names of loopback, and IP addresses,
//! which do not resolve to anything but themselves.
//!
//! What is not here: which requests are judged. Plain ones change nothing and are not.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What an entry of `origins` must be.
const MUST: &str =
    "must be \"*\" or an origin like \"https://chat.example.com\" or \"http://localhost:5173\", without a path";

/// Where a page comes from, in one spelling: lower case, and the port that its scheme goes without written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// Whether this is a page of the server that a browser calls `host` (a name or address, perhaps with a port).
    fn is_of(&self, host: &str) -> bool {
        let is_web = matches!(&*self.scheme, "http" | "https");
        is_web && format!("{}://{host}", self.scheme).parse::<Origin>().is_ok_and(|own| own == *self)
    }
}

impl FromStr for Origin {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(())?;
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
            return Err(());
        }
        let (host, port) = split_port(authority)?;
        Ok(Origin { scheme: scheme.into(), host: host.into(), port: port.or(default_port(scheme)) })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match self.port.filter(|port| Some(*port) != default_port(&self.scheme)) {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Takes the port off a host; an IPv6 address is in brackets.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), ()> {
    let (host, port) = match authority.rsplit_once(':') {
        // The colon is one of an address.
        Some((_, behind)) if behind.ends_with(']') => (authority, None),
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, Some(port.parse().map_err(|_| ())?))
        }
        Some(_) => return Err(()),
        None => (authority, None),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if (!host.is_empty() && host.bytes().all(is_name)) || bracketed(host).is_some() {
        Ok((host, port))
    } else {
        Err(())
    }
}

fn bracketed(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// An entry of `origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `*`: all.
    Any,
    /// That one.
    One(Origin),
}

impl FromStr for AllowedOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(AllowedOrigin::Any);
        }
        text.parse().map(AllowedOrigin::One).map_err(|()| MUST.to_owned())
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllowedOrigin::Any => f.write_str("*"),
            AllowedOrigin::One(origin) => origin.fmt(f),
        }
    }
}

/// Why a page is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginFault {
    /// Its origin is not this server's own, and was not allowed.
    #[error("the page's origin is not allowed: to let it in, add it to the key `origins`")]
    Foreign,
    /// Its origin is the host that it talks to, by a name that may be anybody's.
    #[error(
        "the server listens on a loopback address and does not know that host: add the page's origin to the key `origins`"
    )]
    UnknownHost,
    /// A cookie comes with whatever page the browser has open, so only such count that were named.
    #[error("a token in a cookie is taken from pages that the key `origins` names, and from nobody else")]
    NotNamed,
}

/// Which pages are let in.
#[derive(Clone, Debug, Default)]
pub struct OriginRule {
    /// These, whatever host they talk to.
    pub allowed: Vec<AllowedOrigin>,
    /// The server listens on a loopback address only.
    pub is_loopback_only: bool,
}

impl OriginRule {
    /// Judges who asks for a WebSocket by the headers of that name.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn judge(&self, origin: Option<&str>, host: Option<&str>) -> Result<(), OriginFault> {
        let Some(origin) = origin else { return Ok(()) };
        if self.allowed.contains(&AllowedOrigin::Any) {
            return Ok(());
        }
        // `null`, a page that hides where it comes from, is none.
        let origin: Origin = origin.parse().map_err(|()| OriginFault::Foreign)?;
        if self.allowed.contains(&AllowedOrigin::One(origin.clone())) {
            return Ok(());
        }
        match host.is_some_and(|host| origin.is_of(host)) {
            false => Err(OriginFault::Foreign),
            true if self.is_loopback_only && !self.is_known(&origin.host) => Err(OriginFault::UnknownHost),
            true => Ok(()),
        }
    }

    /// Judges who asks with a cookie, which a browser sends whatever page it is that asks.
    ///
    /// # Errors
    /// Unless its origin is there and was named.
    pub fn judge_cookie(&self, origin: Option<&str>) -> Result<(), OriginFault> {
        let named = origin.and_then(|origin| origin.parse().ok()).map(AllowedOrigin::One);
        if named.is_some_and(|origin| self.allowed.contains(&origin)) { Ok(()) } else { Err(OriginFault::NotNamed) }
    }

    /// Whether a host, of which it is known that the browser took it for this server, can be nobody else's.
    fn is_known(&self, host: &str) -> bool {
        let is_listed = |allowed: &AllowedOrigin| matches!(allowed, AllowedOrigin::One(origin) if origin.host == host);
        // Browsers resolve `localhost` and what is below it themselves (RFC 6761 section 6.3).
        let is_localhost = host == "localhost" || host.ends_with(".localhost");
        let is_address = host.parse::<IpAddr>().is_ok() || bracketed(host).is_some();
        is_localhost || is_address || self.allowed.iter().any(is_listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allowed: &[&str], is_loopback_only: bool) -> OriginRule {
        OriginRule { allowed: allowed.iter().map(|text| text.parse().expect(text)).collect(), is_loopback_only }
    }

    fn judge(rule: &OriginRule, origin: &str, host: &str) -> Result<(), OriginFault> {
        rule.judge(Some(origin), Some(host))
    }

    #[test]
    fn who_is_no_browser_passes_whatever_host_it_names() {
        for host in [None, Some("127.0.0.1:7878"), Some("evil.example")] {
            assert_eq!(rule(&[], true).judge(None, host), Ok(()));
        }
    }

    #[test]
    fn an_own_page_passes() {
        for (origin, host) in [
            ("http://127.0.0.1:7878", "127.0.0.1:7878"),
            ("http://localhost:7878", "localhost:7878"),
            ("http://LocalHost:7878", "localhost:7878"),
            ("http://chat.localhost:7878", "chat.localhost:7878"),
            ("http://[::1]:7878", "[::1]:7878"),
            ("http://localhost", "localhost"),
            ("http://localhost", "localhost:80"),
            ("https://localhost", "localhost"),
            ("https://localhost:443", "localhost"),
            ("https://192.168.1.5:7878", "192.168.1.5:7878"),
        ] {
            assert_eq!(judge(&rule(&[], true), origin, host), Ok(()), "{origin} {host}");
        }
        let everywhere = rule(&[], false);
        assert_eq!(judge(&everywhere, "https://chat.example.com", "chat.example.com"), Ok(()));
        assert_eq!(judge(&everywhere, "https://Chat.example.com", "chat.Example.com:443"), Ok(()));
    }

    #[test]
    fn a_foreign_page_is_refused() {
        for (origin, host) in [
            ("https://evil.example", "127.0.0.1:7878"),
            ("http://127.0.0.1:7879", "127.0.0.1:7878"),
            ("http://127.0.0.1", "127.0.0.1:7878"),
            ("http://localhost:7878", "127.0.0.1:7878"),
            ("http://localhost:80", "localhost:443"),
            ("https://localhost", "localhost:80"),
            ("ftp://localhost:7878", "localhost:7878"),
            ("chrome-extension://localhost", "localhost"),
            ("http://localhost:7878.evil.example", "localhost:7878"),
            ("http://localhost:7878@evil.example", "localhost:7878"),
            ("http://localhost:7878/", "localhost:7878"),
            ("null", "localhost:7878"),
            ("null", "null"),
            ("", "localhost:7878"),
            ("://", ""),
            ("http://", ""),
            ("http://:80", ":80"),
        ] {
            for is_loopback_only in [true, false] {
                let fault = judge(&rule(&["https://chat.example"], is_loopback_only), origin, host);
                assert_eq!(fault, Err(OriginFault::Foreign), "{origin} {host}");
            }
        }
        assert_eq!(rule(&[], false).judge(Some("http://a"), None), Err(OriginFault::Foreign));
    }

    #[test]
    fn a_name_that_was_made_to_resolve_to_loopback_is_refused() {
        for (origin, host) in [
            ("http://evil.example:7878", "evil.example:7878"),
            ("http://localhost.evil.example", "localhost.evil.example"),
            ("http://notlocalhost", "notlocalhost"),
            ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example"),
        ] {
            assert_eq!(judge(&rule(&[], true), origin, host), Err(OriginFault::UnknownHost), "{host}");
            assert_eq!(judge(&rule(&["http://other.example"], true), origin, host), Err(OriginFault::UnknownHost));
        }
    }

    #[test]
    fn an_allowed_page_passes_behind_a_proxy_whatever_host_that_sets() {
        let allows = rule(&["https://chat.example.com", "http://localhost:5173", "capacitor://localhost"], true);
        for (origin, host) in [
            ("https://chat.example.com", "127.0.0.1:7878"),
            ("https://chat.example.com:443", "chat.example.com"),
            ("http://localhost:5173", "localhost:7878"),
            ("capacitor://localhost", "localhost:7878"),
            // The name is known, also where the scheme is another.
            ("http://chat.example.com:7878", "chat.example.com:7878"),
        ] {
            assert_eq!(judge(&allows, origin, host), Ok(()), "{origin} {host}");
        }
        for origin in ["http://chat.example.com", "https://chat.example.com:444", "https://a.chat.example.com", "null"]
        {
            assert_eq!(judge(&allows, origin, "127.0.0.1:7878"), Err(OriginFault::Foreign), "{origin}");
        }
    }

    #[test]
    fn a_star_lets_all_in() {
        for origin in ["https://evil.example", "null", ""] {
            assert_eq!(judge(&rule(&["*"], true), origin, "evil.example"), Ok(()));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_judged_and_a_spelling_means_what_it_came_from(
            origin in "[a-z:/.\\[\\]0-9@é -]{0,24}",
            host in "([a-z.:0-9\\[\\]]{0,16}|\\PC{0,8})",
        ) {
            let _ = judge(&rule(&["https://a.example"], true), &origin, &host);
            let _ = judge(&rule(&[], true), &format!("http://{host}"), &host);
            if let Ok(parsed) = origin.parse::<Origin>() {
                proptest::prop_assert_eq!(parsed.to_string().parse::<Origin>(), Ok(parsed));
            }
        }
    }

    #[test]
    fn an_entry_has_one_spelling_and_no_path() {
        for (text, spelling) in [
            ("*", "*"),
            ("https://Chat.Example.com:443", "https://chat.example.com"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://[::1]:80", "http://[::1]"),
            ("app://x", "app://x"),
        ] {
            assert_eq!(text.parse::<AllowedOrigin>().expect(text).to_string(), spelling);
        }
        for text in
            ["", "null", "chat.example.com", "https://", "https://a/", "https://a:x", "https://a:99999", "https://*.a"]
        {
            assert!(text.parse::<AllowedOrigin>().is_err_and(|must| must == MUST), "{text}");
        }
    }
}
