//! One request over a unix socket: hyper's client, which the server's own HTTP brings along, and nothing of TLS or names.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::UnixStream;

use super::CtlFault;
use crate::control::api::REQUEST_MAX;

pub use axum::http::Method;

/// How long an answer is waited for: longer than the server takes for one.
const ANSWER_MAX: Duration = Duration::from_secs(REQUEST_MAX.as_secs() + 5);
/// Bytes of an answer: a page of a thousand entries, and more.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What is asked.
pub struct Request {
    /// How.
    pub method: Method,
    /// Where, with its query.
    pub path: String,
    /// What is said, as JSON.
    pub body: Option<String>,
}

impl Request {
    /// With nothing said.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Request { method, path: path.into(), body: None }
    }

    /// With that said.
    #[must_use]
    pub fn with(self, body: &Value) -> Self {
        Request { body: Some(body.to_string()), ..self }
    }
}

/// A text as one piece of a path or of a query.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A server's socket.
pub struct Client {
    path: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// At that path.
    ///
    /// # Errors
    /// The process may have no more descriptors.
    pub fn new(path: PathBuf) -> Result<Self, CtlFault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => Ok(Client { path, runtime }),
            Err(error) => Err(CtlFault::Io { path, error }),
        }
    }

    /// Asks, and gives what is answered; null where that is nothing.
    ///
    /// # Errors
    /// No server answers, or it refuses.
    pub fn ask(&self, request: &Request) -> Result<Value, CtlFault> {
        let answered = self.runtime.block_on(async {
            tokio::time::timeout(ANSWER_MAX, self.exchange(request))
                .await
                .unwrap_or_else(|_| Err(self.no_answer(format!("nothing came within {} s", ANSWER_MAX.as_secs()))))
        });
        let (status, bytes) = answered?;
        let value = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_default() };
        if status.is_success() {
            return Ok(value);
        }
        Err(self.refusal(request, status, &value))
    }

    async fn exchange(&self, request: &Request) -> Result<(http::StatusCode, Vec<u8>), CtlFault> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| unreachable(&self.path, error))?;
        let no_answer = |error: &dyn std::fmt::Display| self.no_answer(error.to_string());
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| no_answer(&error))?;
        // It ends with the sender.
        tokio::spawn(connection);
        let body = request.body.clone().map_or_else(Body::empty, Body::from);
        let http = http::Request::builder()
            .method(&request.method)
            .uri(&request.path)
            .header(http::header::HOST, "banter")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body);
        let http = http.map_err(|error| no_answer(&error))?;
        let response = sender.send_request(http).await.map_err(|error| no_answer(&error))?;
        let status = response.status();
        let bytes = to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
        Ok((status, bytes.map_err(|error| no_answer(&error))?.into()))
    }

    fn no_answer(&self, why: String) -> CtlFault {
        CtlFault::NoAnswer { path: self.path.clone(), why }
    }

    fn refusal(&self, request: &Request, status: http::StatusCode, answer: &Value) -> CtlFault {
        let said = |key: &str| answer["error"][key].as_str().map(super::shown::plain_lines);
        let (Some(code), Some(message)) = (said("code"), said("message")) else {
            return self.no_answer(format!("HTTP {status}"));
        };
        // The path is unknown, or the method at it; what is asked about has other words.
        let is_unknown = code == "method_not_allowed" || (code == "not_found" && message.contains("no such path"));
        if is_unknown {
            CtlFault::Unknown(format!("{} {}", request.method, request.path))
        } else {
            CtlFault::Refused { code, message }
        }
    }
}

/// What keeps a socket from being opened, and how to mend it.
fn unreachable(path: &Path, error: io::Error) -> CtlFault {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => {
            let hint = if path.is_relative() { " (a relative path is seen from this folder)" } else { "" };
            CtlFault::Missing { path, hint }
        }
        io::ErrorKind::PermissionDenied => CtlFault::Denied(path),
        io::ErrorKind::ConnectionRefused => CtlFault::Deaf(path),
        _ => CtlFault::Io { path, error },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What comes of a request to a server that answers with these bytes.
    fn asked(answer: &'static str) -> Result<Value, CtlFault> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4_096];
            let read = stream.read(&mut head).unwrap();
            // Who asked may have heard enough.
            let _ = stream.write_all(answer.as_bytes());
            String::from_utf8_lossy(&head[..read]).into_owned()
        });
        let answered = Client::new(path).unwrap().ask(&Request::new(Method::GET, "/v1/users/ann"));
        let head = server.join().unwrap();
        assert!(head.starts_with("GET /v1/users/ann HTTP/1.1\r\nhost: banter\r\n"), "{head}");
        answered
    }

    fn refusal(code: &str, message: &str) -> &'static str {
        let body = format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#);
        Box::leak(format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_boxed_str())
    }

    #[test]
    fn an_answer_is_json_or_nothing() {
        assert_eq!(asked("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}").unwrap()["a"], 1);
        assert_eq!(asked("HTTP/1.1 204 No Content\r\n\r\n").unwrap(), Value::Null);
    }

    #[test]
    fn a_refusal_says_why_and_an_old_server_is_told_apart_from_an_unknown_name() {
        let told = |answer| asked(answer).unwrap_err().to_string();
        assert_eq!(told(refusal("not_found", "there is no such room")), "not_found: there is no such room");
        assert!(
            told(refusal("not_found", "there is no such path: see /openapi.json")).contains("has no GET /v1/users/ann")
        );
        assert_eq!(told(refusal("bad_request", "\\u001b[2J")), "bad_request: \\u{1b}[2J", "a terminal gets no orders");
        assert_eq!(told(refusal("bad_request", "a:2:1: no\\n  x\\n  ^")), "bad_request: a:2:1: no\n  x\n  ^");
        for nonsense in ["220 mail.example.com ESMTP\r\n", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", ""]
        {
            let fault = asked(nonsense).unwrap_err();
            assert!(matches!(fault, CtlFault::NoAnswer { .. }), "{nonsense}: {fault}");
        }
    }

    #[test]
    fn what_keeps_the_socket_from_being_opened_says_how_to_mend_it() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| {
            Client::new(path.to_owned()).unwrap().ask(&Request::new(Method::GET, "/v1/status")).unwrap_err()
        };
        let path = folder.path().join("s");
        assert!(told(&path).to_string().contains("is the server running"));
        drop(UnixListener::bind(&path).unwrap());
        assert!(told(&path).to_string().contains("has ended"));
        let denied = unreachable(&path, io::ErrorKind::PermissionDenied.into());
        assert!(denied.to_string().contains("as that user") && denied.exit_code() == super::super::EXIT_DENIED);
    }
}
