//! What a core does that has nothing to do: it looks for something for a moment, and sleeps where it is woken by what it waits for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use glommio::io::PollableFd;
use rustix::event::{EventfdFlags, eventfd};

use super::{LANE_RETRY_MS, Pump};
use crate::core::mesh::Sleep;
use crate::storage::disk::Disk;

/// The bell's descriptor, for glommio; the bell outlives it.
pub(super) struct Wake(pub(super) RawFd);

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Lets the executor look at its rings in the midst of work. It looks only when no task can run, so the pump waits for
/// something that is always there; yielding alone would be 100 ms, its preemption timer, until the next look.
pub(super) struct Executor(PollableFd<OwnedFd>);

impl Executor {
    pub(super) fn new() -> io::Result<Self> {
        let always_readable = eventfd(1, EventfdFlags::CLOEXEC)?;
        PollableFd::new(always_readable).map(Executor).map_err(io::Error::other)
    }

    pub(super) async fn let_in(&self) -> io::Result<()> {
        self.0.readable().await.map_err(io::Error::other)
    }
}

impl Pump {
    /// The kernel's thread that ends a synced write may need this very CPU, and a core that never sleeps would have it
    /// wait for the next tick, milliseconds away.
    pub(super) fn yield_to_append(&self) {
        if self.net.is_appending() {
            std::thread::yield_now();
        }
    }

    /// Whether there is something to do right now.
    pub(super) fn has_input(&mut self) -> bool {
        self.net.is_busy()
            || self.connections.has_backlog()
            || self.shard.is_busy()
            || !self.shard.actions_mut().is_empty()
            || self.bell.has_mail()
            || self.desk.has_waiting()
            || self.disk.as_ref().is_some_and(Disk::has_answers)
            || self.neighbours.iter_mut().any(|neighbour| {
                neighbour.down_in.has_some() || (self.shard.may_take_up(neighbour.core) && neighbour.up_in.has_some())
            })
    }

    /// Waits for something to do: looks for it at first, and sleeps then, in the executor where that has something to wait for.
    pub(super) async fn rest(&mut self, executor: Option<&PollableFd<Wake>>) -> io::Result<()> {
        let from_us = self.elapsed_us();
        match executor {
            Some(wake) => self.sleep_in_executor(wake).await?,
            None if self.finds_input(from_us) => {}
            None => self.sleep_in_ring()?,
        }
        let until_us = self.elapsed_us();
        self.idling.waited(from_us, until_us);
        Ok(())
    }

    fn sleep_in_ring(&mut self) -> io::Result<()> {
        self.wake_when_due();
        self.bell.falls_asleep(Sleep::InRing);
        let slept = if self.has_input() {
            self.net.submit()
        } else {
            self.connections.counters.sleeps += 1;
            self.net.submit_and_wait()
        };
        self.bell.wakes_up();
        slept
    }

    /// Looks for something to do, for as long as it usually takes until something comes.
    fn finds_input(&mut self, from_us: u64) -> bool {
        // The kernel's thread that ends a synced write may need this very CPU.
        let spin_us = if self.net.is_appending() { 0 } else { self.idling.spin_us() };
        if spin_us == 0 {
            return false;
        }
        self.connections.counters.looks += 1;
        while self.elapsed_us() < from_us + spin_us {
            if self.has_input() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    async fn sleep_in_executor(&mut self, wake: &PollableFd<Wake>) -> io::Result<()> {
        self.wake_when_due();
        self.net.submit()?;
        self.net.set_waking(true);
        self.bell.falls_asleep(Sleep::InExecutor);
        if !self.has_input() {
            self.connections.counters.sleeps += 1;
            wake.readable().await.map_err(io::Error::other)?;
            self.bell.heard_by_executor();
        }
        self.bell.wakes_up();
        self.net.set_waking(false);
        Ok(())
    }

    fn wake_when_due(&mut self) {
        let due_ms = self.next_due();
        self.clock.sleeps_until(due_ms);
        if let Some(due_ms) = due_ms {
            self.net.wake_at(due_ms, self.now.monotonic_ms);
        }
    }

    /// When the next turn is due at the latest.
    fn next_due(&self) -> Option<u64> {
        let lanes_due = self.shard.is_waiting_for_lanes().then_some(self.now.monotonic_ms + LANE_RETRY_MS);
        let (shard_due, connections_due) = (self.shard.next_due(), self.connections.next_due());
        [shard_due, connections_due, self.accept_at_ms, lanes_due].into_iter().flatten().min()
    }
}
