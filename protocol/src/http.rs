//! The head of an HTTP/1.1 request, sans-io: enough of HTTP to open a WebSocket and to answer small requests.
//!
//! Invariants:
//! - A head is judged whole or not at all: no prefix of a good head is a fault, and a head that is not whole within
//!   [`HEAD_BYTES_MAX`] bytes is refused however it is cut.
//! - Whatever could be read in two ways (two hosts, two lengths, a length and a transfer coding, a folded line) is
//!   refused: a proxy in front may have read it the other way.
//! - Parsing allocates nothing; what it finds is borrowed from the bytes.
//!
//! What is not here: bodies (the caller knows their length), chunked coding, routing, and whether an origin is welcome.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use httparse::{EMPTY_HEADER, Header, Request, Status};
use tungstenite::handshake::derive_accept_key;

/// A request's head, with its first line and the empty line behind it, is at most this long.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// A request has at most this many headers. A browser behind two proxies sends about 25.
pub const HEADERS_MAX: usize = 64;
/// The version of the WebSocket protocol that RFC 6455 defines, and the only one there is.
pub const WEBSOCKET_VERSION: &str = "13";

/// Bytes of a decoded `Sec-WebSocket-Key`.
const KEY_BYTES: usize = 16;
/// Characters that encode them: a third more, rounded up to a group of four.
const KEY_CHARS: usize = KEY_BYTES.div_ceil(3) * 4;

/// The key is only echoed, so bits that a careless client left set behind its last byte do no harm.
const KEY_BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// What the first bytes of a request hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// More bytes are needed.
    Partial,
    /// A whole head.
    Complete {
        /// Its bytes; what is behind them is the body, or the next request, or frames.
        consumed: usize,
        /// What it says.
        request: HttpRequest<'a>,
    },
}

/// What a request's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpRequest<'a> {
    /// As sent: methods are case-sensitive.
    pub method: &'a str,
    /// As sent, up to the `?`; starts with `/`, or is the `*` of OPTIONS.
    pub path: &'a str,
    /// What is behind the first `?`.
    pub query: Option<&'a str>,
    /// Of the target where that is a whole URL, else of the Host header. HTTP/1.0 may do without.
    pub host: Option<&'a str>,
    /// Where the page came from that makes this request; browsers always say it for a WebSocket.
    pub origin: Option<&'a str>,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    /// Bytes of body behind the head.
    pub body_bytes: u64,
    /// The client asks for a WebSocket, and asks correctly.
    pub upgrade: Option<Upgrade<'a>>,
}

/// A correct request for a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade<'a> {
    /// For [`write_upgrade_response`].
    pub key: &'a str,
    /// What the client can speak, best first.
    pub subprotocols: Subprotocols<'a>,
}

/// The subprotocols that a client offers: the lines of the head, read again when asked for. So they take no place in a
/// request, however many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subprotocols<'a> {
    /// Without lines where none is offered.
    head: &'a [u8],
}

impl<'a> Subprotocols<'a> {
    /// Each subprotocol, in the client's order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.head.split(|byte| *byte == b'\n').filter_map(subprotocols_of_line).flat_map(list)
    }
}

/// The value of a line that offers subprotocols. httparse has accepted the line, so it has a name and a colon.
fn subprotocols_of_line(line: &[u8]) -> Option<&str> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    if !name.eq_ignore_ascii_case(b"sec-websocket-protocol") {
        return None;
    }
    std::str::from_utf8(&value[1..]).ok()
}

/// Why a request is refused. The connection is closed behind the answer: where the next request starts is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum HttpFault {
    #[error("the request's head is above {HEAD_BYTES_MAX} bytes")]
    HeadTooLarge,
    #[error("the request has more than {HEADERS_MAX} headers")]
    TooManyHeaders,
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    #[error("only HTTP/1.1 and HTTP/1.0 are spoken here")]
    BadVersion,
    #[error("a body with a Transfer-Encoding is not taken")]
    TransferEncoding,
    #[error("bad WebSocket upgrade: {0}")]
    BadUpgrade(&'static str),
    #[error("Sec-WebSocket-Version must be {WEBSOCKET_VERSION}")]
    BadWebSocketVersion,
}

