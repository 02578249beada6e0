use super::*;
use crate::engine::Partition;

const STREAM: StreamId = StreamId { cluster: 1, partition: Partition(3) };
const ANN: NodeId = NodeId { name: 1, run: 1 };
const BOB: NodeId = NodeId { name: 2, run: 1 };
const NONCE: u64 = 77;

/// A node and what it did since it was last looked at.
struct Rig {
    appends: Appends,
    out: Vec<Out>,
}

impl Rig {
    fn new() -> Self {
        Rig { appends: Appends::new(STREAM, ANN, 2), out: Vec::new() }
    }

    /// One that serves, by a claim at sequence 11.
    fn serving() -> Self {
        let mut rig = Rig::new();
        rig.tell(Input::Claim { nonce: NONCE });
        let ticket = rig.asked();
        rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(10) }));
        let (ticket, expected, entry) = rig.append();
        assert_eq!((expected, entry.said), (10, Said::Claim { by: ANN, nonce: NONCE }));
        rig.tell(Input::Engine(Answer::Appended { ticket, sequence: 11 }));
        assert_eq!(rig.take(), [Out::Claimed { term: 11 }]);
        rig
    }

    fn tell(&mut self, input: Input) {
        self.appends.handle(input, &mut self.out);
    }

    fn push(&mut self, token: u64) {
        self.tell(Input::Push(Token(token), Said::Nothing));
    }

    fn take(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    /// The ticket of the only thing that it asked.
    fn asked(&mut self) -> Ticket {
        match self.take().as_slice() {
            [.., Out::Ask(Ask::Tail { ticket, .. } | Ask::Read { ticket, .. })] => *ticket,
            other => panic!("{other:?}"),
        }
    }

    /// The append that it asked for last.
    fn append(&mut self) -> (Ticket, u64, Entry) {
        self.appended().pop().expect("an append")
    }

    fn appended(&mut self) -> Vec<(Ticket, u64, Entry)> {
        let appends = self.take().into_iter().filter_map(|out| match out {
            Out::Ask(Ask::Append { ticket, expected, bytes, .. }) => {
                Some((ticket, expected, Entry::read(&bytes, STREAM).expect("an entry")))
            }
            _ => None,
        });
        appends.collect()
    }

    fn read(&mut self, ticket: Ticket, messages: &[(u64, Entry)]) {
        let messages = messages.iter().map(|(at, entry)| (*at, entry.write(STREAM))).collect();
        self.tell(Input::Engine(Answer::Read { ticket, messages: Some(messages) }));
    }
}

fn tail(last: u64) -> Option<Tail> {
    Some(Tail { first: 1, last, bytes: 0 })
}

fn claim_of(by: NodeId, nonce: u64) -> Entry {
    Entry { term: 0, number: 0, said: Said::Claim { by, nonce } }
}

fn nothing(term: u64, number: u64) -> Entry {
    Entry { term, number, said: Said::Nothing }
}

#[test]
fn what_is_pushed_is_sent_in_order_as_far_as_it_may_be_in_flight_and_done_in_order() {
    let mut rig = Rig::serving();
    (1..=3).for_each(|token| rig.push(token));
    let sent = rig.appended();
    assert_eq!(
        sent.iter().map(|(_, expected, entry)| (*expected, entry.number)).collect::<Vec<_>>(),
        [(11, 0), (12, 1)]
    );
    rig.tell(Input::Engine(Answer::Appended { ticket: sent[1].0, sequence: 13 }));
    assert_eq!(rig.take(), [], "the one before it is not done");
    rig.tell(Input::Engine(Answer::Appended { ticket: sent[0].0, sequence: 12 }));
    let out = rig.take();
    assert_eq!(out[..2], [Out::Done { token: Token(1), sequence: 12 }, Out::Done { token: Token(2), sequence: 13 }]);
    assert!(matches!(&out[2..], [Out::Ask(Ask::Append { expected: 13, .. })]), "the third goes");
}

#[test]
fn behind_a_refusal_nothing_is_sent_before_it_is_known_what_lies_there() {
    let mut rig = Rig::serving();
    (1..=2).for_each(|token| rig.push(token));
    let sent = rig.appended();
    rig.tell(Input::Engine(Answer::Refused { ticket: sent[0].0, last: 13 }));
    let out = rig.take();
    assert!(matches!(&out[..], [Out::Doubtful, Out::Ask(Ask::Read { from: 12, .. })]), "{out:?}");
    rig.push(3);
    rig.tell(Input::Engine(Answer::Appended { ticket: sent[1].0, sequence: 13 }));
    assert_eq!(rig.take(), [], "nor is an answer of the term that is over believed");
}

