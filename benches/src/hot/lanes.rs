//! What it costs to bring a parcel from a connection to its room: on the same core, and on another one.

use std::hint::black_box;

use banter_access::rights::Rights;
use banter_chat::address::{ConnectionId, Core, Peer};
use banter_chat::lanes::Lanes;
use banter_chat::limits::Limits;
use banter_chat::parcel::{OwnedBody, Up};
use banter_protocol::ids::{RoomId, UserName};
use banter_server::core::mesh::{Bell, Neighbour, lanes};
use bytes::Bytes;

use super::{Call, Scenario};
use crate::hot::frames::BODY;

pub(super) const SCENARIOS: [Scenario; 2] = [
    Scenario {
        question: "lanes",
        name: "hop-within",
        operation: "a parcel from a core to itself",
        operations: 1,
        calls: 1_000,
        begin: hop_within,
    },
    Scenario {
        question: "lanes",
        name: "hop-across",
        operation: "a parcel from a core to another one that is awake, without the way through the caches",
        operations: 1,
        calls: 1_000,
        begin: hop_across,
    },
];

/// A post, as it goes up.
pub fn parcel() -> Up {
    Up::Post {
        room: RoomId::of("lobby"),
        author: Peer { core: Core(0), connection: ConnectionId { slot: 0, generation: 1 } },
        user: UserName::new("ann").expect("a name"),
        rights: Rights::MEMBER,
        request: Some(7),
        key: None,
        body: OwnedBody::json(Bytes::from_static(BODY.as_bytes())),
    }
}

/// The ends of two cores' lanes to each other.
///
/// # Panics
/// When there are no descriptors for two bells.
pub fn two_cores() -> [Neighbour; 2] {
    let bells = [(); 2].map(|()| Bell::new().expect("descriptors for a bell"));
    let mut ends = lanes(&bells, Limits::default().lane_parcels_max).into_iter().flatten();
    [(); 2].map(|()| ends.next().expect("a neighbour of each"))
}

/// Decides whether a core should go to its own rooms past its lane, with a second way through the code.
fn hop_within() -> Call {
    let own = Core(0);
    let mut lanes = Lanes::new(own, 1, Limits::default().lane_parcels_max);
    let mut parcel = Some(parcel());
    Box::new(move || {
        if let Some(parcel) = parcel.take() {
            lanes.send_up(own, parcel, 0);
        }
        parcel = black_box(lanes.take_local_up());
    })
}

/// Decides whether parcels are to be gathered ahead of a lane, or one by one is cheap enough.
fn hop_across() -> Call {
    let [here, mut there] = two_cores();
    let mut parcel = Some(parcel());
    Box::new(move || {
        if let Some(parcel) = parcel.take() {
            here.up_out.push(parcel);
            here.bell.ring();
        }
        parcel = black_box(there.up_in.pop());
    })
}