impl HttpFault {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            HttpFault::Malformed(_) | HttpFault::BadUpgrade(_) => 400,
            HttpFault::BadWebSocketVersion => 426,
            HttpFault::HeadTooLarge | HttpFault::TooManyHeaders => 431,
            HttpFault::TransferEncoding => 501,
            HttpFault::BadVersion => 505,
        }
    }

    /// Headers that the answer must carry.
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            HttpFault::BadWebSocketVersion => &[("Sec-WebSocket-Version", WEBSOCKET_VERSION), ("Upgrade", "websocket")],
            _ => &[],
        }
    }
}

impl From<httparse::Error> for HttpFault {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => HttpFault::TooManyHeaders,
            httparse::Error::Version => HttpFault::BadVersion,
            httparse::Error::HeaderName => HttpFault::Malformed("a header's name"),
            httparse::Error::HeaderValue => HttpFault::Malformed("a header's value"),
            httparse::Error::NewLine => HttpFault::Malformed("a line's end"),
            httparse::Error::Token => HttpFault::Malformed("the method or the target"),
            httparse::Error::Status => HttpFault::Malformed("the first line"),
        }
    }
}

/// Reads the request head at the front of `bytes`.
///
/// # Errors
/// When the request must be refused; answer with [`HttpFault::status`] and close.
pub fn parse_head(bytes: &[u8]) -> Result<Head<'_>, HttpFault> {
    // Never looks further, so that more bytes in one input do not make a larger head good.
    let bytes = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = Request::new(&mut headers);
    let consumed = match parsed.parse(bytes)? {
        Status::Complete(consumed) => consumed,
        Status::Partial if bytes.len() == HEAD_BYTES_MAX => return Err(HttpFault::HeadTooLarge),
        Status::Partial => return Ok(Head::Partial),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(HttpFault::Malformed("the first line"));
    };
    let mut fields = Fields::default();
    for header in parsed.headers.iter() {
        fields.take(header)?;
    }
    let request = fields.into_request(method, Target::parse(method, target)?, minor >= 1, &bytes[..consumed])?;
    Ok(Head::Complete { consumed, request })
}

/// The headers that matter here, as they came.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a str>,
    origin: Option<&'a str>,
    content_length: Option<u64>,
    key: Option<&'a str>,
    version: Option<&'a str>,
    offers_subprotocols: bool,
    upgrades_to_websocket: bool,
    connection: ConnectionOptions,
}

