//! The posts that wait for their acknowledgement: numbered, keyed, bounded in count and bytes.

use std::collections::VecDeque;

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
    pub(crate) room: RoomName,
    pub(crate) body: OwnedBody,
    /// Handed to the present connection, and not answered yet.
    pub(crate) is_sent: bool,
}

/// Every post that is not acknowledged, in the order of its ticket.
#[derive(Debug)]
pub(crate) struct Posts {
    waiting: VecDeque<Post>,
    bytes: usize,
    next: u64,
    posts_max: usize,
    bytes_max: usize,
}

impl Posts {
    pub(crate) fn new(options: &Options) -> Self {
        Posts {
            waiting: VecDeque::new(),
            bytes: 0,
            next: 1,
            posts_max: options.posts_unacknowledged_max,
            bytes_max: options.posts_unacknowledged_bytes_max,
        }
    }

    pub(crate) fn add(&mut self, room: RoomName, body: Body<'_>) -> Result<Ticket, PostRefusal> {
        if self.waiting.len() >= self.posts_max {
            return Err(PostRefusal::FullOfPosts { posts_max: self.posts_max });
        }
        if self.bytes + body.bytes.len() > self.bytes_max {
            return Err(PostRefusal::FullOfBytes { bytes_max: self.bytes_max });
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.bytes += body.bytes.len();
        self.waiting.push_back(Post { ticket, room, body: body.into(), is_sent: false });
        Ok(ticket)
    }

    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Post> {
        let index = self.waiting.binary_search_by_key(&ticket, |post| post.ticket).ok()?;
        let post = self.waiting.remove(index)?;
        self.bytes -= post.body.bytes.len();
        Some(post)
    }

    pub(crate) fn post_mut(&mut self, ticket: Ticket) -> Option<&mut Post> {
        let index = self.waiting.binary_search_by_key(&ticket, |post| post.ticket).ok()?;
        self.waiting.get_mut(index)
    }

    /// The posts of a room that the present connection does not have yet, oldest first.
    pub(crate) fn unsent_mut(&mut self, room: &str) -> impl Iterator<Item = &mut Post> {
        self.waiting.iter_mut().filter(move |post| !post.is_sent && post.room.as_str() == room)
    }

    /// The tickets of a room.
    pub(crate) fn tickets_of(&self, room: &str) -> Vec<Ticket> {
        self.waiting.iter().filter(|post| post.room.as_str() == room).map(|post| post.ticket).collect()
    }

    /// The connection is gone: what it had is not known to have arrived.
    pub(crate) fn mark_all_unsent(&mut self) {
        self.waiting.iter_mut().for_each(|post| post.is_sent = false);
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}
