//! More epochs for cores that have given half of theirs: the epoch file says so first, and then every core is told.

use std::io;

use banter_protocol::ids::Epoch;

/// Milliseconds until the next try, when the file cannot be written.
const RETRY_MS: u64 = 1_000;

/// Keeps in the epoch file that more may be given, and says the new end.
pub type ExtendEpochs = Box<dyn FnMut() -> io::Result<u64> + Send>;

/// What is asked for, and how it is kept.
#[derive(Default)]
pub(super) struct EpochDesk {
    extend: Option<ExtendEpochs>,
    retry_at_ms: Option<u64>,
}

impl EpochDesk {
    pub(super) fn new(extend: ExtendEpochs) -> Self {
        EpochDesk { extend: Some(extend), retry_at_ms: None }
    }

    /// A core wants more: says the new end, if it could be kept. Otherwise it is tried again.
    pub(super) fn asked(&mut self, now_ms: u64) -> Option<Epoch> {
        match self.extend.as_mut()?() {
            Ok(end) => {
                self.retry_at_ms = None;
                Some(Epoch(end))
            }
            Err(error) => {
                if self.retry_at_ms.is_none() {
                    tracing::error!(
                        %error,
                        "the epoch file cannot be written: when the epochs that it promises are used up, new rooms are \
                         refused with overloaded; see to the disk (`dmesg`). Trying again every {RETRY_MS} ms"
                    );
                }
                self.retry_at_ms = Some(now_ms + RETRY_MS);
                None
            }
        }
    }

    /// Tries again what is due.
    pub(super) fn tick(&mut self, now_ms: u64) -> Option<Epoch> {
        self.retry_at_ms.filter(|&at_ms| at_ms <= now_ms)?;
        self.asked(now_ms)
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.retry_at_ms
    }
}
