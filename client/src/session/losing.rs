//! What the session does when a connection is lost, or does not come about: where it goes on, and when.

use std::time::Duration;

use banter_protocol::frame::FrameReader;

use super::{LinkState, Session};
use crate::addresses::Lost;
use crate::event::{Event, Why};
use crate::room::Room;

impl Session {
    /// Where the connection is, or the one to come: what [`super::Link::Connect`] is about. None where [`crate::Options::addresses`]
    /// has none and no server told of any: then the adapter's own server is meant.
    pub fn address(&self) -> Option<&str> {
        self.addresses.at()
    }

    /// The addresses that servers told of and that are tried ahead of those of [`crate::Options::addresses`]: the nodes of a
    /// cluster, the one that serves first, as far as it was known. They may be kept for the next session; what is kept is trusted.
    pub fn nodes(&self) -> &[String] {
        self.addresses.told()
    }

    /// How long the adapter should try to open the connection; one that does not answer must not keep it from the others.
    pub fn connect_timeout(&self) -> Duration {
        self.addresses.patience()
    }

    /// The connection is gone, or could not be opened.
    pub fn handle_disconnected(&mut self, now: Duration, why: &str) {
        if !matches!(self.link, LinkState::Waiting { .. } | LinkState::Ended) {
            self.lose_link(Some(now), Why::Closed(why.to_owned()));
            self.must_disconnect = false; // It is gone already.
        }
    }

    /// The connection is gone, or is given up; `now` is none when there shall be no other.
    pub(super) fn lose_link(&mut self, now: Option<Duration>, why: Why) {
        self.must_disconnect = !matches!(self.link, LinkState::Waiting { .. } | LinkState::Ended);
        self.reader = FrameReader::of_events(self.options.frame_bytes_max);
        self.outbox.clear();
        self.asked.clear();
        self.rooms.values_mut().for_each(Room::disconnect);
        self.posts.take_all_back();
        self.events.extend(self.asks.take_all().map(Event::Unanswered));
        let retry = now.map(|now| (now, self.go_on_after(now)));
        self.link = match retry {
            Some((_, until)) => LinkState::Waiting { until },
            None => LinkState::Ended,
        };
        self.events.push_back(Event::Disconnected { why, retry_in: retry.map(|(now, until)| until - now) });
    }

    /// Chooses where to go on, and says when.
    fn go_on_after(&mut self, now: Duration) -> Duration {
        let closing = self.advised_wait.take().unwrap_or_default();
        let here = self.retry_here_after.take().unwrap_or_default();
        let lost = match self.link {
            // A server that stops spreads those whom it had over the time that it names, wherever they go.
            LinkState::Open { since } => {
                Lost { now, held: Some(now.saturating_sub(since)), wait: closing, wait_here: here }
            }
            // One that stopped before its welcome has only this to say of itself.
            _ => Lost { now, held: None, wait: Duration::ZERO, wait_here: closing.max(here) },
        };
        self.addresses.lose(&lost, &mut self.random)
    }
}
