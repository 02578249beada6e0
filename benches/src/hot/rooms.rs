//! What a core pays for a post, for each delivery of it, for a page, and for a turn in which nothing came.

use banter_chat::limits::Limits;
use banter_chat::policy::Durability;
use banter_protocol::wire::WireForm;

use super::cores::{Core, limits};
use super::frames::{BODY, fetch, post};
use super::{Call, Scenario};

const ROOM: &str = "lobby";
/// Members of the large room.
const MEMBERS: u32 = 1_000;
/// Messages of a page.
const PAGE_MESSAGES: u64 = 50;
/// Deliveries until tables and runs are as large as they get, and posts until the history is.
const WARM_UP_DELIVERIES: u32 = 10_000;
const WARM_UP_POSTS: u32 = 400;
/// Posts of the room of which pages are read.
const HISTORY_POSTS: u32 = 2_000;

pub(super) const SCENARIOS: [Scenario; 8] = [
    Scenario {
        question: "fan-out",
        name: "delivery",
        operation: "a message for one of the 1,000 members of a room, who read JSON",
        operations: MEMBERS as u64,
        calls: 200,
        begin: delivery,
    },
    Scenario {
        question: "turns",
        name: "turn-empty",
        operation: "a turn of a core with 1,000 connections in which nothing came",
        operations: 1,
        calls: 20_000,
        begin: turn_empty,
    },
    Scenario {
        question: "turns",
        name: "post",
        operation: "a post in a room in memory whose only reader is its author: JSON in, answer and message out",
        operations: 1,
        calls: 20_000,
        begin: || posting(WireForm::Json, Durability::Memory, false),
    },
    Scenario {
        question: "turns",
        name: "post-native",
        operation: "the same of a native client",
        operations: 1,
        calls: 20_000,
        begin: || posting(WireForm::Native, Durability::Memory, false),
    },
    Scenario {
        question: "turns",
        name: "post-keyed",
        operation: "the same of a JSON client, with a key",
        operations: 1,
        calls: 20_000,
        begin: || posting(WireForm::Json, Durability::Memory, true),
    },
    Scenario {
        question: "turns",
        name: "post-synced",
        operation: "the same without a key, acknowledged behind a commit of its own on a disk that answers at once",
        operations: 1,
        calls: 20_000,
        begin: || posting(WireForm::Json, Durability::Synced, false),
    },
    Scenario {
        question: "pages",
        name: "page-memory",
        operation: "a page of 50 messages from memory, asked and told in JSON",
        operations: 1,
        calls: 500,
        begin: page_memory,
    },
    Scenario {
        question: "pages",
        name: "page-log",
        operation: "the same from the log, whose pages are in memory",
        operations: 1,
        calls: 500,
        begin: page_log,
    },
];

/// Posts of one client, and all that follows from them.
pub struct Posts {
    core: Core,
    author: u32,
    /// As many with different keys as are forgotten until the first one comes again.
    posts: Vec<Vec<u8>>,
    next: usize,
}

impl Posts {
    /// In a room of so many members, of whom the first one posts; warmed up.
    pub fn new(form: WireForm, durability: Durability, members: u32, has_key: bool) -> Self {
        let limits = limits();
        let mut core = Core::new(durability, limits);
        let author = core.open(form, ROOM);
        for _ in 1..members {
            core.open(form, ROOM);
        }
        let keys = u64::from(limits.dedupe_keys_per_author_max) * 2;
        let posts = if has_key {
            (0..keys).map(|key| post(form, ROOM, Some(key))).collect()
        } else {
            vec![post(form, ROOM, None)]
        };
        let mut posts = Posts { core, author, posts, next: 0 };
        (0..WARM_UP_POSTS.max(WARM_UP_DELIVERIES / members)).for_each(|_| posts.post());
        posts
    }

    /// One post, until its answer and every message of it were handed to the sockets.
    pub fn post(&mut self) {
        let (posts, deliveries) = (self.core.posts(), self.core.deliveries());
        self.core.takes(self.author, &self.posts[self.next]);
        self.next = (self.next + 1) % self.posts.len();
        debug_assert_eq!(self.core.posts() - posts, 1);
        debug_assert_eq!(self.core.deliveries() - deliveries, self.core.clients());
    }
}

/// Decides how many members a core serves: what a delivery costs beside the kernel's send. A thousand deliveries pay one post.
fn delivery() -> Call {
    let mut posts = Posts::new(WireForm::Json, Durability::Memory, MEMBERS, false);
    Box::new(move || posts.post())
}

/// Decides what a core may do once a turn, whatever comes, and whether looking for work is dearer than sleeping.
fn turn_empty() -> Call {
    let mut posts = Posts::new(WireForm::Json, Durability::Memory, MEMBERS, false);
    Box::new(move || posts.core.turn())
}

/// Decides what a post pays that shares its turn with nobody: JSON or native, with a key or without, in memory or logged.
fn posting(form: WireForm, durability: Durability, has_key: bool) -> Call {
    let mut posts = Posts::new(form, durability, 1, has_key);
    Box::new(move || posts.post())
}

/// Decides how many readers may scroll back beside a live room.
fn page_memory() -> Call {
    page(Durability::Memory, Limits { history_bytes_per_core_max: 1 << 30, ..limits() })
}

/// Decides whether more memory for history, or for pages of the log, would spare a core anything.
fn page_log() -> Call {
    page(Durability::Synced, Limits { history_bytes_per_core_max: 0, ..limits() })
}

fn page(durability: Durability, limits: Limits) -> Call {
    let mut core = Core::new(durability, limits);
    let client = core.open(WireForm::Json, ROOM);
    (0..HISTORY_POSTS).for_each(|_| core.takes(client, &post(WireForm::Json, ROOM, None)));
    let fetch = fetch(ROOM, u64::from(HISTORY_POSTS) / 2, PAGE_MESSAGES);
    Box::new(move || {
        let told_bytes = core.told_bytes();
        core.takes(client, &fetch);
        debug_assert!(core.told_bytes() - told_bytes > PAGE_MESSAGES * BODY.len() as u64);
    })
}
