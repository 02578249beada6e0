//! Servers that die, stop and come back: what was asked is answered soon, and later asks work again.

mod servers;

use std::time::{Duration, Instant};

use banter_cluster::engine::{Answer, Ask, Partition};
use banter_engine::{EngineConfig, EngineFault};
use bytes::Bytes;
use servers::{Asker, SHAPE, Servers};

const PARTITION: Partition = Partition(7);
/// Beyond an ask's own limit, for a machine that does other things too.
const SLACK: Duration = Duration::from_millis(700);

#[tokio::test]
async fn asks_of_a_connection_that_is_lost_are_answered_soon_and_later_ones_work_again() {
    let Some(mut servers) = Servers::start() else { return };
    let mut asker = Asker::with(usual(&servers, "lost"), SHAPE).await;
    let mut last = asker.append_at_last(PARTITION, 0, "a").await;
    for round in 0..2 {
        let connected = connected_to(&asker, &servers);
        let asked = Instant::now();
        if round == 0 {
            servers.kill(connected);
        } else {
            servers.signal(connected, "-STOP");
        }
        let tickets: Vec<_> = (0..4).map(|ahead| asker.send_append(PARTITION, last + ahead, "lost")).collect();
        for ticket in tickets {
            let answer = asker.next().await;
            assert!(matches!(answer, Answer::Silent { ticket: told } if told == ticket), "{answer:?}");
        }
        assert!(asked.elapsed() < Duration::from_millis(500) + SLACK, "{:?}", asked.elapsed());
        last = asker.append_at_last(PARTITION, last, "later").await;
        let back = asked.elapsed();
        assert!(back < Duration::from_secs(20), "{back:?}");
        if round == 0 {
            servers.run(connected);
        } else {
            servers.signal(connected, "-CONT");
        }
        servers.wait_until_ready();
    }
    servers::until(async || {
        let messages = asker.read(PARTITION, 1, 100, 1 << 20).await.unwrap_or_default();
        assert!(messages.iter().zip(1..).all(|((sequence, _), wanted)| *sequence == wanted));
        messages.last().is_some_and(|(sequence, _)| *sequence >= last)
    })
    .await;
}

#[tokio::test]
async fn while_no_server_is_there_every_ask_is_answered_at_once() {
    let Some(mut servers) = Servers::start() else { return };
    let mut asker = Asker::with(usual(&servers, "gone"), SHAPE).await;
    let last = asker.append_at_last(PARTITION, 0, "a").await;
    for index in 0..3 {
        servers.kill(index);
    }
    let silent = asker.append(PARTITION, last, "b").await;
    assert!(matches!(silent, Answer::Silent { .. }), "{silent:?}");
    let asked = Instant::now();
    for _ in 0..100 {
        let silent = asker.append(PARTITION, last, "b").await;
        assert!(matches!(silent, Answer::Silent { .. }), "{silent:?}");
        let tail = asker.ask(|ticket| Ask::Tail { partition: PARTITION, ticket }).await;
        assert!(matches!(tail, Answer::Tail { tail: None, .. }), "{tail:?}");
        assert_eq!(asker.read(PARTITION, 1, 10, 1_000).await, None);
    }
    assert!(asked.elapsed() < SLACK, "{:?}", asked.elapsed());
    for index in 0..3 {
        servers.run(index);
    }
    servers.wait_until_ready();
    asker.append_at_last(PARTITION, last, "c").await;
}

