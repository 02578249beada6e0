//! The header that a proxy puts ahead of a connection to say whose it is: the PROXY protocol, versions 1 and 2, sans-io.
//!
//! Invariants:
//! - A header is judged whole or not at all: no prefix of a good one is a fault, and one that is not whole within
//!   [`PROXY_BYTES_MAX`] bytes is refused however it is cut.
//! - What is no header is refused at its first wrong byte that tells: nothing is guessed.
//! - Parsing allocates nothing.
//!
//! Whether a peer may say such a header, and must, is not known here. Of what version 2 may add behind the addresses
//! nothing is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a header at most. The specification makes it for the smallest TCP segment, 536 bytes; a proxy that adds its
/// certificate's names needs more.
pub const PROXY_BYTES_MAX: usize = 2_048;

/// How version 1 begins.
const START_V1: &[u8] = b"PROXY ";
/// How version 2 begins.
const START_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a line of version 1 at most, its end counted (specification, section 2.1).
const LINE_BYTES_MAX: usize = 107;
/// Bytes of version 2 ahead of the addresses: its start, version and command, family, length.
const FIXED_BYTES_V2: usize = 16;

/// What the first bytes of a connection hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// More bytes are needed.
    Partial,
    /// A whole header.
    Complete {
        /// Its bytes; what is behind them is the client's.
        consumed: usize,
        /// Who connected to the proxy, in canonical form; none where the proxy speaks for itself, or does not know.
        source: Option<IpAddr>,
    },
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum ProxyFault {
    #[error("a PROXY header is required from this proxy, and the first bytes are none")]
    Missing,
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    #[error("the PROXY header is above {PROXY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("a PROXY header is not taken here: proxy_protocol is off, or the peer is not in trusted_proxies")]
    Unexpected,
}

/// Reads the header at the front of `bytes`.
///
/// # Errors
/// When there is none, or one that must be refused; the connection is to be closed.
pub fn parse_proxy_header(bytes: &[u8]) -> Result<ProxyHeader, ProxyFault> {
    if begins(bytes, START_V1) {
        parse_line(bytes)
    } else if begins(bytes, START_V2) {
        parse_binary(bytes)
    } else {
        Err(ProxyFault::Missing)
    }
}

/// Whether a head that is no request is a line of version 1: the one of the two that may be taken for HTTP.
pub fn is_proxy_line(bytes: &[u8]) -> bool {
    bytes.starts_with(START_V1)
}

/// Whether one of them begins with the other.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

fn parse_line(bytes: &[u8]) -> Result<ProxyHeader, ProxyFault> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(length) = seen.windows(2).position(|end| end == b"\r\n") else {
        return if bytes.len() < LINE_BYTES_MAX {
            Ok(ProxyHeader::Partial)
        } else {
            Err(ProxyFault::Malformed("a line has at most 107 bytes"))
        };
    };
    let line = std::str::from_utf8(&seen[START_V1.len()..length]).map_err(|_| ProxyFault::Malformed("no text"))?;
    Ok(ProxyHeader::Complete { consumed: length + 2, source: source_of_line(line)? })
}

/// The source in what a line says behind its start.
fn source_of_line(line: &str) -> Result<Option<IpAddr>, ProxyFault> {
    let mut words = line.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        // Whatever follows is to be ignored.
        return Ok(None);
    }
    let parse: fn(&str) -> Option<IpAddr> = match family {
        Some("TCP4") => |word| word.parse().ok().map(IpAddr::V4),
        Some("TCP6") => |word| word.parse().ok().map(IpAddr::V6),
        _ => return Err(ProxyFault::Malformed("the family must be TCP4, TCP6 or UNKNOWN")),
    };
    let addresses = [words.next().and_then(parse), words.next().and_then(parse)];
    let ports = [words.next(), words.next()];
    let [Some(source), Some(_)] = addresses else {
        return Err(ProxyFault::Malformed("two addresses of its family must follow"));
    };
    if !ports.into_iter().all(|port| port.is_some_and(is_port)) || words.next().is_some() {
        return Err(ProxyFault::Malformed("two ports and nothing else must follow the addresses"));
    }
    Ok(Some(source.to_canonical()))
}

/// Whether this is a port without a sign and without a zero ahead of other digits.
fn is_port(word: &str) -> bool {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    is_plain && word.parse::<u16>().is_ok()
}

fn parse_binary(bytes: &[u8]) -> Result<ProxyHeader, ProxyFault> {
    let fixed = bytes.get(START_V2.len()..FIXED_BYTES_V2);
    let &[version_command, family_transport, length_high, length_low] = fixed.unwrap_or_default() else {
        return Ok(ProxyHeader::Partial);
    };
    let is_proxied = match version_command {
        0x20 => false,
        0x21 => true,
        _ => return Err(ProxyFault::Malformed("its version must be 2, and its command LOCAL or PROXY")),
    };
    let consumed = FIXED_BYTES_V2 + usize::from(u16::from_be_bytes([length_high, length_low]));
    if consumed > PROXY_BYTES_MAX {
        return Err(ProxyFault::TooLarge);
    }
    let Some(rest) = bytes.get(FIXED_BYTES_V2..consumed) else { return Ok(ProxyHeader::Partial) };
    let source = if is_proxied { source_of_binary(family_transport, rest)? } else { None };
    Ok(ProxyHeader::Complete { consumed, source })
}

/// The source in the addresses of version 2: it comes first, then the destination, then both ports.
fn source_of_binary(family_transport: u8, addresses: &[u8]) -> Result<Option<IpAddr>, ProxyFault> {
    const SHORT: ProxyFault = ProxyFault::Malformed("it is too short for the addresses of its family");
    const V4_BYTES: usize = 2 * 4 + 2 * 2;
    const V6_BYTES: usize = 2 * 16 + 2 * 2;
    const UNIX_BYTES: usize = 2 * 108;
    match family_transport {
        // Not known to the proxy, or of no address.
        0x00 => Ok(None),
        0x31 => addresses.get(..UNIX_BYTES).map(|_| None).ok_or(SHORT),
        0x11 => {
            let bytes = addresses.get(..V4_BYTES).and_then(|bytes| bytes.first_chunk::<4>()).ok_or(SHORT)?;
            Ok(Some(Ipv4Addr::from(*bytes).into()))
        }
        0x21 => {
            let bytes = addresses.get(..V6_BYTES).and_then(|bytes| bytes.first_chunk::<16>()).ok_or(SHORT)?;
            Ok(Some(IpAddr::V6(Ipv6Addr::from(*bytes)).to_canonical()))
        }
        _ => Err(ProxyFault::Malformed(
            "its family and transport must be those of TCP, of a UNIX stream, or unspecified",
        )),
    }
}

#[cfg(test)]
mod tests;