#[derive(Default)]
struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, header: &Header<'a>) -> Result<(), HttpFault> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // The first letter spares most headers the comparisons.
        match header.name.as_bytes().first().map(u8::to_ascii_lowercase) {
            Some(b'h') if is("host") => once(&mut self.host, header, "more than one Host")?,
            Some(b'o') if is("origin") => once(&mut self.origin, header, "more than one Origin")?,
            Some(b'u') if is("upgrade") => {
                self.upgrades_to_websocket |= list(text(header)?).any(|word| word.eq_ignore_ascii_case("websocket"));
            }
            Some(b't') if is("transfer-encoding") => return Err(HttpFault::TransferEncoding),
            Some(b'c') if is("connection") => self.connection.take(text(header)?),
            Some(b'c') if is("content-length") => self.take_content_length(text(header)?)?,
            Some(b's') => self.take_websocket(header)?,
            _ => {}
        }
        Ok(())
    }

    fn take_websocket(&mut self, header: &Header<'a>) -> Result<(), HttpFault> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("sec-websocket-key") {
            once(&mut self.key, header, "more than one Sec-WebSocket-Key")?;
        } else if is("sec-websocket-version") {
            once(&mut self.version, header, "more than one Sec-WebSocket-Version")?;
        } else if is("sec-websocket-protocol") {
            if !list(text(header)?).all(is_token) {
                return Err(HttpFault::Malformed("a subprotocol's name"));
            }
            self.offers_subprotocols = true;
        }
        Ok(())
    }

    fn take_content_length(&mut self, value: &str) -> Result<(), HttpFault> {
        // `parse` alone would let a sign through.
        let bytes = value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten();
        let bytes = bytes.ok_or(HttpFault::Malformed("Content-Length is no number"))?;
        match self.content_length.replace(bytes) {
            Some(before) if before != bytes => Err(HttpFault::Malformed("two lengths")),
            _ => Ok(()),
        }
    }

    fn into_request(
        self,
        method: &'a str,
        target: Target<'a>,
        is_http_1_1: bool,
        head: &'a [u8],
    ) -> Result<HttpRequest<'a>, HttpFault> {
        if is_http_1_1 && self.host.is_none() {
            return Err(HttpFault::Malformed("HTTP/1.1 needs a Host"));
        }
        let body_bytes = self.content_length.unwrap_or(0);
        let upgrade = match self.upgrades_to_websocket {
            true if !is_http_1_1 => return Err(HttpFault::BadUpgrade("it needs HTTP/1.1")),
            true if body_bytes > 0 => return Err(HttpFault::BadUpgrade("it must have no body")),
            true => Some(self.upgrade(method, head)?),
            false => None,
        };
        Ok(HttpRequest {
            method,
            path: target.path,
            query: target.query,
            host: target.host.or(self.host),
            origin: self.origin,
            keep_alive: self.connection.keeps_alive(is_http_1_1),
            body_bytes,
            upgrade,
        })
    }

    fn upgrade(&self, method: &str, head: &'a [u8]) -> Result<Upgrade<'a>, HttpFault> {
        if method != "GET" {
            return Err(HttpFault::BadUpgrade("the method must be GET"));
        }
        if !self.connection.upgrade {
            return Err(HttpFault::BadUpgrade("Connection must name Upgrade; is a proxy on the way?"));
        }
        if self.version != Some(WEBSOCKET_VERSION) {
            return Err(HttpFault::BadWebSocketVersion);
        }
        let key = self.key.ok_or(HttpFault::BadUpgrade("Sec-WebSocket-Key is missing"))?;
        if !is_key(key) {
            return Err(HttpFault::BadUpgrade("Sec-WebSocket-Key must be 16 bytes in base64"));
        }
        let head = if self.offers_subprotocols { head } else { &[] };
        Ok(Upgrade { key, subprotocols: Subprotocols { head } })
    }
}

impl ConnectionOptions {
    fn take(&mut self, value: &str) {
        for option in list(value) {
            self.close |= option.eq_ignore_ascii_case("close");
            self.keep_alive |= option.eq_ignore_ascii_case("keep-alive");
            self.upgrade |= option.eq_ignore_ascii_case("upgrade");
        }
    }

    fn keeps_alive(&self, is_http_1_1: bool) -> bool {
        !self.close && (is_http_1_1 || self.keep_alive)
    }
}

/// A request's target, taken apart.
struct Target<'a> {
    host: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// `/path?query`, what a proxy is sent (`http://host/path?query`), or the `*` of OPTIONS.
    fn parse(method: &str, target: &'a str) -> Result<Self, HttpFault> {
        if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
            return Ok(Target::split(None, target));
        }
        let (scheme, rest) = target.split_once("://").ok_or(HttpFault::Malformed("the target"))?;
        let known = ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !known || host.is_empty() || host.contains('@') {
            return Err(HttpFault::Malformed("the target"));
        }
        Ok(Target::split(Some(host), path))
    }

    fn split(host: Option<&'a str>, path_and_query: &'a str) -> Self {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        Target { host, path: if path.is_empty() { "/" } else { path }, query }
    }
}

fn text<'a>(header: &Header<'a>) -> Result<&'a str, HttpFault> {
    std::str::from_utf8(header.value).map_err(|_| HttpFault::Malformed("a header's value is not UTF-8"))
}

/// Takes a header that may come only once.
fn once<'a>(place: &mut Option<&'a str>, header: &Header<'a>, twice: &'static str) -> Result<(), HttpFault> {
    match place.replace(text(header)?) {
        Some(_) => Err(HttpFault::Malformed(twice)),
        None => Ok(()),
    }
}

/// The elements of a comma-separated header. Empty ones do not count (RFC 9110 section 5.6.1).
fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim_ascii).filter(|word| !word.is_empty())
}

