//! Pins what the pump relies on in glommio: sleeping on an eventfd loses no wake, whatever was cancelled before.

use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::io::PollableFd;
use glommio::timer::sleep;
use glommio::{LocalExecutorBuilder, Placement};
use rustix::event::{EventfdFlags, eventfd};

/// Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(10);

struct Wake(RawFd);

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// As `mesh::Bell` has it.
fn bell() -> (Arc<OwnedFd>, PollableFd<Wake>) {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd"));
    let wake = PollableFd::new(Wake(bell.as_raw_fd())).expect("inside an executor");
    (bell, wake)
}

fn ring(bell: &OwnedFd) {
    rustix::io::write(bell, &1u64.to_ne_bytes()).expect("the counter is not full");
}

/// What was rung since the last time.
fn heard(bell: &OwnedFd) -> Option<u64> {
    let mut count = [0; 8];
    rustix::io::read(bell, &mut count).ok().map(|_| u64::from_ne_bytes(count))
}

/// Runs on an executor as the server's cores do, with the rings as small.
fn on_a_core<T: Send + 'static>(test: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).ring_depth(64);
    executor.spawn(move || test()).expect("an executor").join().expect("the test holds")
}

/// Waits for a wake for so long; the one of the two that is late is cancelled.
async fn is_readable_in(wake: &PollableFd<Wake>, time: Duration) -> bool {
    let (mut readable, mut late) = (pin!(wake.readable()), pin!(sleep(time)));
    std::future::poll_fn(|context| match readable.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(done.map(|()| true).expect("a poll")),
        Poll::Pending => late.as_mut().poll(context).map(|()| false),
    })
    .await
}

/// Polls a future once, and says whether it is done.
async fn polled_once(future: impl Future) -> bool {
    let mut future = pin!(future);
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}

#[test]
fn a_wake_from_before_the_poll_is_seen() {
    on_a_core(async || {
        let (bell, wake) = bell();
        for _ in 0..100 {
            ring(&bell);
            assert!(is_readable_in(&wake, PATIENCE).await);
            assert_eq!(heard(&bell), Some(1), "waiting takes nothing");
        }
    });
}

#[test]
fn a_cancelled_wait_takes_no_later_wake() {
    on_a_core(async || {
        let (bell, wake) = bell();
        for round in 0..200 {
            // Cancelled before the poll was submitted, or while it is in the kernel.
            for _ in 0..round % 4 {
                assert!(!polled_once(wake.readable()).await);
            }
            if round % 3 == 0 {
                assert!(!is_readable_in(&wake, Duration::from_micros(200)).await);
            }
            ring(&bell);
            assert!(is_readable_in(&wake, PATIENCE).await, "round {round}");
            assert_eq!(heard(&bell), Some(1));
        }
    });
}

#[test]
fn a_wake_that_meets_a_cancelled_wait_is_seen_by_the_next() {
    on_a_core(async || {
        let (bell, wake) = bell();
        for round in 0..200 {
            {
                let mut waiting = pin!(wake.readable());
                std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
                if round % 2 == 0 {
                    // The poll is submitted.
                    sleep(Duration::from_micros(50)).await;
                }
                ring(&bell);
                if round % 3 == 0 {
                    // Its completion is there, and nobody takes it.
                    sleep(Duration::from_micros(50)).await;
                }
            }
            assert!(is_readable_in(&wake, PATIENCE).await, "round {round}");
            assert_eq!(heard(&bell), Some(1));
        }
    });
}

#[test]
fn who_has_heard_sleeps_again() {
    on_a_core(async || {
        let (bell, wake) = bell();
        for _ in 0..5 {
            ring(&bell);
            assert!(is_readable_in(&wake, PATIENCE).await);
            assert_eq!(heard(&bell), Some(1));
            assert!(!is_readable_in(&wake, Duration::from_millis(20)).await, "nothing of before is left");
        }
    });
}

#[test]
fn a_wake_from_another_thread_ends_a_sleep_behind_cancelled_ones() {
    on_a_core(async || {
        let (bell, wake) = bell();
        let (asleep, is_asleep) = std::sync::mpsc::channel();
        let ringing = {
            let bell = bell.clone();
            std::thread::spawn(move || is_asleep.iter().for_each(|()| ring(&bell)))
        };
        let started = Instant::now();
        for round in 0..500 {
            if round % 2 == 0 {
                assert!(!polled_once(wake.readable()).await);
            }
            asleep.send(()).expect("the other thread is there");
            assert!(is_readable_in(&wake, PATIENCE).await, "round {round}");
            assert_eq!(heard(&bell), Some(1));
        }
        drop(asleep);
        ringing.join().expect("the other thread ends");
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    });
}
