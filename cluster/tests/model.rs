//! Every order of what can happen to three nodes, one partition and its stream, up to small bounds: claims, posts, two appends in flight,
//! answers that are lost, appends that land late, crashes. The machine is the real one.
//!
//! It holds that what was told to be done counts for every reader for good, and that what counts is one chain: every block was written
//! by who knew all that counts before it. Without the void rule, or where an append is told to be done before those ahead of it,
//! the same search finds how a message is lost.

use banter_cluster::appends::{Appends, Input, Out, Token};
use banter_cluster::engine::{Answer, Ask, Partition, Tail, Ticket};
use banter_cluster::entry::{Entry, NodeId, Said, StreamId};
use banter_cluster::terms::{Read, Terms};
use bytes::Bytes;
use stateright::{Checker, Model, Property};

const STREAM: StreamId = StreamId { cluster: 1, partition: Partition(0) };
/// Bytes of the smallest block.
const BLOCK: [u8; 64] = [0; 64];

/// What is taken out of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// Readers take every block.
    NoVoidRule,
    /// An append is told to be done as soon as it is stored.
    NoOrderOfDone,
}

/// How much may happen.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    nodes: u64,
    claims: u8,
    posts: u8,
    silences: u8,
    crashes: u8,
    stale_tails: u8,
    mutant: Mutant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    appends: Appends,
    /// What it was asked and has not answered, by the engine.
    asked: Vec<Ask>,
    /// Blocks that count as far as it knows, with its own that it pushed.
    blocks: u64,
    is_pausing: bool,
    /// It has not read what lies before its first claim.
    is_new: bool,
    run: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    nodes: Vec<Node>,
    log: Vec<Bytes>,
    /// Appends that nobody waits for any more, and that may land yet.
    orphans: Vec<(u64, Bytes)>,
    /// What was told to be done: the block, and where it lies.
    done: Vec<(u64, u64)>,
    claims: u8,
    posts: u8,
    silences: u8,
    crashes: u8,
    stale_tails: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Claim(usize),
    Post(usize),
    /// The engine does what a node asked.
    Do(usize, usize),
    /// It does it, and its answer is lost.
    DoSilently(usize, usize),
    /// It does not, yet: the node hears nothing.
    Silence(usize, usize),
    /// A tail of a while ago.
    StaleTail(usize, usize),
    Land(usize),
    Wake(usize),
    Crash(usize),
}

fn node_id(node: u64, run: u64) -> NodeId {
    NodeId { name: node, run }
}

fn fresh(node: u64, run: u64) -> Node {
    let appends = Appends::new(STREAM, node_id(node, run), 2);
    Node { appends, asked: Vec::new(), blocks: 0, is_pausing: false, is_new: true, run }
}

/// The blocks that count, each with its sequence.
fn counting(log: &[Bytes], mutant: Mutant) -> Vec<(u64, u64)> {
    let mut terms = Terms::behind(0);
    let mut counting = Vec::new();
    for (at, message) in log.iter().enumerate() {
        let sequence = at as u64 + 1;
        let read = terms.take(sequence, message, STREAM).expect("an entry");
        let said = match read {
            Read::Counts { said, .. } => Some(said),
            Read::Void if mutant == Mutant::NoVoidRule => Entry::read(message, STREAM).ok().map(|entry| entry.said),
            _ => None,
        };
        if let Some(Said::Block { offset, .. }) = said {
            counting.push((offset, sequence));
        }
    }
    counting
}

impl World {
    fn tell(&mut self, node: usize, input: Input, mutant: Mutant) {
        let mut out = Vec::new();
        self.nodes[node].appends.handle(input, &mut out);
        for out in out {
            match out {
                Out::Ask(ask) => self.nodes[node].asked.push(ask),
                Out::Done { token, sequence } => self.is_done(token.0, sequence),
                Out::WakeIn(_) => self.nodes[node].is_pausing = true,
                // A new owner reads all before its claim. One that claims anew knows it.
                Out::Claimed { term } if std::mem::take(&mut self.nodes[node].is_new) => {
                    self.nodes[node].blocks = counting(&self.log[..term as usize], mutant).len() as u64;
                }
                _ => {}
            }
        }
    }

    fn is_done(&mut self, block: u64, sequence: u64) {
        if !self.done.contains(&(block, sequence)) {
            self.done.push((block, sequence));
            self.done.sort_unstable();
        }
    }

