//! Speaks to NATS JetStream, the engine of a cluster: a thin shell that does what `banter_cluster::engine` asks.
//!
//! ```text
//!  machines (pure) ─Ask─▶ Engine ─▶ desk (one task) ─▶ async-nats ─▶ three or more NATS servers
//!                  ◀─Answer─ channel ◀──┘
//!  banter cluster init │ status │ the start ─▶ streams · health · gate ─▶ the same connection, and each server's monitoring
//! ```
//!
//! It runs on a current-thread tokio runtime, on a thread of the control plane. Everything that comes from a server is read with
//! care, and every wait has a limit in [`limits`].

#![forbid(unsafe_code)]

mod config;
mod connection;
mod desk;
mod fault;
pub mod gate;
pub mod growing;
pub mod health;
pub mod limits;
pub mod monitoring;
mod names;
mod replies;
mod stream_config;
pub mod streams;
mod unasked;
mod waiting;

use banter_cluster::engine::{Answer, Ask};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use config::{ClusterName, EngineConfig};
pub use connection::{ApiFault, Connection};
pub use fault::EngineFault;
pub use names::Names;
pub use stream_config::{Difference, Founding, Shape, StreamConfig};

use desk::{Asked, Desk};

/// A connection to the engine that does asks.
///
/// The connection is made again by itself whenever it is lost. What then had no answer is answered at once, as if nothing came, and
/// so is what is asked until it is there again. Of that, some may still be stored: what was on its way, and up to
/// [`limits::OUTBOX_MESSAGES_MAX`] messages that the library had not written yet and writes to the next connection. The library
/// gives up what it had already put into the lost connection's buffer. So an append may land after it was said to be silent, which
/// is what silent means.
#[derive(Debug)]
pub struct Engine {
    asks: mpsc::Sender<Asked>,
    answers: flume::Sender<Answer>,
    connection: Connection,
}

impl Engine {
    /// Connects to any of the servers; each answer comes on that channel, and whatever any node tells by [`Ask::Beat`].
    ///
    /// # Errors
    /// What was told is wrong, or no server takes us in time.
    pub async fn connect(config: EngineConfig, answers: flume::Sender<Answer>) -> Result<Engine, EngineFault> {
        let connection = Connection::open(&config).await?;
        let (asks, asked) = mpsc::channel(limits::ASKS_MAX);
        let (desk, incoming) = Desk::open(&connection, config.append_timeout(), asked, answers.clone()).await?;
        tokio::spawn(desk.run(incoming));
        Ok(Engine { asks, answers, connection })
    }

    /// Does that, sometime. Never blocks and never fails: the answer says what came of it. Asks go out in the order in which they
    /// are asked.
    pub fn ask(&self, ask: Ask) {
        let refused = match self.asks.try_send((ask, Instant::now())) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full((ask, _)) | mpsc::error::TrySendError::Closed((ask, _))) => ask,
        };
        if let Some(answer) = unasked::unasked(&refused) {
            let _ = self.answers.send(answer);
        }
    }

    /// The connection, to look after the streams with.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}
