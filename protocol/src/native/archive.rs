//! The archived types of native frames, as docs/protocol.md lays them out.

#![allow(missing_docs, reason = "rkyv's derive writes undocumented items")]

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

/// What most requests hold.
#[derive(Archive, Serialize)]
pub struct RoomRequest<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
}

#[derive(Archive, Serialize)]
pub struct Hello<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub user: &'a str,
    /// Empty: none.
    #[rkyv(with = InlineAsBox)]
    pub token: &'a str,
    /// Names, each ended by a line feed.
    #[rkyv(with = InlineAsBox)]
    pub features: &'a str,
}

#[derive(Archive, Serialize)]
pub struct Join<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// 0 now, 1 last `count`, 2 after the cursor.
    pub from: u8,
    pub count: u64,
    pub epoch: u64,
    pub sequence: u64,
    pub echo: bool,
    pub presence: bool,
    /// Empty: none.
    #[rkyv(with = InlineAsBox)]
    pub token: &'a str,
}

#[derive(Archive, Serialize)]
pub struct Post<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// Empty: none.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a str,
    /// 0 bytes, 1 JSON.
    pub format: u8,
    #[rkyv(with = InlineAsBox)]
    pub body: &'a [u8],
}

#[derive(Archive, Serialize)]
pub struct Fetch<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// 0 before, 1 after.
    pub from: u8,
    pub sequence: u64,
    pub limit: Option<u64>,
}

#[derive(Archive, Serialize)]
pub struct TellSignal<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub format: u8,
    #[rkyv(with = InlineAsBox)]
    pub body: &'a [u8],
}

#[derive(Archive, Serialize)]
pub struct Renew<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub token: &'a str,
}

#[derive(Archive, Serialize)]
pub struct Plain {
    pub id: Option<u64>,
}

#[derive(Archive, Serialize)]
pub struct Welcome<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub session: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub user: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub durability: &'a str,
    /// Names, each ended by a line feed.
    #[rkyv(with = InlineAsBox)]
    pub features: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub limits: &'a str,
    pub expires_in_ms: Option<u64>,
}

#[derive(Archive, Serialize)]
pub struct Nodes<'a> {
    /// Addresses, each ended by a line feed.
    #[rkyv(with = InlineAsBox)]
    pub nodes: &'a str,
}

#[derive(Archive, Serialize)]
pub struct Joined<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub durability: &'a str,
    pub epoch: u64,
    pub sequence: u64,
    pub members: u64,
}

#[derive(Archive, Serialize)]
pub struct Posted<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub epoch: u64,
    pub sequence: u64,
    pub time_ms: u64,
    pub duplicate: bool,
}

#[derive(Archive, Serialize)]
pub struct Page<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub epoch: u64,
    pub more: bool,
    #[rkyv(with = InlineAsBox)]
    pub messages: &'a [u8],
}

#[derive(Archive, Serialize)]
pub struct Members<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub count: u64,
    #[rkyv(with = InlineAsBox)]
    pub users: &'a str,
}

#[derive(Archive, Serialize)]
pub struct MessageArchive<'a> {
    pub epoch: u64,
    pub sequence: u64,
    pub time_ms: u64,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub user: &'a str,
    /// Empty: none.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub body: &'a [u8],
    pub format: u8,
}

#[derive(Archive, Serialize)]
pub struct ViewedArchive<'a> {
    pub message: MessageArchive<'a>,
    #[rkyv(with = InlineAsBox)]
    pub views: &'a [u8],
}

#[derive(Archive, Serialize)]
pub struct Signal<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub user: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub body: &'a [u8],
    pub format: u8,
}

#[derive(Archive, Serialize)]
pub struct Presence<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// Empty: counts only.
    #[rkyv(with = InlineAsBox)]
    pub user: &'a str,
    pub count: u64,
    /// 0 counts only, 1 joined, 2 left.
    pub state: u8,
}

#[derive(Archive, Serialize)]
pub struct Gap<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub epoch: u64,
    pub from: u64,
    pub to: u64,
}

#[derive(Archive, Serialize)]
pub struct ChangeArchive<'a> {
    pub epoch: u64,
    pub sequence: u64,
    pub time_ms: u64,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub user: &'a str,
    /// The place that it is about; 0: none.
    pub target: u64,
    #[rkyv(with = InlineAsBox)]
    pub body: &'a [u8],
    /// Which kind of change.
    pub what: u8,
}

#[derive(Archive, Serialize)]
pub struct StateArchive<'a> {
    pub epoch: u64,
    pub sequence: u64,
    pub time_ms: u64,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub body: &'a [u8],
}

#[derive(Archive, Serialize)]
pub struct Renewed {
    pub id: Option<u64>,
    pub expires_in_ms: u64,
}

#[derive(Archive, Serialize)]
pub struct Expiring {
    pub in_ms: u64,
}

#[derive(Archive, Serialize)]
pub struct Removed<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub code: u8,
}

#[derive(Archive, Serialize)]
pub struct Closing {
    pub reconnect_after_ms: u64,
    pub code: u8,
}

#[derive(Archive, Serialize)]
pub struct Taken<'a> {
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// Empty: none.
    #[rkyv(with = InlineAsBox)]
    pub reply: &'a [u8],
}

#[derive(Archive, Serialize)]
pub struct Error<'a> {
    /// Empty: none. Ahead of the others, whose places count from the end.
    #[rkyv(with = InlineAsBox)]
    pub reason: &'a str,
    pub id: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    pub message: &'a str,
    pub retry_after_ms: Option<u64>,
    /// 0: none.
    pub scope: u8,
    pub code: u8,
}

#[derive(Archive, Serialize)]
pub struct KeepAlive {
    pub reserved: u8,
}
