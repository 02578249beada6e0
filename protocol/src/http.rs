//! The head of an HTTP/1.1 request, sans-io: enough of HTTP to open a WebSocket and to answer small requests.
//!
//! Invariants:
//! - A head is judged whole or not at all: no prefix of a good head is a fault, and a head that is not whole within
//!   [`HEAD_BYTES_MAX`] bytes is refused however it is cut.
//! - Whatever could be read in two ways (two hosts, two lengths, a length and a transfer coding, a folded line) is
//!   refused: a proxy in front may have read it the other way.
//! - Parsing allocates nothing; what it finds is borrowed from the bytes.
//!
//! What is not here: bodies (the caller knows their length), chunked coding, routing, and whether an origin is welcome
//! (`origin.rs`).

use std::mem::MaybeUninit;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use httparse::{Header, Request, Status};
use tungstenite::handshake::derive_accept_key;

/// A request's head, with its first line and the empty line behind it, is at most this long.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The version of the WebSocket protocol that RFC 6455 defines, and the only one there is.
pub const WEBSOCKET_VERSION: &str = "13";

/// Bytes of the shortest header: a letter, a colon and a line feed.
const HEADER_BYTES_MIN: usize = 3;
/// More headers than a head has place for, so that its bytes are the only limit. They lie on the stack, where most of this
/// is never touched.
const HEADERS_MAX: usize = HEAD_BYTES_MAX / HEADER_BYTES_MIN;

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
    /// For what is looked for by few.
    head: &'a [u8],
}

impl<'a> HttpRequest<'a> {
    /// The values of the lines with that name, in their order; one that is no UTF-8 is empty. The head is read again for
    /// them, so that they take no place in a request, however many there are.
    pub fn values(&self, name: &'static str) -> impl DoubleEndedIterator<Item = &'a str> + use<'a> {
        values(self.head, name)
    }

    /// The same as they came.
    pub fn raw_values(&self, name: &'static str) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
        raw_values(self.head, name)
    }
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
        values(self.head, "sec-websocket-protocol").flat_map(list)
    }
}

/// The values of the lines of a head with that name; of one that is no text, an empty one.
fn values<'a>(head: &'a [u8], name: &'static str) -> impl DoubleEndedIterator<Item = &'a str> + use<'a> {
    raw_values(head, name).map(|value| std::str::from_utf8(value).unwrap_or_default())
}

/// The same as they came. httparse has accepted each line, so it has a name and a colon.
fn raw_values<'a>(head: &'a [u8], name: &'static str) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
    head.split(|byte| *byte == b'\n').filter_map(move |line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (found, value) = line.split_at(colon);
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| value[1..].trim_ascii())
    })
}

/// Why a request is refused. The connection is closed behind the answer: where the next request starts is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum HttpFault {
    #[error("the request's head is above {HEAD_BYTES_MAX} bytes")]
    HeadTooLarge,
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
            HttpFault::HeadTooLarge => 431,
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
            httparse::Error::TooManyHeaders => HttpFault::HeadTooLarge,
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
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = Request::new(&mut []);
    let consumed = match parsed.parse_with_uninit_headers(bytes, &mut headers)? {
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
            head,
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
mod tests;
