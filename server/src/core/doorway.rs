//! Which web pages a core lets open a WebSocket, and what its log says of those that it does not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use banter_protocol::http::HttpRequest;
use banter_protocol::origin::{OriginFault, OriginRule};

/// Between two lines about pages that were refused: whoever has such a page open decides how often it tries.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
/// Characters of a header that a line shows.
const SHOWN_CHARS_MAX: usize = 200;

/// The rule, and how often it refused.
#[derive(Debug)]
pub struct Doorway {
    rule: OriginRule,
    next_line: Option<Instant>,
    untold: u64,
}

impl Doorway {
    /// Nobody was refused yet.
    pub fn new(rule: OriginRule) -> Self {
        Doorway { rule, next_line: None, untold: 0 }
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
            let Some(untold) = self.refused(Instant::now()) else { return };
            let (origin, host) = (shown(request.origin), shown(request.host));
            tracing::warn!(%address, origin, host, untold, "a web page was refused: {fault}");
        })
    }

    /// Counts a refusal. A line is due where there is a number: of the refusals since the last that had none.
    fn refused(&mut self, now: Instant) -> Option<u64> {
        if self.next_line.is_some_and(|next_line| now < next_line) {
            self.untold += 1;
            return None;
        }
        self.next_line = Some(now + LINE_INTERVAL);
        Some(std::mem::take(&mut self.untold))
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
    fn a_page_that_tries_again_and_again_gets_a_line_a_minute_with_the_number_of_the_others() {
        let mut doorway = Doorway::new(OriginRule::default());
        let start = Instant::now();
        let refused = |doorway: &mut Doorway, seconds| doorway.refused(start + Duration::from_secs(seconds));
        assert_eq!(refused(&mut doorway, 0), Some(0));
        assert_eq!((0..60).find_map(|second| refused(&mut doorway, second)), None);
        assert_eq!(refused(&mut doorway, 60), Some(60));
        assert_eq!(refused(&mut doorway, 61), None);
        assert_eq!(refused(&mut doorway, 300), Some(1));
    }

    #[test]
    fn what_a_peer_sent_cannot_begin_a_line_of_its_own() {
        assert_eq!(shown(Some("a\nb\u{1b}[0m")), "a\\nb\\u{1b}[0m");
        assert_eq!(shown(Some(&"x".repeat(8_000))).len(), SHOWN_CHARS_MAX);
    }
}