#[test]
fn what_of_its_own_counts_there_is_done_and_the_rest_is_said_again_in_a_new_term() {
    let mut rig = Rig::serving();
    (1..=2).for_each(|token| rig.push(token));
    let sent = rig.appended();
    rig.tell(Input::Engine(Answer::Silent { ticket: sent[0].0 }));
    let ticket = rig.asked();
    rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(12) }));
    let ticket = rig.asked();
    rig.read(ticket, &[(12, nothing(11, 0))]);
    let out = rig.take();
    assert_eq!(out[0], Out::Done { token: Token(1), sequence: 12 });
    let Out::Ask(Ask::Append { ticket, expected: 12, .. }) = out[1] else { panic!("{out:?}") };
    rig.tell(Input::Engine(Answer::Appended { ticket, sequence: 13 }));
    let out = rig.take();
    assert_eq!(out[0], Out::Claimed { term: 13 });
    let Out::Ask(Ask::Append { bytes, expected: 13, .. }) = &out[1] else { panic!("{out:?}") };
    assert_eq!(Entry::read(bytes, STREAM), Ok(nothing(13, 0)));
}

#[test]
fn where_all_that_was_sent_counts_the_term_goes_on() {
    let mut rig = Rig::serving();
    rig.push(1);
    let (ticket, ..) = rig.append();
    rig.tell(Input::Engine(Answer::Silent { ticket }));
    let ticket = rig.asked();
    rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(12) }));
    let ticket = rig.asked();
    rig.read(ticket, &[(12, nothing(11, 0))]);
    assert_eq!(rig.take(), [Out::Done { token: Token(1), sequence: 12 }, Out::Claimed { term: 11 }]);
}

#[test]
fn behind_a_foreign_claim_it_has_lost_and_takes_nothing_more() {
    let mut rig = Rig::serving();
    rig.push(1);
    let (ticket, ..) = rig.append();
    rig.tell(Input::Engine(Answer::Refused { ticket, last: 12 }));
    let ticket = rig.asked();
    rig.read(ticket, &[(12, claim_of(BOB, 5))]);
    assert_eq!(rig.take(), [Out::Lost { by: BOB }]);
    rig.push(2);
    assert!(rig.take().is_empty() && !rig.appends.is_ours());
}

#[test]
fn a_claim_whose_answer_was_lost_is_found_and_an_earlier_one_of_the_same_node_is_not_taken_for_it() {
    for (nonce, is_own) in [(NONCE, true), (NONCE - 1, false)] {
        let mut rig = Rig::new();
        rig.tell(Input::Claim { nonce: NONCE });
        let ticket = rig.asked();
        rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(10) }));
        let (ticket, ..) = rig.append();
        rig.tell(Input::Engine(Answer::Refused { ticket, last: 11 }));
        let ticket = rig.asked();
        rig.read(ticket, &[(11, claim_of(ANN, nonce))]);
        let out = rig.take();
        match is_own {
            true => assert_eq!(out, [Out::Claimed { term: 11 }]),
            false => assert!(matches!(out[..], [Out::Ask(Ask::Append { expected: 11, .. })]), "{out:?}"),
        }
    }
}

#[test]
fn what_a_leader_said_that_is_gone_is_not_waited_for() {
    let mut rig = Rig::serving();
    rig.push(1);
    let (ticket, ..) = rig.append();
    // What lies at 13 was only proposed, and never comes.
    rig.tell(Input::Engine(Answer::Refused { ticket, last: 13 }));
    let ticket = rig.asked();
    rig.read(ticket, &[]);
    assert_eq!(rig.take(), [Out::WakeIn(PAUSE_MS)]);
    rig.tell(Input::Wake);
    let ticket = rig.asked();
    rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(11) }));
    let (_, expected, entry) = rig.append();
    assert_eq!((expected, entry), (11, claim_of(ANN, NONCE)));
}

#[test]
fn pauses_grow_and_are_short_again_once_it_serves() {
    let mut rig = Rig::new();
    rig.tell(Input::Claim { nonce: NONCE });
    for wanted in [50, 100, 200, 400, 800, 1_000, 1_000] {
        let ticket = rig.asked();
        rig.tell(Input::Engine(Answer::Tail { ticket, tail: None }));
        assert_eq!(rig.take(), [Out::WakeIn(wanted)]);
        rig.tell(Input::Wake);
    }
    let ticket = rig.asked();
    rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(0) }));
    let (ticket, ..) = rig.append();
    rig.tell(Input::Engine(Answer::Appended { ticket, sequence: 1 }));
    rig.take();
    rig.tell(Input::Doubt);
    let ticket = rig.take().into_iter().find_map(|out| match out {
        Out::Ask(Ask::Tail { ticket, .. }) => Some(ticket),
        _ => None,
    });
    rig.tell(Input::Engine(Answer::Tail { ticket: ticket.unwrap(), tail: None }));
    assert_eq!(rig.take(), [Out::WakeIn(50)]);
}

#[test]
fn what_finds_no_space_is_given_back_and_what_was_sent_behind_it_is_said_again() {
    let mut rig = Rig::serving();
    (1..=2).for_each(|token| rig.push(token));
    let sent = rig.appended();
    rig.tell(Input::Engine(Answer::Full { ticket: sent[0].0 }));
    let out = rig.take();
    assert_eq!(out[..2], [Out::Full(Token(1), Said::Nothing), Out::Doubtful]);
    assert_eq!(rig.appends.open_count(), 1);
    let mut alone = Rig::serving();
    alone.push(1);
    let (ticket, ..) = alone.append();
    alone.tell(Input::Engine(Answer::Full { ticket }));
    assert_eq!(alone.take(), [Out::Full(Token(1), Said::Nothing)], "nothing else is in doubt");
    alone.push(2);
    assert_eq!(alone.append().1, 11);
}

