//! What the interface asks of the cores: by mail, with an answer that comes back or a time that is over.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use banter_access::revocation::{Revocation, Subject};
use banter_chat::address::{Core, Placement};
use banter_chat::backend::{BackendAnswer, BackendAsk};
use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::{RoomId, RoomName, UserName};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::fault::ApiFault;
use crate::control::{CoreLink, ToCore};

/// How long a core has for an answer. A post may wait for a disk that hangs.
const ANSWER_MAX: Duration = Duration::from_secs(25);

/// Where the answer of a core goes.
pub type Reply<Answer> = oneshot::Sender<Answer>;

/// What every core is to do.
#[derive(Clone, Debug)]
pub enum Order {
    /// Refuse and end whom it names.
    Revoke(Arc<Revocation>),
    /// Take that back.
    Lift(Arc<Subject>),
    /// Take a user out of a room.
    Kick(RoomName, UserName),
    /// End a user's connections.
    Disconnect(UserName),
}

/// The ends to all cores.
#[derive(Clone)]
pub struct Cores {
    links: Vec<CoreLink>,
    placement: Placement,
}

impl Cores {
    /// These, and which of them has which room.
    pub fn new(links: Vec<CoreLink>, placement: Placement) -> Self {
        Cores { links, placement }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.links.len()
    }

    /// Asks the core that owns the room which the ask is about.
    ///
    /// # Errors
    /// No answer came: what was asked may be done or not.
    pub async fn ask_room(&self, ask: BackendAsk) -> Result<BackendAnswer, ApiFault> {
        let room = ask.room().map_or(RoomId(0), |room| RoomId::of(room.as_str()));
        self.ask(self.placement.core_of(room), ask).await
    }

    /// Asks a core.
    ///
    /// # Errors
    /// No answer came: what was asked may be done or not.
    pub async fn ask(&self, core: Core, ask: BackendAsk) -> Result<BackendAnswer, ApiFault> {
        let link = self.links.get(core.index()).ok_or_else(gone)?;
        Self::answer(Self::send(link, ask), Instant::now() + ANSWER_MAX).await
    }

    /// Asks every core the same; the answers in the cores' order.
    ///
    /// # Errors
    /// One gave no answer.
    pub async fn ask_all(&self, ask: impl Fn() -> BackendAsk) -> Result<Vec<BackendAnswer>, ApiFault> {
        let asked: Vec<_> = self.links.iter().map(|link| Self::send(link, ask())).collect();
        let until = Instant::now() + ANSWER_MAX;
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(Self::answer(answer, until).await?);
        }
        Ok(answers)
    }

    fn send(link: &CoreLink, ask: BackendAsk) -> oneshot::Receiver<BackendAnswer> {
        let (reply, answer) = oneshot::channel();
        link.send(ToCore::Backend(Box::new((ask, reply))));
        answer
    }

    async fn answer(answer: oneshot::Receiver<BackendAnswer>, until: Instant) -> Result<BackendAnswer, ApiFault> {
        match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(unknown()),
        }
    }

    /// Has every core take an order.
    ///
    /// # Errors
    /// One has as many as may wait, or did not answer in time: some may have taken it.
    pub async fn order(&self, order: &Order) -> Result<(), ApiFault> {
        let send = |link: &CoreLink| {
            let (reply, answer) = oneshot::channel();
            link.send(ToCore::Order(order.clone(), reply));
            answer
        };
        let answers: Vec<_> = self.links.iter().map(send).collect();
        for answer in answers {
            match tokio::time::timeout(ANSWER_MAX, answer).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    let message = "as many orders as may be wait on a core: try again";
                    return Err(ApiFault::new(ErrorCode::Overloaded, message).again_in(1_000));
                }
                Ok(Err(_)) => return Err(gone()),
                Err(_) => return Err(unknown()),
            }
        }
        Ok(())
    }
}

fn gone() -> ApiFault {
    ApiFault::new(
        ErrorCode::Draining,
        "the server is stopping, and nobody knows whether this was done: send it again with the same key",
    )
    .again_in(1_000)
}

/// Something was asked, and no answer came.
pub fn unknown() -> ApiFault {
    let message = "no answer came in time, and nobody knows whether this was done: send it again with the same key";
    ApiFault::of(StatusCode::GATEWAY_TIMEOUT, "unknown", message).again_in(1_000)
}