    fn append(&mut self, expected: u64, bytes: &Bytes) -> bool {
        let fits = self.log.len() as u64 == expected;
        if fits {
            self.log.push(bytes.clone());
        }
        fits
    }

    /// The engine does it; what it answers.
    fn perform(&mut self, ask: &Ask) -> Answer {
        let last = self.log.len() as u64;
        match ask {
            Ask::Append { ticket, expected, bytes, .. } => match self.append(*expected, bytes) {
                true => Answer::Appended { ticket: *ticket, sequence: last + 1 },
                false => Answer::Refused { ticket: *ticket, last },
            },
            Ask::Tail { ticket, .. } => Answer::Tail { ticket: *ticket, tail: Some(Tail { first: 1, last, bytes: 0 }) },
            Ask::Read { ticket, from, .. } => {
                let messages = (*from..=last).map(|at| (at, self.log[at as usize - 1].clone())).collect();
                Answer::Read { ticket: *ticket, messages: Some(messages) }
            }
            ask => panic!("it does not ask that: {ask:?}"),
        }
    }
}

fn ticket_of(ask: &Ask) -> Ticket {
    match ask {
        Ask::Append { ticket, .. } | Ask::Tail { ticket, .. } | Ask::Read { ticket, .. } => *ticket,
        ask => panic!("it does not ask that: {ask:?}"),
    }
}

/// What a node hears when no answer comes.
fn silence(ask: &Ask) -> Answer {
    let ticket = ticket_of(ask);
    match ask {
        Ask::Append { .. } => Answer::Silent { ticket },
        Ask::Tail { .. } => Answer::Tail { ticket, tail: None },
        _ => Answer::Read { ticket, messages: None },
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let nodes = (0..self.nodes).map(|node| fresh(node, 0)).collect();
        let (log, orphans, done) = (Vec::new(), Vec::new(), Vec::new());
        vec![World { nodes, log, orphans, done, claims: 0, posts: 0, silences: 0, crashes: 0, stale_tails: 0 }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (at, node) in world.nodes.iter().enumerate() {
            if !node.appends.is_ours() && world.claims < self.claims {
                actions.push(Action::Claim(at));
            }
            if node.appends.is_serving() && world.posts < self.posts {
                actions.push(Action::Post(at));
            }
            for ask in 0..node.asked.len() {
                // A connection keeps the order of what is sent on it, until it is lost.
                let is_append = |ask: &Ask| matches!(ask, Ask::Append { .. });
                if is_append(&node.asked[ask]) && node.asked[..ask].iter().any(is_append) {
                    continue;
                }
                actions.push(Action::Do(at, ask));
                if world.silences < self.silences {
                    actions.push(Action::Silence(at, ask));
                    actions.push(Action::DoSilently(at, ask));
                }
                if world.stale_tails < self.stale_tails
                    && !world.log.is_empty()
                    && matches!(node.asked[ask], Ask::Tail { .. })
                {
                    actions.push(Action::StaleTail(at, ask));
                }
            }
            if node.is_pausing {
                actions.push(Action::Wake(at));
            }
            if world.crashes < self.crashes && node.appends.is_ours() {
                actions.push(Action::Crash(at));
            }
        }
        actions.extend((0..world.orphans.len()).map(Action::Land));
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Claim(node) => {
                world.claims += 1;
                world.nodes[node].is_new = true;
                world.tell(node, Input::Claim { nonce: 0 }, self.mutant);
            }
            Action::Post(node) => {
                world.posts += 1;
                let block = world.nodes[node].blocks;
                world.nodes[node].blocks += 1;
                let said = Said::Block { segment: node as u64, offset: block, bytes: Bytes::from_static(&BLOCK) };
                world.tell(node, Input::Push(Token(block), said), self.mutant);
            }
            Action::Do(node, ask) => {
                let ask = world.nodes[node].asked.remove(ask);
                let answer = world.perform(&ask);
                if let (Mutant::NoOrderOfDone, Ask::Append { bytes, .. }, Answer::Appended { sequence, .. }) =
                    (self.mutant, &ask, &answer)
                    && let Ok(Entry { said: Said::Block { offset, .. }, .. }) = Entry::read(bytes, STREAM)
                {
                    world.is_done(offset, *sequence);
                }
                world.tell(node, Input::Engine(answer), self.mutant);
            }
            Action::DoSilently(node, ask) => {
                world.silences += 1;
                let ask = world.nodes[node].asked.remove(ask);
                world.perform(&ask);
                world.tell(node, Input::Engine(silence(&ask)), self.mutant);
            }
            Action::Silence(node, ask) => {
                world.silences += 1;
                let ask = world.nodes[node].asked.remove(ask);
                if let Ask::Append { expected, bytes, .. } = &ask {
                    world.orphans.push((*expected, bytes.clone()));
                    world.orphans.sort();
                }
                world.tell(node, Input::Engine(silence(&ask)), self.mutant);
            }
            Action::StaleTail(node, ask) => {
                world.stale_tails += 1;
                let ask = world.nodes[node].asked.remove(ask);
                let tail = Some(Tail { first: 1, last: world.log.len() as u64 - 1, bytes: 0 });
                world.tell(node, Input::Engine(Answer::Tail { ticket: ticket_of(&ask), tail }), self.mutant);
            }
            Action::Land(orphan) => {
                let (expected, bytes) = world.orphans.remove(orphan);
                world.append(expected, &bytes);
            }
            Action::Wake(node) => {
                world.nodes[node].is_pausing = false;
                world.tell(node, Input::Wake, self.mutant);
            }
            Action::Crash(node) => {
                world.crashes += 1;
                let asked = std::mem::take(&mut world.nodes[node].asked);
                let sent = asked.into_iter().filter_map(|ask| match ask {
                    Ask::Append { expected, bytes, .. } => Some((expected, bytes)),
                    _ => None,
                });
                world.orphans.extend(sent);
                world.orphans.sort();
                world.nodes[node] = fresh(node as u64, world.nodes[node].run + 1);
            }
        }
        // What expects a place that was given away lands nowhere any more.
        let last = world.log.len() as u64;
        world.orphans.retain(|(expected, _)| *expected >= last);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is done counts for good", |bounds: &Bounds, world: &World| {
                let counting = counting(&world.log, bounds.mutant);
                world.done.iter().all(|done| counting.contains(done))
            }),
            Property::always("what counts is one chain", |bounds: &Bounds, world: &World| {
                let counting = counting(&world.log, bounds.mutant);
                counting.iter().enumerate().all(|(at, &(block, _))| block == at as u64)
            }),
            Property::sometimes("a second owner has something done", |_, world: &World| {
                world.done.len() >= 2 && world.log.iter().filter(|message| is_claim(message)).count() >= 2
            }),
        ]
    }
}

