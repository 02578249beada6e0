//! A server of one core, where everybody is everybody's neighbour, and a member there who must notice nothing.

use serde_json::json;

use crate::raw_peer::{RawPeer, UPGRADE};
use crate::server_process::{ServerProcess, wait_until};
use crate::wire_client::{Form, WireClient};

/// The server and the member.
pub struct Neighbours {
    /// The server.
    pub server: ServerProcess,
    /// The member, in the room `quiet`, where he talks to himself.
    pub witness: WireClient,
}

impl Neighbours {
    /// Starts the server with those flags.
    pub fn start(flags: &[&str]) -> Self {
        let server = ServerProcess::start(1, flags);
        let mut witness = WireClient::hello(server.address(), Form::Json, "witness");
        witness.join("quiet");
        Neighbours { server, witness }
    }

    /// What the member says still comes back to him, nothing else does, and nobody else is left.
    pub fn notice_nothing(&mut self) {
        let posted = self.witness.post("quiet", json!("still here"));
        assert_eq!(self.witness.next_event()["sequence"], posted["sequence"]);
        assert!(self.witness.has_nothing());
        wait_until("only the witness is left", || self.server.metric("banter_connections") == 1);
    }

    /// A peer whose WebSocket is open.
    pub fn websocket(&self) -> RawPeer {
        RawPeer::websocket(self.server.address())
    }

    /// The same with native frames.
    pub fn websocket_rkyv(&self) -> RawPeer {
        let mut peer = RawPeer::connect(self.server.address());
        peer.upgrade(&UPGRADE.replace("Host:", "Sec-WebSocket-Protocol: banter.rkyv.v1\r\nHost:"));
        peer
    }

    /// A native peer.
    pub fn native(&self) -> RawPeer {
        RawPeer::native(self.server.address())
    }
}
