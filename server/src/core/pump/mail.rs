//! What comes to a core by mail from the other threads: questions, orders, verdicts on tokens, what the log's keeper did.

use banter_access::revocation::Subject;
use banter_chat::logs::LogId;
use banter_chat::orders::Parting;
use banter_chat::proving::{NotProved, Proved};
use banter_log::journal::{Answer, Journal, LogPlaces};

use super::Pump;
use crate::cluster::OfCluster;
use crate::control::api::{Order, Reply};
use crate::control::reload::CoreReload;
use crate::control::{ToControl, ToCore};
use crate::metrics::CoreReport;
use crate::programs::{NewPrograms, Retired};
use crate::storage::disk::Disk;

/// Who wants to know how far the log is committed, once it is another version than that.
pub(super) struct LogFollower {
    seen: u64,
    reply: Reply<LogPlaces>,
}

impl Pump {
    /// Takes all that came. Who sends bounds how much that is.
    pub(super) fn take_mail(&mut self) {
        if !self.bell.take_mail() {
            return;
        }
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                ToCore::Report => self.report(),
                ToCore::HttpAnswer(connection, bytes) => self.connections.answered(connection, bytes, &mut self.net),
                ToCore::Drain => {
                    self.is_draining = true;
                    self.connections.drain();
                    self.shard.drain();
                }
                ToCore::Stop => {
                    self.is_stopped = true;
                    self.net.stop_accepting();
                }
                ToCore::Backend(asked) => self.desk.take(asked),
                ToCore::LogPlaces { seen, reply } => self.follow_log(seen, reply),
                ToCore::Order(order, reply) => {
                    let taken = self.take_order(&order);
                    // Who asked may have gone.
                    let _ = reply.send(taken);
                }
                ToCore::Proved(proved) => self.proved(*proved),
                ToCore::Reload(reload) => self.reload(*reload),
                ToCore::Programs(new) => {
                    let NewPrograms { set, retired } = *new;
                    let (core, engine) = (self.core, self.shard.set_programs(set));
                    // Who waits for it may have given up; then it ends here.
                    let _ = retired.send(Retired { core, engine });
                }
                ToCore::EpochsEnd(end) => self.shard.extend_epochs(end),
                ToCore::Cluster(message) => self.take_of_cluster(message),
                ToCore::Log(answer) => {
                    if let (Some(disk), Answer::Rewritten { segment }) = (&mut self.disk, &answer) {
                        disk.rewritten(*segment);
                    }
                    self.shard.disk(LogId::LOCAL, answer);
                }
                ToCore::LogSegment(header, file) => {
                    if let Some(disk) = &mut self.disk {
                        disk.ready(header.id, file);
                        self.shard.disk(LogId::LOCAL, Answer::Segment(header));
                    }
                }
            }
        }
    }

    /// What becomes of the partitions of a cluster that this core has.
    fn take_of_cluster(&mut self, message: OfCluster) {
        let Some(hands) = &mut self.hands else { return };
        match message {
            OfCluster::Opened { log, opening, parts } => {
                hands.opened(log, opening);
                self.shard.open_log(log, *parts);
            }
            OfCluster::Answer(log, answer) => self.shard.disk(log, answer),
            OfCluster::Closed(log) => {
                let journal = self.shard.close_log(log);
                hands.closed(log, journal);
            }
            OfCluster::Serving(serving) => self.shard.set_serving(serving),
            OfCluster::Nodes(nodes) => self.shard.set_nodes(&nodes),
            OfCluster::Epochs(first, end) => self.shard.begin_epochs(first, end),
        }
    }

    fn reload(&mut self, reload: CoreReload) {
        let CoreReload { limits, told_limits, entrance, access, post_rates, delivery_delays, taken } = reload;
        self.sends_per_turn_max = limits.sends_per_turn_max;
        self.connections.reload(&limits, entrance);
        self.shard.set_limits(limits, told_limits);
        self.idling.set_spin_us_max(limits.idle_spin_us_max);
        self.shard.set_post_rates(post_rates);
        self.shard.set_delivery_delays(delivery_delays);
        // Whether tokens are asked for is never changed by a reload, so it is taken.
        let _ = self.shard.set_access(access);
        // Who waits for it may have given up.
        let _ = taken.send(self.core);
    }

    fn proved(&mut self, proved: Proved) {
        let connection = proved.proving.connection;
        let is_refused = matches!(proved.verdict, Err(NotProved::Refused(_)));
        let hello = self.connections.hello_of(&proved);
        self.shard.proved(proved);
        self.connections.judged(connection, is_refused, hello.as_ref(), &self.shard);
    }

    /// Does what a backend orders; `false`: as much as may waits already.
    fn take_order(&mut self, order: &Order) -> bool {
        match order {
            Order::Revoke(revocation) => match revocation.subject() {
                Subject::Address(_) => self.connections.revoke(revocation).is_ok(),
                Subject::User(_) | Subject::Session(_) | Subject::Token(_) => self.shard.revoke(revocation).is_ok(),
            },
            Order::Lift(subject) => {
                self.connections.lift(subject);
                self.shard.lift(subject);
                true
            }
            Order::Kick(room, user) => self.shard.kick(room, user).is_ok(),
            Order::Disconnect(user) => self.shard.disconnect(user, Parting::KICKED).is_ok(),
        }
    }

    /// Who has seen nothing is told at once; of the others there is one.
    fn follow_log(&mut self, seen: Option<u64>, reply: Reply<LogPlaces>) {
        match (self.shard.rooms().journal(), seen) {
            (Some(_), Some(seen)) => self.log_follower = Some(LogFollower { seen, reply }),
            // Who asked may have gone.
            (Some(journal), None) => drop(reply.send(journal.places())),
            (None, _) => {}
        }
    }

    /// It is asked again, so that a core that commits all the time is asked at the follower's pace.
    pub(super) fn tell_log_follower(&mut self) {
        let Some(follower) = self.log_follower.take() else { return };
        match self.shard.rooms().journal() {
            Some(journal) if follower.seen != journal.places_version() => {
                // Who asked may have gone.
                let _ = follower.reply.send(journal.places());
            }
            Some(_) => self.log_follower = Some(follower),
            None => {}
        }
    }

    fn report(&self) {
        let lane_parcels =
            self.neighbours.iter().map(|neighbour| (neighbour.up_out.len() + neighbour.down_out.len()) as u64).sum();
        let (counters, shell) = (*self.shard.counters(), self.connections.counters);
        let (latencies, turns) = (self.shard.latencies().clone(), self.turns.clone());
        let log_state = self.shard.rooms().journal().map(Journal::worst_state);
        let log_read_bytes = self.disk.as_ref().map_or(0, Disk::read_bytes);
        let programs =
            self.shard.rooms().programming().counts().map(|(rule, counts)| (rule.clone(), *counts)).collect();
        let suspended = self.shard.rooms().suspended_rooms();
        let report = CoreReport {
            counters,
            latencies,
            shell,
            turns,
            lane_parcels,
            log_state,
            log_read_bytes,
            programs,
            suspended,
        };
        // The control thread lives longer than the cores.
        let _ = self.control.send(ToControl::Report(self.core, Box::new(report)));
    }
}
