//! The control thread's state with cores that are channels, in orders that a real start and stop seldom take.

use banter_log::journal::State;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_appender::non_blocking::NonBlockingBuilder;

use super::*;

const DRAIN_TIMEOUT_MS: u64 = 10_000;

/// A control thread's state, and the other ends of its cores.
struct Rig {
    control: Control,
    cores: Vec<Receiver<ToCore>>,
    now_ms: u64,
}

/// What a core was told, and what a connection was answered.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Report,
    Drain,
    Stop,
    EpochsEnd(u64),
    Answer(u32, String),
}

impl Rig {
    fn new(cores: usize) -> Self {
        let (links, cores) = (0..cores)
            .map(|_| {
                let (messages, core) = flume::unbounded();
                (CoreLink { messages, bell: Bell::new().expect("a descriptor") }, core)
            })
            .unzip();
        let log_lines = NonBlockingBuilder::default().finish(std::io::sink()).0.error_counter();
        let server = ServerState {
            keeper: Arc::default(),
            feeds: Arc::default(),
            log_lines,
            started_unix_s: 0,
            jwks_awaited: None,
            cluster: None,
        };
        Rig { control: Control::new(links, server, DRAIN_TIMEOUT_MS), cores, now_ms: 5 }
    }

    /// One whose cores are ready.
    fn serving(cores: usize) -> Self {
        let mut rig = Rig::new(cores);
        (0..cores).for_each(|core| rig.say(ToControl::Ready(Core(core as u16))));
        assert_eq!(rig.control.stage, Stage::Serving);
        rig
    }

    fn say(&mut self, message: ToControl) {
        self.try_say(message).expect("no fault");
    }

    fn try_say(&mut self, message: ToControl) -> Result<(), ControlFault> {
        self.control.handle(message, self.now_ms)
    }

    fn ask(&mut self, connection: u32, question: Question) {
        let connection = ConnectionId { slot: connection, generation: 1 };
        self.say(ToControl::Asked(Asker {
            question,
            to: AnswerTo::Connection { core: Core(0), connection, head_only: false },
        }));
    }

    fn report(&mut self, core: u16) {
        self.say(ToControl::Report(Core(core), Box::default()));
    }

    fn each(&mut self, message: impl Fn(Core) -> ToControl) {
        (0..self.cores.len()).for_each(|core| self.say(message(Core(core as u16))));
    }

    /// Time passes; whether something was due then and not before.
    fn pass(&mut self, passed_ms: u64) -> Result<(), ControlFault> {
        self.now_ms += passed_ms - 1;
        self.control.tick(self.now_ms).expect("nothing is due");
        assert_eq!(self.control.next_due(), Some(self.now_ms + 1));
        self.now_ms += 1;
        self.control.tick(self.now_ms)
    }