#[test]
fn a_partition_that_is_given_up_is_so_behind_all_that_was_pushed_before() {
    let mut rig = Rig::serving();
    rig.push(1);
    rig.tell(Input::Push(Token(2), Said::Release { to: 0 }));
    let sent = rig.appended();
    rig.tell(Input::Engine(Answer::Appended { ticket: sent[0].0, sequence: 12 }));
    rig.tell(Input::Engine(Answer::Appended { ticket: sent[1].0, sequence: 13 }));
    let done = |token, sequence| Out::Done { token: Token(token), sequence };
    assert_eq!((rig.take(), rig.appends.is_ours()), (vec![done(1, 12), done(2, 13)], false));
}

#[test]
fn a_look_in_quiet_finds_a_foreign_claim_and_troubles_nothing_otherwise() {
    let mut rig = Rig::serving();
    rig.tell(Input::Look);
    rig.tell(Input::Look);
    let out = rig.take();
    let [Out::Ask(Ask::Tail { ticket, .. })] = out[..] else { panic!("{out:?}") };
    rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(11) }));
    assert!(rig.take().is_empty() && rig.appends.is_serving());
    rig.tell(Input::Look);
    let ticket = rig.asked();
    rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(12) }));
    assert_eq!(rig.take()[0], Out::Doubtful);
}

#[test]
fn a_stream_that_holds_something_else_is_written_to_no_more() {
    let mut rig = Rig::serving();
    rig.push(1);
    let (ticket, ..) = rig.append();
    rig.tell(Input::Engine(Answer::Refused { ticket, last: 12 }));
    let ticket = rig.asked();
    rig.tell(Input::Engine(Answer::Read { ticket, messages: Some(vec![(12, Bytes::from_static(b"hello"))]) }));
    assert!(matches!(rig.take()[..], [Out::Broken(StreamFault::Entry { sequence: 12, .. })]));
    rig.push(2);
    assert!(rig.take().is_empty());
}

#[test]
fn where_a_later_owner_has_purged_what_it_does_not_know_it_has_lost() {
    let mut rig = Rig::serving();
    rig.tell(Input::Doubt);
    let ticket = rig.asked();
    rig.tell(Input::Engine(Answer::Tail { ticket, tail: Some(Tail { first: 40, last: 50, bytes: 0 }) }));
    assert_eq!(rig.take(), [Out::Lost { by: NodeId::default() }]);
}

/// A leader says so many times that the stream ends before what is known: what follows then.
fn is_told_a_short_end(rig: &mut Rig, times: u32) -> Vec<Out> {
    let known = rig.appends.through();
    for _ in 0..times {
        let out = rig.take();
        assert!(matches!(out[..], [Out::WakeIn(_)] | [Out::Doubtful, Out::WakeIn(_)]), "{out:?}");
        rig.tell(Input::Wake);
        let ticket = rig.asked();
        rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(known - 3) }));
        let (ticket, expected, entry) = rig.append();
        assert!(
            expected == known && matches!(entry.said, Said::Claim { .. }),
            "nothing is claimed before what is known"
        );
        rig.tell(Input::Engine(Answer::Refused { ticket, last: known - 3 }));
    }
    rig.take()
}

#[test]
fn a_stream_whose_end_stays_before_what_was_acknowledged_is_not_claimed_but_told() {
    let mut rig = Rig::serving();
    rig.push(1);
    let (ticket, ..) = rig.append();
    rig.tell(Input::Engine(Answer::Refused { ticket, last: 8 }));
    assert_eq!(is_told_a_short_end(&mut rig, SHORT_MAX), [Out::Broken(StreamFault::Vanished { known: 11 })]);
    rig.tell(Input::Wake);
    rig.push(2);
    assert_eq!(rig.take(), [], "nothing more is written to it");
}

#[test]
fn a_leader_that_has_read_all_of_its_log_in_the_end_is_claimed_from_and_the_next_one_has_as_long() {
    let mut rig = Rig::serving();
    rig.push(1);
    for _ in 0..2 {
        let (ticket, expected, _) = rig.append();
        rig.tell(Input::Engine(Answer::Refused { ticket, last: expected - 3 }));
        let out = is_told_a_short_end(&mut rig, SHORT_MAX - 1);
        assert!(matches!(out[..], [Out::WakeIn(_)]), "{out:?}");
        rig.tell(Input::Wake);
        let ticket = rig.asked();
        rig.tell(Input::Engine(Answer::Tail { ticket, tail: tail(expected) }));
        let (ticket, ..) = rig.append();
        rig.tell(Input::Engine(Answer::Appended { ticket, sequence: expected + 1 }));
        assert_eq!(rig.out[0], Out::Claimed { term: expected + 1 });
    }
}
