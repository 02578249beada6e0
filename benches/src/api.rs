//! A connection to a server's interface for backends: one request at a time, and its answer, without ever waiting.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Headers of an answer, at most.
const HEADERS_MAX: usize = 32;
/// An answer that is longer than this is none to what is asked here.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Bytes that one read takes at most.
const READ_BYTES_MAX: usize = 4 << 10;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// A program with a key, on a connection that is kept.
#[derive(Debug)]
pub struct Caller {
    stream: TcpStream,
    /// The head of every request, but for its path and length.
    head: String,
    request: String,
    answer: Vec<u8>,
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(api: SocketAddr, key: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(api).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot connect to {api}: {error}; does [admin] listen there?"))
        })?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let head = format!("Host: {api}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n");
        Ok(Caller { stream, head, request: String::new(), answer: Vec::new() })
    }

    /// Posts a body to a path. The answer to what was asked before must have come.
    ///
    /// # Errors
    /// When the connection is gone, or takes no more.
    pub fn ask(&mut self, path: &str, body: &str) -> io::Result<()> {
        self.request.clear();
        let (head, length) = (&self.head, body.len());
        // Writing to a string cannot fail.
        let _ = write!(self.request, "POST {path} HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n{body}");
        self.stream.write_all(self.request.as_bytes())
    }

    /// The answer; `None` while it is not whole.
    ///
    /// # Errors
    /// When the connection is gone, or says what is no HTTP.
    pub fn answer(&mut self) -> io::Result<Option<Answer>> {
        let mut piece = [0; READ_BYTES_MAX];
        match self.stream.read(&mut piece) {
            Ok(0) => {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the interface for backends closed the connection",
                ));
            }
            Ok(read) => self.answer.extend_from_slice(&piece[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
            Err(error) => return Err(error),
        }
        let Some((answer, used)) = read_answer(&self.answer)? else { return Ok(None) };
        self.answer.drain(..used);
        Ok(Some(answer))
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The answer at the front of these bytes and how many it takes; `None` when it is not whole.
fn read_answer(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes).map_err(|error| bad(&error.to_string()))? {
        httparse::Status::Complete(head_bytes) => head_bytes,
        httparse::Status::Partial if bytes.len() > ANSWER_BYTES_MAX => return Err(bad("it is too long")),
        httparse::Status::Partial => return Ok(None),
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
    let body_bytes =
        length.filter(|bytes| *bytes <= ANSWER_BYTES_MAX).ok_or_else(|| bad("its length is not said, or too long"))?;
    let Some(body) = bytes[head_bytes..].get(..body_bytes) else { return Ok(None) };
    let body = String::from_utf8_lossy(body).into_owned();
    Ok(Some((Answer { status: response.code.unwrap_or_default(), body }, head_bytes + body_bytes)))
}

fn bad(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the answer of the interface for backends cannot be read: {why}"))
}

/// The key in a file; a line end behind it is none of it.
///
/// # Errors
/// When it cannot be read.
pub fn read_key(file: &Path) -> io::Result<String> {
    let key = std::fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", file.display())))?;
    Ok(key.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 429";

    #[test]
    fn an_answer_is_read_when_it_is_whole_and_not_before() {
        let answer_bytes = WHOLE.len() - b"HTTP/1.1 429".len();
        let expected = Answer { status: 200, body: "{}".to_owned() };
        for end in 0..answer_bytes {
            assert_eq!(read_answer(&WHOLE[..end]).unwrap(), None, "cut at {end}");
        }
        assert_eq!(read_answer(WHOLE).unwrap(), Some((expected, answer_bytes)));
    }

    #[test]
    fn an_answer_without_a_length_or_a_form_is_an_error() {
        for bytes in
            [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", b"SSH-2.0\r\n"]
        {
            assert_eq!(read_answer(bytes).unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }
}
