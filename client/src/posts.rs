//! The posts that wait for their acknowledgement: numbered, keyed, bounded in count and bytes.
//!
//! Invariant: of the posts of a room that wait, at most `posts_in_flight_max` are with the present connection, and what
//! it gets next is the oldest that it does not have.

use std::collections::{BTreeMap, VecDeque};

use banter_protocol::ids::RoomName;
use banter_protocol::request::Body;

use crate::event::OwnedBody;
use crate::options::Options;

/// A post's number within its session, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Why a post or signal was not taken. Nothing was sent; try again later, or drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostRefusal {
    /// `posts_unacknowledged_max` posts are waiting.
    #[error("{posts_max} posts wait for their acknowledgement (posts_unacknowledged_max)")]
    FullOfPosts {
        /// The limit.
        posts_max: usize,
    },
    /// The bodies that wait would go above `posts_unacknowledged_bytes_max`, or the outbox above `outbox_bytes_max`.
    #[error("more than {bytes_max} bytes would wait to be sent or acknowledged")]
    FullOfBytes {
        /// The limit.
        bytes_max: usize,
    },
    /// The room was not joined, or has been left.
    #[error("the room is not joined")]
    NotJoined,
    /// A signal is worth nothing later, and there is no connection now.
    #[error("there is no connection")]
    NotConnected,
    /// The session has ended for good.
    #[error("the session has ended")]
    Ended,
}

#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) ticket: Ticket,
    pub(crate) body: OwnedBody,
    /// Handed to the present connection, and not answered yet.
    is_in_flight: bool,
    /// The user knows that it has to wait longer.
    is_postponed: bool,
}

/// A room's posts, in the order of their tickets.
#[derive(Debug, Default)]
struct Queue {
    posts: VecDeque<Post>,
    in_flight: usize,
}

/// Every post that is not acknowledged.
#[derive(Debug)]
pub(crate) struct Posts {
    queues: BTreeMap<RoomName, Queue>,
    count: usize,
    bytes: usize,
    next: u64,
    posts_max: usize,
    bytes_max: usize,
    in_flight_max: usize,
}

impl Posts {
    pub(crate) fn new(options: &Options) -> Self {
        Posts {
            queues: BTreeMap::new(),
            count: 0,
            bytes: 0,
            next: 1,
            posts_max: options.posts_unacknowledged_max,
            bytes_max: options.posts_unacknowledged_bytes_max,
            in_flight_max: options.posts_in_flight_max,
        }
    }

    /// How many posts of a room a connection may have, from now on; with none no post would ever go out.
    pub(crate) fn set_in_flight_max(&mut self, in_flight_max: usize) {
        self.in_flight_max = in_flight_max.max(1);
    }

    pub(crate) fn add(&mut self, room: RoomName, body: Body<'_>) -> Result<Ticket, PostRefusal> {
        if self.count >= self.posts_max {
            return Err(PostRefusal::FullOfPosts { posts_max: self.posts_max });
        }
        if self.bytes + body.bytes.len() > self.bytes_max {
            return Err(PostRefusal::FullOfBytes { bytes_max: self.bytes_max });
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.count += 1;
        self.bytes += body.bytes.len();
        let post = Post { ticket, body: body.into(), is_in_flight: false, is_postponed: false };
        self.queues.entry(room).or_default().posts.push_back(post);
        Ok(ticket)
    }

    /// Forgets a post. False when it is gone already.
    pub(crate) fn remove(&mut self, room: &RoomName, ticket: Ticket) -> bool {
        let Some((queue, index)) = self.find(room, ticket) else { return false };
        let Some(post) = queue.posts.remove(index) else { return false };
        queue.in_flight -= usize::from(post.is_in_flight);
        if queue.posts.is_empty() {
            self.queues.remove(room);
        }
        self.count -= 1;
        self.bytes -= post.body.bytes.len();
        true
    }

    fn find(&mut self, room: &RoomName, ticket: Ticket) -> Option<(&mut Queue, usize)> {
        let queue = self.queues.get_mut(room)?;
        let index = queue.posts.binary_search_by_key(&ticket, |post| post.ticket).ok()?;
        Some((queue, index))
    }

    /// The oldest post of a room that the present connection does not have, if it may have one more.
    pub(crate) fn next_to_send(&self, room: &RoomName) -> Option<&Post> {
        let queue = self.queues.get(room)?;
        if queue.in_flight >= self.in_flight_max {
            return None;
        }
        queue.posts.iter().find(|post| !post.is_in_flight)
    }

    /// The present connection has it now.
    pub(crate) fn mark_in_flight(&mut self, room: &RoomName, ticket: Ticket) {
        if let Some((queue, index)) = self.find(room, ticket) {
            queue.in_flight += usize::from(!queue.posts[index].is_in_flight);
            queue.posts[index].is_in_flight = true;
        }
    }

    /// The server did not take it: it is to be sent again. False when it is gone.
    pub(crate) fn take_back(&mut self, room: &RoomName, ticket: Ticket) -> bool {
        let Some((queue, index)) = self.find(room, ticket) else { return false };
        queue.in_flight -= usize::from(queue.posts[index].is_in_flight);
        queue.posts[index].is_in_flight = false;
        true
    }

    /// The user is to be told that it waits longer. False when that was told before, or it is gone.
    pub(crate) fn postpone(&mut self, room: &RoomName, ticket: Ticket) -> bool {
        let Some((queue, index)) = self.find(room, ticket) else { return false };
        !std::mem::replace(&mut queue.posts[index].is_postponed, true)
    }

    /// The tickets of a room, ascending.
    pub(crate) fn tickets_of(&self, room: &RoomName) -> Vec<Ticket> {
        self.queues.get(room).into_iter().flat_map(|queue| &queue.posts).map(|post| post.ticket).collect()
    }

    /// The connection is gone: what it had is not known to have arrived.
    pub(crate) fn take_all_back(&mut self) {
        for queue in self.queues.values_mut() {
            queue.posts.iter_mut().for_each(|post| post.is_in_flight = false);
            queue.in_flight = 0;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }
}
