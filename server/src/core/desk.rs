//! Asks of the backend's interface on a core: so many a turn go to the shard, and each answer to who waits for it.

use std::collections::{HashMap, VecDeque};

use banter_chat::backend::{BackendAnswer, BackendAsk, Ticket};
use banter_chat::shard::Shard;

use crate::control::api::Reply;
use crate::core::connections::Connections;

/// What one turn hands to the shard, in asks that look at one thing.
const COST_A_TURN: usize = 256;

/// An ask, and where its answer goes.
pub type Asked = Box<(BackendAsk, Reply<BackendAnswer>)>;

/// The asks that wait, and those whose answer does. The interface bounds how many there are.
#[derive(Default)]
pub struct Desk {
    waiting: VecDeque<Asked>,
    asked: HashMap<Ticket, Reply<BackendAnswer>>,
    last: Ticket,
}

impl Desk {
    /// Takes an ask.
    pub fn take(&mut self, asked: Asked) {
        self.waiting.push_back(asked);
    }

    /// Whether asks wait for the next turn.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands this turn's part of the asks to the shard.
    pub fn ask(&mut self, shard: &mut Shard) {
        let mut cost = 0;
        while cost < COST_A_TURN {
            let Some(asked) = self.waiting.pop_front() else { return };
            let (ask, reply) = *asked;
            cost += ask.cost();
            // Who asked may have gone, and with it the wish to have it done.
            if reply.is_closed() {
                continue;
            }
            self.last += 1;
            self.asked.insert(self.last, reply);
            shard.backend(self.last, ask);
        }
    }

    /// Gives the answers to who waits for them, with what the shell alone knows of connections.
    pub fn answer(&mut self, shard: &mut Shard, connections: &Connections) {
        for (ticket, mut answer) in shard.take_backend_answers() {
            if let BackendAnswer::User(user) = &mut answer {
                user.connections.iter_mut().for_each(|there| there.address = connections.address(there.id));
            }
            // Who asked may have gone.
            let _ = self.asked.remove(&ticket).map(|reply| reply.send(answer));
        }
    }
}
