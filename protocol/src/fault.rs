//! What a peer can do wrong with bytes, each with the code and the WebSocket close code that answer it.

use crate::error_code::ErrorCode;
use crate::http::HttpFault;
use crate::proxy::ProxyFault;
use crate::websocket::WebSocketFault;

/// The peer broke the byte stream: it is told why, counted, and closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum PeerFault {
    #[error("the first bytes are neither HTTP nor the native preamble")]
    UnknownProtocol,
    #[error("the native preamble asks for version {0}, and this server speaks version 1")]
    PreambleVersion(u8),
    #[error("frame kind {0} is unknown")]
    FrameKind(u8),
    #[error("frame version {0} is unknown, and this server speaks version 1")]
    FrameVersion(u8),
    #[error("the reserved bytes of a frame header are not zero")]
    FrameReserved,
    #[error("the frame is cut short")]
    FrameTruncated,
    #[error("a frame of {bytes} bytes is above frame_bytes_max, {bytes_max}")]
    FrameTooLarge { bytes: u64, bytes_max: u64 },
    #[error("the payload is no valid archive of its kind")]
    Archive,
    #[error("{0}")]
    WebSocket(WebSocketFault),
    #[error("{0}")]
    Http(HttpFault),
    #[error("{0}")]
    Proxy(ProxyFault),
}

impl PeerFault {
    /// The code in the `error` that goes ahead of the close.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            PeerFault::FrameTooLarge { .. } | PeerFault::WebSocket(WebSocketFault::MessageTooLarge { .. }) => {
                ErrorCode::FrameTooLarge
            }
            _ => ErrorCode::BadFrame,
        }
    }

    /// The WebSocket close code (RFC 6455 section 7.4.1).
    pub fn close_code(&self) -> u16 {
        match self {
            PeerFault::WebSocket(fault) => fault.close_code(),
            PeerFault::FrameTooLarge { .. } => 1009,
            _ => 1002,
        }
    }
}

impl From<WebSocketFault> for PeerFault {
    fn from(fault: WebSocketFault) -> Self {
        PeerFault::WebSocket(fault)
    }
}

impl From<HttpFault> for PeerFault {
    fn from(fault: HttpFault) -> Self {
        PeerFault::Http(fault)
    }
}

impl From<ProxyFault> for PeerFault {
    fn from(fault: ProxyFault) -> Self {
        PeerFault::Proxy(fault)
    }
}

/// A whole text or frame that is no request: answered `bad_request`, and the connection stays open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestFault {
    /// The request's number, where it could be read.
    pub id: crate::ids::RequestId,
    /// What is wrong with it, for people.
    pub message: String,
}

/// Longest message of a fault, in bytes: it may quote the peer, and an answer must not grow with what it refuses.
const MESSAGE_BYTES_MAX: usize = 256;

impl RequestFault {
    /// A fault, its message cut where it is too long.
    pub fn new(id: crate::ids::RequestId, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        RequestFault { id, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_quotes_no_more_than_its_limit() {
        assert_eq!(RequestFault::new(Some(1), "short").message, "short");
        let fault = RequestFault::new(None, "ü".repeat(40_000));
        assert_eq!(fault.message, "ü".repeat(128) + "…");
        // The limit lies in the middle of a character.
        assert_eq!(RequestFault::new(None, "a".to_owned() + &"ü".repeat(200)).message.len(), 255 + "…".len());
    }

    #[test]
    fn what_is_too_large_is_told_apart_from_what_is_broken() {
        let large = PeerFault::FrameTooLarge { bytes: 2, bytes_max: 1 };
        assert_eq!((large.error_code(), large.close_code()), (ErrorCode::FrameTooLarge, 1009));
        for fault in [PeerFault::UnknownProtocol, PeerFault::FrameKind(9), PeerFault::Archive] {
            assert_eq!((fault.error_code(), fault.close_code()), (ErrorCode::BadFrame, 1002));
        }
    }
}
