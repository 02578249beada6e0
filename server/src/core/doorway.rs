//! Which web pages a core lets open a WebSocket, and what its log says of those that it does not.

use std::net::IpAddr;
use std::time::Instant;

use banter_protocol::http::HttpRequest;
use banter_protocol::origin::{OriginFault, OriginRule};

use crate::core::rare_line::RareLine;

/// Characters of a header that a line shows.
const SHOWN_CHARS_MAX: usize = 200;

/// The rule, and how often it refused.
#[derive(Debug)]
pub struct Doorway {
    rule: OriginRule,
    /// Whoever has such a page open decides how often it tries.
    line: RareLine,
}

impl Doorway {
    /// Nobody was refused yet.
    pub fn new(rule: OriginRule) -> Self {
        Doorway { rule, line: RareLine::default() }
    }

    /// Goes by another rule.
    pub fn follow(&mut self, rule: OriginRule) {
        self.rule = rule;
    }

    /// Judges an upgrade that comes from that address.
    ///
    /// # Errors
    /// Why the page is not let in; the log says so too.
    pub fn judge(&mut self, request: &HttpRequest<'_>, address: IpAddr) -> Result<(), OriginFault> {
        self.rule.judge(request.origin, request.host).inspect_err(|fault| {
            let Some(untold) = self.line.due(Instant::now()) else { return };
            let (origin, host) = (shown(request.origin), shown(request.host));
            tracing::warn!(%address, origin, host, untold, "a web page was refused: {fault}");
        })
    }
}

/// What a peer sent, such that it is one short piece of a line.
fn shown(header: Option<&str>) -> String {
    header.unwrap_or_default().chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sent_cannot_begin_a_line_of_its_own() {
        assert_eq!(shown(Some("a\nb\u{1b}[0m")), "a\\nb\\u{1b}[0m");
        assert_eq!(shown(Some(&"x".repeat(8_000))).len(), SHOWN_CHARS_MAX);
    }
}