#[tokio::test]
async fn a_first_connection_does_not_wait_for_ever_and_says_what_to_do() {
    let connect = async |servers: &[&str], change: fn(&mut EngineConfig)| {
        let mut config = EngineConfig::new("c", servers.iter().map(|server| (*server).to_owned()).collect());
        config.connect_timeout_ms = 300;
        change(&mut config);
        let (answers, _) = flume::unbounded();
        banter_engine::Engine::connect(config, answers).await.unwrap_err()
    };
    // It takes the connection and says nothing.
    let mute = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mute = format!("nats://ann:secret@{}", mute.local_addr().unwrap());
    let begun = Instant::now();
    let fault = connect(&[&mute], |_| ()).await;
    assert!(matches!(fault, EngineFault::Unreachable { .. }), "{fault}");
    assert!(!fault.to_string().contains("secret"), "{fault}");
    assert!(begun.elapsed() < Duration::from_millis(300) + SLACK);
    let told = connect(&["nats://127.0.0.1:1"], |_| ()).await.to_string();
    assert!(told.contains("127.0.0.1:1") && told.contains("start the NATS servers"), "{told}");
    assert!(matches!(connect(&[], |_| ()).await, EngineFault::NoServers));
    assert!(matches!(connect(&["nats://a", "tls://b"], |_| ()).await, EngineFault::MixedTls));
    assert!(matches!(connect(&["nats://u:p@a", "nats://b"], |_| ()).await, EngineFault::MixedUsers));
    for address in ["http://a", "ws://a", "nats://", "nats://u:secret@a:99999"] {
        let fault = connect(&[address], |_| ()).await;
        assert!(matches!(fault, EngineFault::Address { number: 1, .. }), "{address}: {fault}");
        assert!(!fault.to_string().contains("secret"), "{fault}");
    }
    let fault = connect(&["tls://a"], |config| config.certificate_authority = Some("/nowhere.pem".into())).await;
    assert!(matches!(fault, EngineFault::CertificateAuthority { .. }), "{fault}");
    let fault = connect(&["nats://a"], |config| config.credentials = Some("/nowhere.creds".into())).await;
    assert!(matches!(fault, EngineFault::Credentials { .. }), "{fault}");
}

/// What became of appends while servers died: what was acknowledged lies there, and what was refused does not.
#[derive(Default)]
struct Ledger {
    appended: Vec<(u64, u64)>,
    refused: Vec<u64>,
    silent: usize,
    last: u64,
}

impl Ledger {
    fn on_answer(&mut self, answer: &Answer) {
        match *answer {
            Answer::Appended { ticket, sequence } => self.appended.push((ticket.0, sequence)),
            Answer::Refused { ticket, last } => {
                self.refused.push(ticket.0);
                self.last = last;
            }
            Answer::Silent { .. } => self.silent += 1,
            ref other => panic!("{other:?}"),
        }
    }

    fn check(&self, messages: &[(u64, Bytes)]) {
        let text_at = |sequence: u64| messages[usize::try_from(sequence).unwrap() - 1].1.clone();
        for (ticket, sequence) in &self.appended {
            assert_eq!(text_at(*sequence), Bytes::from(ticket.to_string()), "at {sequence}");
        }
        for ticket in &self.refused {
            let text = Bytes::from(ticket.to_string());
            assert!(messages.iter().all(|(_, bytes)| *bytes != text), "{ticket} was refused and is there");
        }
    }
}

#[tokio::test]
async fn what_is_acknowledged_while_servers_die_lies_there_and_what_is_refused_does_not() {
    let Some(mut servers) = Servers::start() else { return };
    let mut asker = Asker::with(usual(&servers, "ledger"), SHAPE).await;
    let mut ledger = Ledger::default();
    for round in 0..60 {
        // The server that we speak to, amid what is under way.
        let victim = (round % 30 == 15).then(|| connected_to(&asker, &servers));
        let last = ledger.last;
        for ahead in 0..4 {
            let text = asker.newest().0 + 1;
            asker.send_append(PARTITION, last + ahead, text.to_string());
        }
        if let Some(victim) = victim {
            tokio::task::yield_now().await;
            servers.kill(victim);
        }
        for _ in 0..4 {
            ledger.on_answer(&asker.next().await);
        }
        if let Some(victim) = victim {
            servers.run(victim);
            servers.wait_until_ready();
        }
        ledger.last = asker.last_soon(PARTITION).await;
    }
    let last = asker.append_at_last(PARTITION, ledger.last, "end").await;
    let mut messages = Vec::new();
    servers::until(async || {
        let from = u64::try_from(messages.len()).unwrap() + 1;
        messages.extend(asker.read(PARTITION, from, 256, 1 << 20).await.unwrap_or_default());
        u64::try_from(messages.len()).unwrap() >= last
    })
    .await;
    assert!(
        ledger.silent > 0 && ledger.appended.len() > 100,
        "{} silent, {} appended",
        ledger.silent,
        ledger.appended.len()
    );
    ledger.check(&messages);
}

/// With the patience that a server has.
fn usual(servers: &Servers, cluster: &str) -> EngineConfig {
    EngineConfig { append_timeout_ms: 500, ..servers.config(cluster) }
}

fn connected_to(asker: &Asker, servers: &Servers) -> usize {
    servers.index_of(&asker.engine.connection().server_name())
}