/// Whether this is a token (RFC 9110 section 5.6.2).
fn is_token(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_key(key: &str) -> bool {
    // `decode_slice` asks for place for whole groups.
    let mut bytes = [0; KEY_CHARS / 4 * 3];
    key.len() == KEY_CHARS && KEY_BASE64.decode_slice(key, &mut bytes) == Ok(KEY_BYTES)
}

/// Appends the answer that opens a WebSocket. `subprotocol` must be one that the client offered, and is confirmed.
pub fn write_upgrade_response(out: &mut Vec<u8>, key: &str, subprotocol: Option<&str>) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    write_header(out, "Upgrade", "websocket");
    write_header(out, "Connection", "Upgrade");
    write_header(out, "Sec-WebSocket-Accept", &derive_accept_key(key.as_bytes()));
    if let Some(subprotocol) = subprotocol {
        write_header(out, "Sec-WebSocket-Protocol", subprotocol);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole answer; an empty `content_type` is left out. With `head_only` the body is told by its length alone, as HEAD asks. No header may hold a
/// line end: none of them comes from a peer.
pub fn write_response(
    out: &mut Vec<u8>,
    status: u16,
    content_type: &str,
    extra_headers: &[(&str, &str)],
    body: &[u8],
    head_only: bool,
    keep_alive: bool,
) {
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(digits.format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if !content_type.is_empty() {
        write_header(out, "Content-Type", content_type);
    }
    write_header(out, "Content-Length", digits.format(body.len()));
    write_header(out, "Connection", if keep_alive { "keep-alive" } else { "close" });
    for (name, value) in extra_headers {
        write_header(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(body);
    }
}

fn write_header(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// What a status is called. A status that is not used here has no name, which HTTP allows.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const UPGRADE: &str = "GET /ws?room=lobby HTTP/1.1\r\n\
        Host: chat.example:7878\r\n\
        User-Agent: x\r\n\
        Connection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\n\
        Origin: https://app.example\r\n\
        Sec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: banter.json.v1, banter.rkyv.v1\r\n\
        \r\n";

    fn request(head: &str) -> HttpRequest<'_> {
        match parse_head(head.as_bytes()) {
            Ok(Head::Complete { consumed, request }) if consumed == head.len() => request,
            other => panic!("{other:?} of {head:?}"),
        }
    }

    fn fault(head: &str) -> HttpFault {
        parse_head(head.as_bytes()).expect_err(head)
    }

    /// The good upgrade with one line replaced (or taken out, or doubled).
    fn upgrade_with(line: &str, by: &str) -> String {
        assert!(UPGRADE.contains(line), "{line}");
        UPGRADE.replacen(line, by, 1)
    }

    fn with_headers(headers: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
    }

    fn subprotocols<'a>(request: &HttpRequest<'a>) -> Vec<&'a str> {
        request.upgrade.map(|upgrade| upgrade.subprotocols.iter().collect()).unwrap_or_default()
    }

    // What is refused.

    #[test]
    fn a_head_too_large_is_refused_wherever_it_is_cut() {
        let fill = |bytes: usize| {
            let frame = with_headers("X: \r\n").len();
            with_headers(&format!("X: {}\r\n", "y".repeat(bytes - frame)))
        };
        request(&fill(HEAD_BYTES_MAX));
        let large = fill(HEAD_BYTES_MAX + 1);
        assert_eq!(fault(&large), HttpFault::HeadTooLarge);
        assert_eq!(fault(&large[..HEAD_BYTES_MAX]), HttpFault::HeadTooLarge);
        assert_eq!(parse_head(&large.as_bytes()[..HEAD_BYTES_MAX - 1]), Ok(Head::Partial));
        assert_eq!(fault(&"\r\n".repeat(HEAD_BYTES_MAX)), HttpFault::HeadTooLarge);
    }

    #[test]
    fn one_header_too_many_is_refused() {
        let headers = |count: usize| with_headers(&"X: y\r\n".repeat(count - 1));
        request(&headers(HEADERS_MAX));
        assert_eq!(fault(&headers(HEADERS_MAX + 1)), HttpFault::TooManyHeaders);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(fault("GET / HTTP/2.0\r\n\r\n"), HttpFault::BadVersion);
        assert_eq!(fault("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), HttpFault::BadVersion);
        for head in [
            "\x16\x03\x01\x02\x00\x01\x00",
            "G\0T / HTTP/1.1\r\n",
            "GET  HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nNo Colon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
            "GET / HTTP/1.1\rHost: a\r\n\r\n",
        ] {
            assert!(matches!(fault(head), HttpFault::Malformed(_) | HttpFault::BadVersion), "{head:?}");
        }
        let latin_1 = b"GET / HTTP/1.1\r\nHost: caf\xe9\r\n\r\n";
        assert_eq!(parse_head(latin_1), Err(HttpFault::Malformed("a header's value is not UTF-8")));
        // A header that means nothing here may hold anything that HTTP allows.
        assert!(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xe9\r\n\r\n").is_ok());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        assert_eq!(fault("GET / HTTP/1.1\r\n\r\n"), HttpFault::Malformed("HTTP/1.1 needs a Host"));
        assert_eq!(fault(&with_headers("host: b\r\n")), HttpFault::Malformed("more than one Host"));
        let two_origins = with_headers("Origin: https://a\r\nORIGIN: https://b\r\n");
        assert_eq!(fault(&two_origins), HttpFault::Malformed("more than one Origin"));
        let two_lengths = with_headers("Content-Length: 3\r\nContent-Length: 4\r\n");
        assert_eq!(fault(&two_lengths), HttpFault::Malformed("two lengths"));
        for length in ["", "+3", "-3", "3, 3", "0x3", "3 3", "99999999999999999999"] {
            let head = with_headers(&format!("Content-Length: {length}\r\n"));
            assert_eq!(fault(&head), HttpFault::Malformed("Content-Length is no number"), "{length:?}");
        }
        for coding in ["chunked", "gzip, chunked", "identity", ""] {
            let head = with_headers(&format!("Content-Length: 3\r\ntransfer-encoding: {coding}\r\n"));
            assert_eq!(fault(&head), HttpFault::TransferEncoding);
        }
    }

    #[test]
    fn a_target_of_another_form_is_refused() {
        for target in ["*", "a:443", "ws", "ftp://a/", "http://", "http:///ws", "http://me@a/ws", "://a/"] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(fault(&head), HttpFault::Malformed("the target"), "{target}");
        }
    }

    #[test]
    fn a_bad_upgrade_says_what_is_wrong() {
        let bad = |line: &str, by: &str| match fault(&upgrade_with(line, by)) {
            HttpFault::BadUpgrade(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(bad("GET", "POST"), "the method must be GET");
        assert_eq!(bad("HTTP/1.1", "HTTP/1.0"), "it needs HTTP/1.1");
        assert_eq!(bad("User-Agent: x", "Content-Length: 1"), "it must have no body");
        let no_connection = "Connection must name Upgrade; is a proxy on the way?";
        assert_eq!(bad("keep-alive, Upgrade", "keep-alive"), no_connection);
        assert_eq!(bad("Connection: keep-alive, Upgrade\r\n", ""), no_connection);
        assert_eq!(bad("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), "Sec-WebSocket-Key is missing");
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZSE=",
            "dGhlIHNhbXBsZSBub25jZSEh",
            "dGhlIHNhbXBsZSBub25j!Q==",
            "dGhlIHNhbXBsZSBub25jZSBhbmQgbW9yZQ==",
        ] {
            assert_eq!(bad(KEY, key), "Sec-WebSocket-Key must be 16 bytes in base64", "{key:?}");
        }
        let twice = upgrade_with("User-Agent: x", &format!("sec-websocket-key: {KEY}"));
        assert_eq!(fault(&twice), HttpFault::Malformed("more than one Sec-WebSocket-Key"));
        let twice = upgrade_with("User-Agent: x", "sec-websocket-version: 13");
        assert_eq!(fault(&twice), HttpFault::Malformed("more than one Sec-WebSocket-Version"));
        let odd = upgrade_with("banter.json.v1", "banter json");
        assert_eq!(fault(&odd), HttpFault::Malformed("a subprotocol's name"));
        for (line, by) in [("Version: 13", "Version: 8"), ("Version: 13", "Version: 013"), ("Sec-WebSocket-V", "X-V")] {
            assert_eq!(fault(&upgrade_with(line, by)), HttpFault::BadWebSocketVersion);
        }
    }

    #[test]
    fn every_fault_has_a_status_and_says_something() {
        let faults = [
            (HttpFault::HeadTooLarge, 431),
            (HttpFault::TooManyHeaders, 431),
            (HttpFault::Malformed("x"), 400),
            (HttpFault::BadUpgrade("x"), 400),
            (HttpFault::BadWebSocketVersion, 426),
            (HttpFault::TransferEncoding, 501),
            (HttpFault::BadVersion, 505),
        ];
        for (fault, status) in faults {
            assert_eq!(fault.status(), status);
            assert!(!fault.to_string().is_empty() && !reason(status).is_empty());
        }
        assert!(HttpFault::BadWebSocketVersion.headers().contains(&("Sec-WebSocket-Version", "13")));
        assert!(HttpFault::HeadTooLarge.headers().is_empty());
    }

    // What is taken.

    #[test]
    fn an_upgrade_is_read_and_what_is_behind_it_is_left() {
        let request = request(UPGRADE);
        assert_eq!((request.method, request.path, request.query), ("GET", "/ws", Some("room=lobby")));
        assert_eq!((request.host, request.origin), (Some("chat.example:7878"), Some("https://app.example")));
        assert_eq!((request.keep_alive, request.body_bytes), (true, 0));
        assert_eq!(request.upgrade.unwrap().key, KEY);
        assert_eq!(subprotocols(&request), ["banter.json.v1", "banter.rkyv.v1"]);

        let more = [UPGRADE.as_bytes(), b"\x81\x80\0\0\0\0", &[b'x'; 2 * HEAD_BYTES_MAX]].concat();
        assert_eq!(parse_head(&more), Ok(Head::Complete { consumed: UPGRADE.len(), request }));
    }

    #[test]
    fn every_prefix_of_a_good_head_is_partial() {
        for bytes in 0..UPGRADE.len() {
            assert_eq!(parse_head(&UPGRADE.as_bytes()[..bytes]), Ok(Head::Partial), "{bytes} bytes");
        }
    }

    #[test]
    fn names_and_tokens_are_read_in_any_case() {
        let head = UPGRADE.replace("Sec-WebSocket", "SEC-websocket").replace("Connection: ", "cONNECTION:");
        let head = head.replace("Upgrade: websocket", "upgrade: h2c, WebSocket").replace(", Upgrade", " ,, uPGRADE ,");
        assert_eq!(request(&head).upgrade.unwrap().key, KEY);
        assert_eq!(subprotocols(&request(&head)).len(), 2);
        // Two Connection headers are one list.
        let head = upgrade_with("Connection: keep-alive, Upgrade", "Connection: keep-alive\r\nConnection: Upgrade");
        assert!(request(&head).upgrade.is_some());
    }

    #[test]
    fn an_upgrade_to_something_else_is_an_ordinary_request() {
        let head = with_headers("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n");
        assert_eq!(request(&head).upgrade, None);
        assert_eq!(request(&with_headers(&format!("Sec-WebSocket-Key: {KEY}\r\n"))).upgrade, None);
    }

    #[test]
    fn a_key_with_bits_behind_its_last_byte_is_taken() {
        let key = "dGhlIHNhbXBsZSBub25jZX==";
        assert_eq!(request(&upgrade_with(KEY, key)).upgrade.unwrap().key, key);
    }

    #[test]
    fn subprotocols_come_in_order_from_every_line() {
        let line = "Sec-WebSocket-Protocol: banter.json.v1, banter.rkyv.v1\r\n";
        let none = upgrade_with(line, "");
        assert_eq!(subprotocols(&request(&none)), [""; 0]);
        let lines = "sec-websocket-protocol:c,b ,\r\nX: sec-websocket-protocol: z\r\nSec-WebSocket-Protocol: , a\r\n";
        let some = upgrade_with(line, lines);
        assert_eq!(subprotocols(&request(&some)), ["c", "b", "a"]);
    }

    #[test]
    fn keep_alive_follows_the_version_and_the_connection_header() {
        let keeps = |version: &str, connection: &str| {
            request(&format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n")).keep_alive
        };
        assert!(keeps("1.1", ""));
        assert!(!keeps("1.1", "Connection: close\r\n"));
        assert!(!keeps("1.1", "Connection: keep-alive, Close\r\n"));
        assert!(!keeps("1.0", ""));
        assert!(keeps("1.0", "Connection: Keep-Alive\r\n"));
    }

    #[test]
    fn bodies_are_measured() {
        assert_eq!(request(&with_headers("")).body_bytes, 0);
        assert_eq!(request(&with_headers("content-length: 12\r\nContent-Length: 012\r\n")).body_bytes, 12);
    }

    #[test]
    fn a_target_is_taken_apart() {
        for (line, host, path, query) in [
            ("GET / HTTP/1.1", "a", "/", None),
            ("GET /x? HTTP/1.1", "a", "/x", Some("")),
            ("GET /x?y?z HTTP/1.1", "a", "/x", Some("y?z")),
            ("GET //x://y HTTP/1.1", "a", "//x://y", None),
            ("GET http://b:80/x?y HTTP/1.1", "b:80", "/x", Some("y")),
            ("GET WS://b HTTP/1.1", "b", "/", None),
            ("GET https://b?y HTTP/1.1", "b", "/", Some("y")),
            ("OPTIONS * HTTP/1.1", "a", "*", None),
        ] {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            let request = request(&head);
            assert_eq!((request.host, request.path, request.query), (Some(host), path, query), "{line}");
        }
        assert_eq!(request("GET / HTTP/1.0\r\n\r\n").host, None);
        assert_eq!(request("\r\nGET / HTTP/1.0\n\n").path, "/");
    }

    // What is written.

    #[test]
    fn the_upgrade_response_is_that_of_the_rfc() {
        let mut out = Vec::new();
        write_upgrade_response(&mut out, KEY, Some("banter.json.v1"));
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: banter.json.v1\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        write_upgrade_response(&mut out, KEY, None);
        assert!(!String::from_utf8(out).unwrap().contains("Protocol:"));
    }

    #[test]
    fn a_response_tells_its_length_even_without_its_body() {
        let mut out = Vec::new();
        write_response(&mut out, 200, "text/plain", &[("X-A", "b")], b"hello", false, true);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\
            Connection: keep-alive\r\nX-A: b\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), format!("{head}hello"));

        let mut out = Vec::new();
        write_response(&mut out, 200, "text/plain", &[("X-A", "b")], b"hello", true, true);
        assert_eq!(String::from_utf8(out).unwrap(), head);

        let mut out = Vec::new();
        write_response(&mut out, 299, "", &[], b"", false, false);
        let expected = "HTTP/1.1 299 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    // Any bytes.

    #[test]
    fn mutated_heads_never_panic() {
        let seed = 0x5EED_BA17_0000_0002_u64;
        let mut state = seed;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let mut complete = 0;
        for _ in 0..20_000 {
            let mut head = UPGRADE.as_bytes().to_vec();
            for _ in 0..1 + random() % 4 {
                let at = random() % head.len();
                match random() % 4 {
                    0 => head[at] = random() as u8,
                    1 => head[at] = b"\r\n:, ?=\0\xff/"[random() % 10],
                    2 => drop(head.remove(at)),
                    _ => {
                        let tail = head.split_off(at);
                        head.extend_from_slice(&UPGRADE.as_bytes()[random() % UPGRADE.len()..]);
                        head.extend_from_slice(&tail);
                    }
                }
            }
            match parse_head(&head) {
                Ok(Head::Complete { consumed, request }) => {
                    assert!(consumed <= head.len(), "seed {seed:#x}");
                    assert!(subprotocols(&request).iter().all(|name| is_token(name)), "seed {seed:#x}");
                    complete += 1;
                }
                Ok(Head::Partial) => {}
                Err(fault) => assert!(fault.status() >= 400),
            }
        }
        assert!(complete > 1000, "only {complete} heads were read: the mutations are too rough");
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
            let _ = parse_head(&bytes);
        }
    }
}
