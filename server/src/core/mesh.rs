//! The lanes between cores: two SPSC queues for each ordered pair, up and down, and the bell that wakes a sleeping core.
//!
//! ```text
//!   core A ──up──▶ core B      asks of A's connections to B's rooms
//!   core A ──down─▶ core B     answers and batches of A's rooms to B's connections
//! ```
//!
//! Invariant: a producer pushes and then looks whether the consumer sleeps; a consumer says that it sleeps and then looks
//! whether something was pushed. Both in that order with a full fence, so no parcel waits for a sleeper.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};

use banter_chat::address::Core;
use banter_chat::parcel::{Down, Up};
use glommio::channels::spsc_queue::{Consumer, Producer, make};
use rustix::event::{EventfdFlags, eventfd};

/// Wakes a core that sleeps, wherever it sleeps.
pub struct Bell {
    /// The sockets' ring polls it.
    wakes_ring: OwnedFd,
    /// The executor polls it.
    wakes_executor: OwnedFd,
    /// A [`Sleep`].
    sleep: AtomicU8,
    has_mail: AtomicBool,
}

/// Where a core sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Sleep {
    /// It does not.
    Awake,
    /// In the sockets' ring: one call into the kernel.
    InRing,
    /// In the executor, which has something of its own under way.
    InExecutor,
}

impl Bell {
    /// A bell for one core.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn new() -> io::Result<Arc<Self>> {
        let wake = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Arc::new(Bell {
            wakes_ring: wake()?,
            wakes_executor: wake()?,
            sleep: AtomicU8::new(Sleep::Awake as u8),
            has_mail: AtomicBool::new(false),
        }))
    }

    /// What becomes readable, again with every ring, for a core that sleeps in the sockets' ring.
    pub fn for_ring(&self) -> &OwnedFd {
        &self.wakes_ring
    }

    /// What becomes readable for a core that sleeps in the executor.
    pub fn for_executor(&self) -> &OwnedFd {
        &self.wakes_executor
    }

    /// Wakes the core if it sleeps. Called behind a push.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleep.load(Ordering::Relaxed) == Sleep::Awake as u8 {
            return;
        }
        let was = self.sleep.swap(Sleep::Awake as u8, Ordering::AcqRel);
        let wake = if was == Sleep::InRing as u8 {
            &self.wakes_ring
        } else if was == Sleep::InExecutor as u8 {
            &self.wakes_executor
        } else {
            return;
        };
        // Fails only when the counter is full, and then it is readable.
        let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
    }

    /// Says that a control message is there, and wakes the core.
    pub fn ring_for_mail(&self) {
        self.has_mail.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether a control message came since the last time.
    pub fn take_mail(&self) -> bool {
        self.has_mail.load(Ordering::Relaxed) && self.has_mail.swap(false, Ordering::AcqRel)
    }

    /// The core is about to sleep there. It has to look at its lanes once more behind this.
    pub fn falls_asleep(&self, sleep: Sleep) {
        self.sleep.store(sleep as u8, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The core is awake.
    pub fn wakes_up(&self) {
        self.sleep.store(Sleep::Awake as u8, Ordering::Relaxed);
    }

    /// The executor heard the bell, which may ring again.
    pub fn heard_by_executor(&self) {
        let _ = rustix::io::read(&self.wakes_executor, &mut [0u8; 8]);
    }

    /// Whether a control message waits.
    pub fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }
}

/// The writing end of a lane.
pub struct Outbound<T> {
    producer: Producer<T>,
    slots: usize,
}

impl<T> Outbound<T> {
    /// Parcels in the lane.
    pub fn len(&self) -> usize {
        self.slots - self.producer.free_space()
    }

    /// Whether the lane is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a parcel in. The shard sends none where there is no room, so a full lane is a bug.
    pub fn push(&self, parcel: T) {
        let refused = self.producer.try_push(parcel);
        assert!(refused.is_none(), "a parcel was sent into a full lane");
    }
}

/// The reading end of a lane.
pub struct Inbound<T> {
    consumer: Consumer<T>,
    /// The queue has no way to look without taking.
    next: Option<T>,
}

impl<T> Inbound<T> {
    /// Whether there is a parcel.
    pub fn has_some(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.consumer.try_pop();
        }
        self.next.is_some()
    }

    /// Takes the next parcel.
    pub fn pop(&mut self) -> Option<T> {
        self.next.take().or_else(|| self.consumer.try_pop())
    }
}

/// A lane, by its two ends.
fn lane<T: Send>(capacity: usize) -> (Outbound<T>, Inbound<T>) {
    let (producer, consumer) = make(capacity);
    let slots = producer.free_space();
    (Outbound { producer, slots }, Inbound { consumer, next: None })
}

/// One core's ends of the lanes to and from one other core.
pub struct Neighbour {
    /// The other core.
    pub core: Core,
    /// Wakes it.
    pub bell: Arc<Bell>,
    /// To its rooms.
    pub up_out: Outbound<Up>,
    /// To its connections.
    pub down_out: Outbound<Down>,
    /// From its connections.
    pub up_in: Inbound<Up>,
    /// From its rooms.
    pub down_in: Inbound<Down>,
}

/// All lanes between the cores of those bells; for each core its ends, without those to itself.
pub fn lanes(bells: &[Arc<Bell>], parcels_max: u32) -> Vec<Vec<Neighbour>> {
    let cores = bells.len();
    let capacity = parcels_max as usize;
    let mut ends: Vec<Vec<Neighbour>> = (0..cores).map(|_| Vec::new()).collect();
    for first in 0..cores {
        for second in first + 1..cores {
            let (up_out_first, up_in_second) = lane(capacity);
            let (up_out_second, up_in_first) = lane(capacity);
            let (down_out_first, down_in_second) = lane(capacity);
            let (down_out_second, down_in_first) = lane(capacity);
            ends[first].push(Neighbour {
                core: Core(second as u16),
                bell: bells[second].clone(),
                up_out: up_out_first,
                down_out: down_out_first,
                up_in: up_in_first,
                down_in: down_in_first,
            });
            ends[second].push(Neighbour {
                core: Core(first as u16),
                bell: bells[first].clone(),
                up_out: up_out_second,
                down_out: down_out_second,
                up_in: up_in_second,
                down_in: down_in_second,
            });
        }
    }
    ends
}
