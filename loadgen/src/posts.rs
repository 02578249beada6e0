//! The posts that are under way: what each carries, who still waits for it, and where the room put it.
//!
//! A body's token is the post's slot and the slot's generation, 32 bits each. So a member needs no table of bodies to see
//! which post it reads and whether its bytes are whole.

use std::time::Duration;

use crate::body::Template;

/// Posts that may be under way: what an open loop can be behind before it gives up (about 200 MB of slots).
pub const POSTS_UNDER_WAY_MAX: usize = 4 << 20;

/// A post's place in the table.
pub type Slot = u32;

/// One post under way.
#[derive(Clone, Debug)]
pub struct Post {
    generation: u32,
    /// Its room.
    pub room: u32,
    /// The connection that posted it.
    pub publisher: u32,
    /// Members that have not got it yet.
    pub waiting: u32,
    /// The place that the first who heard of it was told; 0: nobody was.
    pub sequence: u64,
    /// When it was meant to be sent, from the run's start.
    pub intended: Duration,
    /// When the first member had it.
    pub first_at: Duration,
    /// Whether its latencies count.
    pub is_measured: bool,
    /// Whether the acknowledgement came.
    pub is_acknowledged: bool,
    is_open: bool,
}

impl Post {
    /// What its body says: never 0.
    #[inline]
    pub fn token(&self, slot: Slot) -> u64 {
        u64::from(slot) << 32 | u64::from(self.generation)
    }
}

/// What is known of a post before it is sent.
#[derive(Clone, Copy, Debug)]
pub struct NewPost {
    /// Its room.
    pub room: u32,
    /// The connection that posts it.
    pub publisher: u32,
    /// Members who must get it.
    pub waiting: u32,
    /// When it was meant to be sent.
    pub intended: Duration,
    /// Whether its latencies count.
    pub is_measured: bool,
}

/// Why a body is none that a member may get now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadBody {
    /// Not as long, or other bytes than were posted.
    Altered,
    /// No post of that number is under way: somebody else's, or one that was complete.
    Unknown,
}

/// Every post under way.
#[derive(Debug)]
pub struct Posts {
    slots: Vec<Post>,
    free: Vec<Slot>,
    body: Template,
}

impl Posts {
    /// An empty table for bodies of that size.
    pub fn new(payload_bytes: usize) -> Self {
        Posts { slots: Vec::new(), free: Vec::new(), body: Template::new(payload_bytes) }
    }

    /// Posts under way.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a slot for a post; the body to send is [`Posts::body`]'s. `None`: too many are under way.
    pub fn open(&mut self, new: NewPost) -> Option<Slot> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < POSTS_UNDER_WAY_MAX => {
                self.slots.push(Post {
                    generation: 0,
                    room: 0,
                    publisher: 0,
                    waiting: 0,
                    sequence: 0,
                    intended: Duration::ZERO,
                    first_at: Duration::ZERO,
                    is_measured: false,
                    is_acknowledged: false,
                    is_open: false,
                });
                (self.slots.len() - 1) as Slot
            }
            None => return None,
        };
        let post = &mut self.slots[slot as usize];
        let NewPost { room, publisher, waiting, intended, is_measured } = new;
        *post = Post {
            generation: post.generation.checked_add(1).unwrap_or(1),
            room,
            publisher,
            waiting,
            sequence: 0,
            intended,
            first_at: Duration::ZERO,
            is_measured,
            is_acknowledged: false,
            is_open: true,
        };
        Some(slot)
    }

    /// The body of an open post.
    pub fn body(&mut self, slot: Slot) -> &[u8] {
        let token = self.slots[slot as usize].token(slot);
        self.body.write(token)
    }

    /// The open post that a body belongs to.
    ///
    /// # Errors
    /// When there is none, or the body is not as it was posted.
    pub fn find(&mut self, body: &[u8]) -> Result<(Slot, &mut Post), BadBody> {
        let token = self.body.read(body).ok_or(BadBody::Altered)?;
        let slot = (token >> 32) as Slot;
        match self.slots.get_mut(slot as usize) {
            Some(post) if post.is_open && post.generation == token as u32 => Ok((slot, post)),
            _ => Err(BadBody::Unknown),
        }
    }

    /// The open post of a slot, as an acknowledgement names it.
    pub fn post_mut(&mut self, slot: u64) -> Option<&mut Post> {
        self.slots.get_mut(usize::try_from(slot).ok()?).filter(|post| post.is_open)
    }

    /// Frees the slot of a post that everybody has and that was acknowledged.
    pub fn close_if_done(&mut self, slot: Slot) {
        let post = &mut self.slots[slot as usize];
        if post.is_open && post.waiting == 0 && post.is_acknowledged {
            post.is_open = false;
            self.free.push(slot);
        }
    }

    /// The posts under way.
    pub fn iter(&self) -> impl Iterator<Item = &Post> {
        self.slots.iter().filter(|post| post.is_open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::PAYLOAD_BYTES_MIN;

    fn new(waiting: u32) -> NewPost {
        NewPost { room: 3, publisher: 4, waiting, intended: Duration::ZERO, is_measured: true }
    }

    #[test]
    fn a_body_leads_back_to_its_post_until_that_is_done() {
        let mut posts = Posts::new(128);
        let first = posts.open(new(1)).unwrap();
        let second = posts.open(new(1)).unwrap();
        let body = posts.body(second).to_vec();
        assert_eq!(body.len(), 128);
        assert!(serde_json::from_slice::<&str>(&body).is_ok());
        let (slot, post) = posts.find(&body).unwrap();
        assert_eq!((slot, post.room), (second, 3));
        post.waiting = 0;
        posts.close_if_done(second);
        assert!(posts.find(&body).is_ok(), "not acknowledged yet");
        posts.post_mut(second.into()).unwrap().is_acknowledged = true;
        posts.close_if_done(second);
        assert_eq!(posts.find(&body).err(), Some(BadBody::Unknown));
        assert_eq!(posts.len(), 1);
        // The slot is used again, and the old body is still unknown.
        assert_eq!(posts.open(new(1)), Some(second));
        assert_eq!(posts.find(&body).err(), Some(BadBody::Unknown));
        assert_ne!(first, second);
    }

    #[test]
    fn any_other_byte_is_seen() {
        let mut posts = Posts::new(40);
        let slot = posts.open(new(1)).unwrap();
        let body = posts.body(slot).to_vec();
        for index in 0..body.len() {
            let mut bad = body.clone();
            bad[index] ^= 1;
            assert!(posts.find(&bad).is_err(), "byte {index}");
        }
        assert_eq!(posts.find(&body[..39]).err(), Some(BadBody::Altered));
        assert_eq!(posts.find(b"").err(), Some(BadBody::Altered));
    }

    #[test]
    fn the_smallest_body_is_the_token_alone() {
        let mut posts = Posts::new(PAYLOAD_BYTES_MIN);
        let slot = posts.open(new(1)).unwrap();
        let body = posts.body(slot).to_vec();
        assert_eq!(body.len(), PAYLOAD_BYTES_MIN);
        assert!(posts.find(&body).is_ok());
    }
}
