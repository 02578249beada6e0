//! The data plane: what one core's thread does. Sockets and rooms are here, and nothing here waits for anybody.
//!
//! ```text
//!  net (sockets) ─▶ connections (bytes ↔ requests) ─▶ pump ─▶ the shard of banter-chat
//!                     └ arrivals (who comes in),        └ mesh (lanes to the other cores, bells)
//!                       http, doorway (upgrades)
//! ```

pub mod arrivals;
pub mod blocked;
pub mod connections;
pub mod desk;
pub mod doorway;
pub mod events;
pub mod http;
pub mod idling;
pub mod mesh;
pub mod net;
pub mod pump;
pub mod rare_line;
pub mod suspended;
pub mod turn_clock;
