//! Lines of the log that come once a minute at most, with the number of those between: peers decide how often they are due.

use std::time::{Duration, Instant};

/// Between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// When the next one is due, and how many were not told since the last.
#[derive(Debug, Default)]
pub struct RareLine {
    next: Option<Instant>,
    untold: u64,
}

impl RareLine {
    /// Counts one. It is due where there is a number: of those since the last that had none.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.untold += 1;
            return None;
        }
        self.next = Some(now + LINE_INTERVAL);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_and_again_gets_a_line_a_minute_with_the_number_of_the_others() {
        let (mut line, start) = (RareLine::default(), Instant::now());
        let mut due = |seconds| line.due(start + Duration::from_secs(seconds));
        assert_eq!(due(0), Some(0));
        assert_eq!((0..60).find_map(&mut due), None);
        assert_eq!(due(60), Some(60));
        assert_eq!(due(61), None);
        assert_eq!(due(300), Some(1));
    }
}