fn is_claim(message: &Bytes) -> bool {
    matches!(Entry::read(message, STREAM), Ok(Entry { said: Said::Claim { .. }, .. }))
}

/// Small enough for every order to be tried in some seconds.
const BOUNDS: Bounds =
    Bounds { nodes: 3, claims: 3, posts: 2, silences: 1, crashes: 0, stale_tails: 0, mutant: Mutant::None };

fn every_order_of(bounds: Bounds) {
    let checker = bounds.checker().threads(2).spawn_bfs().join();
    println!("{bounds:?}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn no_two_terms_interleave_and_nothing_that_was_done_is_lost() {
    // Some seconds; with MODEL=large a minute.
    let posts = if std::env::var("MODEL").is_ok_and(|model| model == "large") { 3 } else { BOUNDS.posts };
    every_order_of(Bounds { posts, ..BOUNDS });
}

#[test]
fn nor_where_answers_are_lost_twice() {
    every_order_of(Bounds { nodes: 2, claims: 2, posts: 3, silences: 2, ..BOUNDS });
}

#[test]
fn nor_behind_a_crash_and_a_tail_of_a_while_ago() {
    every_order_of(Bounds { nodes: 2, posts: 2, crashes: 1, stale_tails: 1, ..BOUNDS });
}

#[test]
fn without_the_void_rule_a_message_is_lost() {
    let checker = Bounds { mutant: Mutant::NoVoidRule, ..BOUNDS }.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery("what counts is one chain").is_some());
}

#[test]
fn without_the_order_of_done_a_message_is_lost() {
    let checker = Bounds { mutant: Mutant::NoOrderOfDone, ..BOUNDS }.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery("what is done counts for good").is_some());
}
