//! The token that a request for a WebSocket brings along: in `Authorization`, in a cookie, and not in its target.
//!
//! Invariant: a token that could be read in two ways is refused, and none is ever part of a fault, which may stand in a log.

use crate::http::HttpRequest;

/// What a query must not hold: it stands in the logs of every proxy on the way, and in the browser's history.
const TOKEN_PARAMETERS: [&str; 6] = ["token", "access_token", "id_token", "jwt", "bearer", "authorization"];

/// Why a request's token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum CredentialsFault {
    #[error(
        "a token in the query would stand in the logs of every proxy: send it in `hello`, or in the header Authorization: Bearer"
    )]
    InQuery,
    #[error("more than one Authorization")]
    TwoAuthorizations,
    #[error("Authorization must be Bearer and a token")]
    NotBearer,
    #[error("more than one cookie with the token's name: which of them is the server's own nobody can tell")]
    TwoCookies,
}

/// Refuses a request with a token in its target.
///
/// # Errors
/// When a parameter of its query is called like one.
pub fn refuse_token_in_query(request: &HttpRequest<'_>) -> Result<(), CredentialsFault> {
    let parameters = request.query.unwrap_or_default().split(['&', ';']);
    let names = parameters.map(|parameter| parameter.split_once('=').map_or(parameter, |(name, _)| name));
    for name in names {
        if TOKEN_PARAMETERS.iter().any(|token| token.eq_ignore_ascii_case(name)) {
            return Err(CredentialsFault::InQuery);
        }
    }
    Ok(())
}

/// The token of `Authorization: Bearer`.
///
/// # Errors
/// When there is more than one, or something else.
pub fn bearer<'a>(request: &HttpRequest<'a>) -> Result<Option<&'a str>, CredentialsFault> {
    let mut values = request.values("authorization");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(CredentialsFault::TwoAuthorizations);
    }
    let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match token.map(|(_, token)| token.trim_ascii()) {
        Some(token) if !token.is_empty() && !token.contains(' ') => Ok(Some(token)),
        _ => Err(CredentialsFault::NotBearer),
    }
}

/// The value of the cookie of that name (RFC 6265, section 4.2.1).
///
/// # Errors
/// When there are several, as a page of a neighbouring name can bring about.
pub fn cookie<'a>(request: &HttpRequest<'a>, name: &str) -> Result<Option<&'a str>, CredentialsFault> {
    let pairs = request.values("cookie").flat_map(|value| value.split(';'));
    let mut found = pairs.filter_map(|pair| pair.split_once('=')).filter(|(found, _)| found.trim_ascii() == name);
    let first = found.next().map(|(_, value)| unquoted(value.trim_ascii()));
    match found.next() {
        Some(_) => Err(CredentialsFault::TwoCookies),
        None => Ok(first.filter(|value| !value.is_empty())),
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Whether this can be a cookie's name (RFC 6265: a token of HTTP).
pub fn is_cookie_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Head, parse_head};

    fn with<T>(target: &str, lines: &str, read: impl FnOnce(&HttpRequest<'_>) -> T) -> T {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        match parse_head(head.as_bytes()) {
            Ok(Head::Complete { request, .. }) => read(&request),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_in_the_query_is_refused_however_it_is_called() {
        for target in
            ["/ws?token=abc", "/ws?a=1&access_token=abc", "/?Token=", "/ws?jwt", "/ws?x;bearer=1", "/ws?token=?"]
        {
            assert_eq!(with(target, "", refuse_token_in_query), Err(CredentialsFault::InQuery), "{target}");
        }
        for target in ["/ws", "/ws?", "/ws?room=token", "/ws?tokens=1", "/token=1", "/ws?a=b=token"] {
            assert_eq!(with(target, "", refuse_token_in_query), Ok(()), "{target}");
        }
        assert!(!CredentialsFault::InQuery.to_string().contains("abc"));
    }

    #[test]
    fn a_bearer_is_read_and_what_is_another_or_two_is_refused() {
        let bearer_of =
            |lines: &str| with("/ws", lines, |request| bearer(request).map(|token| token.map(str::to_owned)));
        assert_eq!(bearer_of(""), Ok(None));
        for line in ["Authorization: Bearer a.b.c\r\n", "authorization:bearer  a.b.c \r\n"] {
            assert_eq!(bearer_of(line), Ok(Some("a.b.c".to_owned())), "{line}");
        }
        for line in [
            "Authorization: Basic abc\r\n",
            "Authorization: Bearer\r\n",
            "Authorization: Bearer a b\r\n",
            "Authorization:\r\n",
        ] {
            assert_eq!(bearer_of(line), Err(CredentialsFault::NotBearer), "{line}");
        }
        let two = "Authorization: Bearer a\r\nAuthorization: Bearer a\r\n";
        assert_eq!(bearer_of(two), Err(CredentialsFault::TwoAuthorizations));
    }

    #[test]
    fn a_cookie_is_read_by_its_name_and_two_are_refused() {
        let cookie_of =
            |lines: &str| with("/ws", lines, |request| cookie(request, "chat").map(|token| token.map(str::to_owned)));
        for (lines, expected) in [
            ("", None),
            ("Cookie: chat=a.b.c\r\n", Some("a.b.c")),
            ("Cookie: other=1; chat=a.b.c; chats=2\r\n", Some("a.b.c")),
            ("Cookie: other=1\r\ncookie: chat=\"a.b.c\"\r\n", Some("a.b.c")),
            ("Cookie: chat=a=b\r\n", Some("a=b")),
            ("Cookie: Chat=a; xchat=b; chat\r\n", None),
            ("Cookie: chat=\r\n", None),
        ] {
            assert_eq!(cookie_of(lines), Ok(expected.map(str::to_owned)), "{lines}");
        }
        for lines in ["Cookie: chat=a; chat=a\r\n", "Cookie: chat=a\r\nCookie: chat=b\r\n"] {
            assert_eq!(cookie_of(lines), Err(CredentialsFault::TwoCookies), "{lines}");
        }
        assert!(
            is_cookie_name("__Host-chat") && !is_cookie_name("") && !is_cookie_name("a b") && !is_cookie_name("a=b")
        );
    }
}