    fn told(&self, core: usize) -> Vec<Told> {
        let told = self.cores[core].try_iter().map(|message| match message {
            ToCore::Report => Told::Report,
            ToCore::Drain => Told::Drain,
            ToCore::Stop => Told::Stop,
            ToCore::EpochsEnd(end) => Told::EpochsEnd(end.0),
            ToCore::HttpAnswer(connection, bytes) => {
                let text = String::from_utf8(bytes).expect("text");
                let (head, body) = text.split_once("\r\n\r\n").expect("a head");
                Told::Answer(connection.slot, format!("{} {body}", &head["HTTP/1.1 ".len()..][..3]))
            }
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    /// What the only connection that asked was answered.
    fn answer(&self) -> String {
        let answers = self.told(0).into_iter().filter_map(|told| match told {
            Told::Answer(_, text) => Some(text),
            _ => None,
        });
        let answers: Vec<String> = answers.collect();
        let [answer] = &answers[..] else { panic!("one answer: {answers:?}") };
        answer.clone()
    }
}

fn ended(core: Core) -> ToControl {
    ToControl::Ended { core, is_log_sealed: true }
}

#[test]
fn a_question_that_comes_before_a_core_is_ready_is_answered() {
    let mut rig = Rig::new(2);
    rig.say(ToControl::Ready(Core(0)));
    rig.ask(1, Question::Metrics);
    rig.report(0);
    assert_eq!((rig.told(0), rig.told(1)), (vec![Told::Report], vec![Told::Report]));
    rig.say(ToControl::Ready(Core(1)));
    rig.report(1);
    assert!(rig.answer().starts_with("200 # HELP"));
    assert_eq!(rig.control.stage, Stage::Serving);
}

#[test]
fn a_signal_that_comes_before_the_cores_are_ready_stops_in_order() {
    for ready_before in 0..3 {
        let mut rig = Rig::new(2);
        (0..ready_before).for_each(|core| rig.say(ToControl::Ready(Core(core))));
        rig.say(ToControl::Signal(SIGTERM));
        (ready_before..2).for_each(|core| rig.say(ToControl::Ready(Core(core))));
        rig.each(ToControl::Drained);
        rig.each(ended);
        assert_eq!((rig.control.stage, rig.control.is_log_whole()), (Stage::Over, true));
        assert_eq!((rig.told(0), rig.told(1)), (vec![Told::Drain, Told::Stop], vec![Told::Drain, Told::Stop]));
    }
}

#[test]
fn a_core_that_is_drained_before_another_is_ready_is_waited_with() {
    let mut rig = Rig::new(2);
    rig.say(ToControl::Signal(SIGINT));
    rig.say(ToControl::Ready(Core(1)));
    rig.say(ToControl::Drained(Core(1)));
    assert!(matches!(rig.control.stage, Stage::Draining { .. }));
    rig.say(ToControl::Ready(Core(0)));
    rig.say(ToControl::Drained(Core(0)));
    assert!(matches!(rig.control.stage, Stage::Stopping { .. }));
}

#[test]
fn a_core_that_cannot_start_is_told_apart_from_one_that_cannot_go_on() {
    let fail = |core| ToControl::Failed(Core(core), "why".into());
    for signal in [None, Some(SIGTERM)] {
        let mut rig = Rig::new(2);
        rig.say(ToControl::Ready(Core(0)));
        signal.into_iter().for_each(|signal| rig.say(ToControl::Signal(signal)));
        assert_eq!(rig.try_say(fail(1)), Err(ControlFault::Start("why".into())));
        assert_eq!(rig.try_say(fail(0)), Err(ControlFault::Core("why".into())));
    }
}

#[test]
fn a_core_that_fails_while_it_stops_leaves_its_log_unsealed_and_keeps_nobody_waiting() {
    let mut rig = Rig::serving(2);
    rig.say(ToControl::Signal(SIGTERM));
    rig.each(ToControl::Drained);
    rig.say(ToControl::Failed(Core(0), "why".into()));
    rig.say(ended(Core(1)));
    assert_eq!((rig.control.stage, rig.control.is_log_whole()), (Stage::Over, false));
}

#[test]
fn sighup_stops_nothing() {
    let mut rig = Rig::new(1);
    rig.say(ToControl::Signal(SIGHUP));
    rig.say(ToControl::Ready(Core(0)));
    rig.say(ToControl::Signal(SIGHUP));
    assert_eq!((rig.control.stage, rig.told(0)), (Stage::Serving, vec![]));
}

#[test]
fn a_second_signal_stops_at_once_and_a_third_changes_nothing() {
    let mut rig = Rig::serving(1);
    (0..3).for_each(|_| rig.say(ToControl::Signal(SIGTERM)));
    assert_eq!(rig.told(0), [Told::Drain, Told::Stop]);
}

#[test]
fn a_drain_ends_at_its_time_and_a_core_that_does_not_stop_is_named() {
    let mut rig = Rig::serving(3);
    rig.say(ToControl::Signal(SIGTERM));
    rig.say(ToControl::Drained(Core(1)));
    assert_eq!(rig.pass(DRAIN_TIMEOUT_MS + DRAIN_SLACK_MS), Ok(()));
    assert_eq!(rig.told(2), [Told::Drain, Told::Stop]);
    rig.say(ended(Core(1)));
    assert_eq!(rig.pass(STOP_MAX_MS), Err(ControlFault::Hung("core 0, core 2".into())));
}

#[test]
fn a_core_that_hangs_keeps_no_question_longer_than_its_time_and_is_named() {
    for (question, says) in [
        (Question::Health, "503 core 1, core 2 does not answer\n"),
        (Question::Readiness, "503 core 1, core 2 does not answer\n"),
        (
            Question::Metrics,
            "banter_core_up{core=\"0\"} 1\nbanter_core_up{core=\"1\"} 0\nbanter_core_up{core=\"2\"} 0\n",
        ),
    ] {
        let mut rig = Rig::serving(3);
        rig.ask(1, question);
        rig.report(0);
        assert_eq!(rig.pass(ANSWER_MAX_MS), Ok(()));
        let answer = rig.answer();
        assert!(answer.contains(says), "{answer}");
    }
}

#[test]
fn a_core_that_hangs_is_asked_once_and_its_late_answer_counts() {
    let mut rig = Rig::serving(2);
    for asker in 0..3 {
        rig.ask(asker, Question::Health);
        rig.report(0);
        rig.pass(ANSWER_MAX_MS).expect("no fault");
    }
    assert_eq!(rig.told(1), [Told::Report]);
    rig.ask(3, Question::Health);
    rig.report(1);
    rig.report(0);
    assert!(rig.told(0).contains(&Told::Answer(3, "200 ok\n".into())));
    // One that comes when nobody asks is no answer to the next.
    rig.report(1);
    rig.ask(4, Question::Health);
    rig.report(0);
    assert_eq!(rig.told(0), [Told::Report]);
}

#[test]
fn all_who_ask_meanwhile_are_answered_with_the_same_reports() {
    let mut rig = Rig::serving(2);
    rig.ask(1, Question::Metrics);
    rig.report(0);
    rig.ask(2, Question::Health);
    rig.ask(3, Question::Readiness);
    rig.report(1);
    let told = rig.told(0);
    assert!(matches!(&told[..], [Told::Report, Told::Answer(1, text), ..] if text.starts_with("200 ")), "{told:?}");
    assert_eq!(told[2..], [Told::Answer(2, "200 ok\n".into()), Told::Answer(3, "200 ready\n".into())]);
    assert_eq!(rig.control.next_due(), None);
}

#[test]
fn clients_are_sent_elsewhere_while_the_server_starts_or_drains() {
    let mut rig = Rig::new(1);
    rig.ask(1, Question::Readiness);
    assert_eq!(rig.told(0), [Told::Answer(1, "503 starting\n".into())]);
    rig.say(ToControl::Ready(Core(0)));
    rig.say(ToControl::Signal(SIGTERM));
    rig.ask(2, Question::Readiness);
    assert_eq!(rig.told(0), [Told::Drain, Told::Answer(2, "503 draining\n".into())]);
    // It is healthy all the same.
    rig.ask(3, Question::Health);
    rig.report(0);
    assert_eq!(rig.told(0), [Told::Report, Told::Answer(3, "200 ok\n".into())]);
}

#[test]
fn clients_are_sent_elsewhere_while_a_log_has_failed_and_not_while_it_is_full() {
    for (log_state, says) in [
        (None, "200 ready\n"),
        (Some(State::Open), "200 ready\n"),
        (Some(State::Full), "200 ready\n"),
        (Some(State::Failed), "503 the log of core 1 failed\n"),
    ] {
        let mut rig = Rig::serving(2);
        rig.ask(1, Question::Readiness);
        rig.report(0);
        rig.say(ToControl::Report(Core(1), Box::new(CoreReport { log_state, ..CoreReport::default() })));
        assert_eq!(rig.answer(), says);
    }
}

#[test]
fn more_epochs_are_kept_first_and_then_told_to_every_core_and_a_disk_that_fails_is_tried_again() {
    let mut rig = Rig::serving(2);
    let mut tries = 0;
    rig.control.extend_epochs_by(Box::new(move || {
        tries += 1;
        if (2..4).contains(&tries) { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(100 * tries) }
    }));
    rig.say(ToControl::WantsEpochs(Core(1)));
    assert_eq!((rig.told(0), rig.told(1)), (vec![Told::EpochsEnd(100)], vec![Told::EpochsEnd(100)]));
    rig.say(ToControl::WantsEpochs(Core(0)));
    assert_eq!((rig.told(0), rig.told(1)), (vec![], vec![]));
    rig.pass(1_000).unwrap();
    assert_eq!((rig.told(0), rig.told(1)), (vec![], vec![]), "the disk fails once more");
    rig.pass(1_000).unwrap();
    assert_eq!((rig.told(0), rig.told(1)), (vec![Told::EpochsEnd(400)], vec![Told::EpochsEnd(400)]));
    assert_eq!(rig.control.next_due(), None);
}
