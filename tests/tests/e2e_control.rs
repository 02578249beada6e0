//! End to end: what a server does at signals and questions while it starts, serves and stops.

use banter_tests::raw_peer::{RawPeer, UPGRADE};
use banter_tests::server_process::{PATIENCE, ServerProcess, Start, core_counts, http, wait_until};
use banter_tests::wire_client::{Form, WireClient, stuck_member};
use rustix::process::Signal;
use serde_json::json;

/// Starts of which each meets its disturbance at another moment.
const STARTS: usize = 20;

#[test]
fn a_scrape_while_the_server_starts_is_answered() {
    for start in 0..STARTS {
        let mut server = Start::new(core_counts()[start % core_counts().len()], &[]).launch();
        let mut address = None;
        wait_until("it listens", || {
            address = server.early_address();
            address.is_some()
        });
        let answer = http(address.expect("it listens"), "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("banter_core_up{core=\"0\"} 1\n"), "{answer}");
        server.signal(Signal::TERM);
        assert_eq!(server.wait(PATIENCE).code(), Some(0), "{}", server.log());
    }
}

#[test]
fn a_signal_while_the_server_starts_stops_it_in_order() {
    for start in 0..STARTS {
        let mut server = Start::new(core_counts()[start % core_counts().len()], &[]).launch();
        wait_until("it hears signals", || server.catches(Signal::TERM));
        server.signal(if start % 2 == 0 { Signal::TERM } else { Signal::INT });
        assert_eq!(server.wait(PATIENCE).code(), Some(0), "{}", server.log());
        assert!(server.log().contains("stopped"), "{}", server.log());
    }
}

#[test]
fn sighup_without_a_file_changes_nothing_and_the_server_goes_on() {
    let mut server = ServerProcess::start(1, &[]);
    let mut client = WireClient::hello(server.address(), Form::Json, "ann");
    server.signal(Signal::HUP);
    wait_until("it says so", || server.log().contains("reloaded; new: nothing; waits for a restart: nothing"));
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
    server.signal(Signal::TERM);
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
}

#[test]
fn a_draining_server_says_that_it_lives_and_sends_newcomers_away() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &["--drain-timeout-ms", "600000"]);
        let answer = |path: &str| server.http(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(answer("/readyz").starts_with("HTTP/1.1 200 ") && answer("/readyz").ends_with("\r\n\r\nready\n"));
        let _stuck = stuck_member(&server);
        server.signal(Signal::TERM);
        wait_until("it stops", || server.log().contains("stopping"));
        // Every core of it: the kernel chooses which one a connection comes to.
        for _ in 0..cores * 4 {
            assert!(answer("/healthz").starts_with("HTTP/1.1 200 "));
            let ready = answer("/readyz");
            assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("\r\n\r\ndraining\n"), "{ready}");
            let mut newcomer = RawPeer::connect(server.address());
            newcomer.upgrade(UPGRADE);
            let frames = newcomer.frames_to_end();
            let close = frames.last().expect("a close frame");
            assert_eq!((close.opcode, &close.payload[..2]), (8, &1001u16.to_be_bytes()[..]), "{frames:?}");
        }
    }
}
