//! Which web pages a core lets open a WebSocket, which token an upgrade brings along, and what the log says of pages that are
//! refused.

use std::net::IpAddr;
use std::time::Instant;

use banter_protocol::credentials::{self, CredentialsFault};
use banter_protocol::http::HttpRequest;
use banter_protocol::origin::{OriginFault, OriginRule};

use crate::core::rare_line::RareLine;

/// Characters of a header that a line shows.
const SHOWN_CHARS_MAX: usize = 200;

/// What an upgrade is judged by.
#[derive(Clone, Debug, Default)]
pub struct UpgradeRule {
    /// Which web pages may open a WebSocket.
    pub origins: OriginRule,
    /// Tokens are asked for, so that one may come with the upgrade.
    pub takes_tokens: bool,
    /// Who brings none may come in as a guest.
    pub takes_guests: bool,
    /// The cookie that may hold it.
    pub cookie: Option<Box<str>>,
    /// There is no chat page.
    pub has_no_page: bool,
    /// What is counted is told to backends alone.
    pub has_no_metrics: bool,
}

/// Why an upgrade is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeFault {
    /// By the page that asks.
    #[error("{0}")]
    Origin(#[from] OriginFault),
    /// By the token that it brings.
    #[error("{0}")]
    Credentials(#[from] CredentialsFault),
}

/// The rule, and how often it refused.
#[derive(Debug)]
pub struct Doorway {
    rule: UpgradeRule,
    /// Whoever has such a page open decides how often it tries.
    line: RareLine,
}

impl Doorway {
    /// Nobody was refused yet.
    pub fn new(rule: UpgradeRule) -> Self {
        Doorway { rule, line: RareLine::default() }
    }

    /// Goes by another rule.
    pub fn follow(&mut self, rule: UpgradeRule) {
        self.rule = rule;
    }

    /// Whether the chat page is served.
    pub fn has_page(&self) -> bool {
        !self.rule.has_no_page
    }

    /// How a web page gets in, as the chat page is told it.
    pub fn page_door(&self) -> &'static str {
        match (self.rule.takes_tokens, self.rule.takes_guests) {
            (false, _) => "open",
            (true, false) => "token",
            (true, true) => "guests",
        }
    }

    /// Whether everybody is told what is counted.
    pub fn has_metrics(&self) -> bool {
        !self.rule.has_no_metrics
    }

    /// Judges an upgrade that comes from that address, and gives the token that it brings.
    ///
    /// # Errors
    /// Why it is refused; of pages the log says so too.
    pub fn judge<'a>(&mut self, request: &HttpRequest<'a>, address: IpAddr) -> Result<Option<&'a str>, UpgradeFault> {
        self.rule
            .origins
            .judge(request.origin, request.host)
            .inspect_err(|fault| self.told(request, address, *fault))?;
        if !self.rule.takes_tokens {
            return Ok(None);
        }
        if let Some(token) = credentials::bearer(request)? {
            return Ok(Some(token));
        }
        let Some(name) = &self.rule.cookie else { return Ok(None) };
        let token = credentials::cookie(request, name)?;
        if token.is_some() {
            let judged = self.rule.origins.judge_cookie(request.origin);
            judged.inspect_err(|fault| self.told(request, address, *fault))?;
        }
        Ok(token)
    }

    fn told(&mut self, request: &HttpRequest<'_>, address: IpAddr, fault: OriginFault) {
        let Some(untold) = self.line.due(Instant::now()) else { return };
        let (origin, host) = (shown(request.origin), shown(request.host));
        tracing::warn!(%address, origin, host, untold, "a web page was refused: {fault}");
    }
}

/// What a peer sent, such that it is one short piece of a line.
pub(super) fn shown(header: Option<&str>) -> String {
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
