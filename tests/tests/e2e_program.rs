//! End to end: the program's flags and files, its faults with their exit codes, and what it tells about itself.

use std::net::TcpListener;
use std::process::Command;

use banter_tests::server_process::{ServerProcess, Start, core_counts, run_to_end, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: i32 = 78;
const EXIT_USAGE: i32 = 2;

/// Runs the program, which must refuse to start with that code, and gives what it says.
fn refusal(args: &[&str], code: i32) -> String {
    let (found, out, err) = run_to_end(args);
    assert_eq!((found, &*out), (code, ""), "{args:?}: {err}");
    assert!(err.starts_with("banter: "), "{args:?}: {err}");
    err
}

/// Runs the program with such a file.
fn refusal_of_file(text: &str) -> String {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("banter.toml");
    std::fs::write(&path, text).expect("a file");
    refusal(&["--config", path.to_str().expect("text")], EXIT_CONFIG)
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let text = refusal_of_file("listen = '127.0.0.1:0'\n[limits]\nconections_max = 3\n");
    assert!(text.contains("banter.toml:3") && text.contains("did you mean \"connections_max\"?"), "{text}");
    let text = refusal_of_file("listn = '127.0.0.1:0'\n");
    assert!(text.contains("did you mean \"listen\"?"), "{text}");
    let text = refusal(&["--conections-max", "3"], EXIT_USAGE);
    assert!(text.contains("'--connections-max'"), "{text}");
}

#[test]
fn a_value_that_cannot_be_is_refused_with_what_it_must_be() {
    let text = refusal(&["--listen", "localhost"], EXIT_USAGE);
    assert!(text.contains("must be an IP address and a port"), "{text}");
    let text = refusal(&["--cores", "5000", "--listen", "127.0.0.1:0"], EXIT_CONFIG);
    assert!(text.contains("asks for 5000 CPUs"), "{text}");
    let text = refusal(&["--idle-timeout-ms", "5"], EXIT_CONFIG);
    assert!(text.contains("idle_timeout_ms must be between 1000 and") && text.contains("--idle-timeout-ms"), "{text}");
    let text = refusal(&["--durability", "disk"], EXIT_USAGE);
    assert!(text.contains("must be \"memory\", \"written\" or \"synced\""), "{text}");
    let text = refusal(&["--config", "/nowhere/banter.toml"], EXIT_CONFIG);
    assert!(text.contains("/nowhere/banter.toml"), "{text}");
}

#[test]
fn an_entry_of_rooms_that_means_nothing_is_refused_with_its_line() {
    let text = refusal_of_file("[[rooms]]\nmatch = 'game-*'\ndurabilty = 'memory'\n");
    assert!(text.contains("banter.toml:3") && text.contains("did you mean \"durability\"?"), "{text}");
    let text = refusal_of_file("[[rooms]]\nmatch = '*'\n[[rooms]]\nmatch = 'game-*'\n");
    assert!(text.contains("banter.toml:3") && text.contains("can never match"), "{text}");
    let text = refusal_of_file("[[rooms]]\ndurability = 'memory'\n");
    assert!(text.contains("banter.toml:1") && text.contains("has no match"), "{text}");
}

#[test]
fn printed_rooms_are_those_of_the_file() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("banter.toml");
    let text = "durability = 'written'\n[[rooms]]\nmatch = 'game-*'\ndurability = 'memory'\n[[rooms]]\nmatch = 'a*'\n";
    std::fs::write(&path, text).expect("a file");
    let flags = ["--print-config", "--config", path.to_str().expect("text")];
    let (code, printed, _) = run_to_end(&flags);
    assert_eq!(code, 0);
    assert!(printed.contains("[[rooms]]\nmatch = \"game-*\"\ndurability = \"memory\"\n"), "{printed}");
    assert!(printed.contains("[[rooms]]\nmatch = \"a*\"\ndurability = \"written\"\n"), "{printed}");
    std::fs::write(&path, &printed).expect("a file");
    assert_eq!(run_to_end(&flags).1, printed);
}

#[test]
fn a_flag_beats_the_file() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("banter.toml");
    std::fs::write(&path, "[limits]\nfetch_messages_max = 7\nhistory_messages_max = 8\n").expect("a file");
    let flags = ["--config", path.to_str().expect("text"), "--history-messages-max", "9"];
    let server = ServerProcess::start(1, &flags);
    let mut client = WireClient::connect(server.address(), Form::Json);
    let welcome = client.say_hello("ann");
    let limits = &welcome["limits"];
    assert_eq!((&limits["fetch_messages_max"], &limits["history_messages_max"]), (&json!(7), &json!(9)));
    assert_eq!(limits["frame_bytes_max"], 65_536);
}

#[test]
fn welcome_tells_every_limit_by_its_name() {
    let (code, help, _) = run_to_end(&["--help-limits"]);
    assert_eq!(code, 0);
    let names = help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split_once(' '));
    let names: Vec<String> = names.map(|(flag, _)| flag.replace('-', "_")).collect();
    assert!(names.len() > 15, "{help}");
    let server = ServerProcess::start(1, &[]);
    for form in Form::ALL {
        let welcome = WireClient::connect(server.address(), form).say_hello("ann");
        for name in &names {
            assert!(welcome["limits"][name].is_u64(), "{form:?}: {name} in {welcome}");
        }
        assert_eq!(welcome["durability"], "synced");
    }
}

#[test]
fn help_fits_a_screen() {
    for (flag, lines_max) in [("--help", 24), ("-h", 24), ("--help-limits", 50)] {
        let (code, help, err) = run_to_end(&[flag]);
        assert_eq!((code, &*err), (0, ""));
        assert!(help.lines().count() <= lines_max, "{flag}: {} lines", help.lines().count());
        assert!(help.lines().all(|line| line.chars().count() <= 110), "{flag}: {help}");
    }
    let (_, help, _) = run_to_end(&["--help"]);
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
}

#[test]
fn what_is_printed_as_configuration_starts_the_same_server() {
    let folder = TempDir::new().expect("a temporary folder");
    let (code, printed, _) = run_to_end(&["--print-config", "--rooms-max", "77", "--log", "warn"]);
    assert_eq!(code, 0);
    let path = folder.path().join("banter.toml");
    std::fs::write(&path, printed).expect("a file");
    let server = ServerProcess::start(1, &["--config", path.to_str().expect("text")]);
    let welcome = WireClient::connect(server.address(), Form::Native).say_hello("ann");
    assert_eq!(welcome["limits"]["rooms_max"], 77);
    assert!(server.log().is_empty(), "log is warn: {}", server.log());
}

#[test]
fn a_port_that_another_program_has_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let data = folder.path().join("data");
    let data = data.to_str().expect("text");
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let text = run_to_end(&["--listen", &address, "--data", data, "--cores", "1"]);
    assert!(text.0 == 1 && text.2.contains(&format!("cannot listen on {address}")), "{text:?}");
    assert!(text.2.contains("another program has it"), "{text:?}");
    // Also when that program is another server of this kind, which shares its port among its own cores.
    let server = ServerProcess::start(core_counts().len(), &[]);
    let address = server.address().to_string();
    let text = run_to_end(&["--listen", &address, "--data", data, "--cores", "1"]);
    assert!(text.0 == 1 && text.2.contains("another program has it"), "{text:?}");
    let mut client = WireClient::hello(server.address(), Form::Json, "ann");
    assert!(client.has_nothing());
}

#[test]
fn a_second_server_on_a_data_folder_is_refused_and_the_first_goes_on() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Start::new(1, &[]).data(folder.path()).run();
    let data = folder.path().to_str().expect("text");
    let text = refusal_with_log(&["--listen", "127.0.0.1:0", "--data", data, "--cores", "1"]);
    assert!(text.contains(&format!("process {} has it locked", server.pid())), "{text}");
    assert!(text.contains("to mend it:") && text.contains("--data DIR"), "{text}");
    assert!(WireClient::hello(server.address(), Form::Json, "ann").has_nothing());
    // A server that was killed leaves no lock behind.
    drop(server);
    Start::new(1, &[]).data(folder.path()).run();
}

/// As [`refusal`] of a configuration, behind lines of the log.
fn refusal_with_log(args: &[&str]) -> String {
    let (code, out, err) = run_to_end(args);
    assert_eq!((code, &*out), (EXIT_CONFIG, ""), "{err}");
    err
}

#[test]
fn a_file_system_without_direct_io_is_refused_at_start_and_named() {
    let folder = TempDir::new().expect("a temporary folder");
    let run = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).arg(folder.path()).status();
        status.is_ok_and(|status| status.success())
    };
    if !run("mount", &["-t", "ramfs", "none"]) {
        return eprintln!("SKIPPED: no ramfs can be mounted here");
    }
    let data = folder.path().join("data");
    let data = data.to_str().expect("text");
    let (code, out, err) = run_to_end(&["--listen", "127.0.0.1:0", "--data", data]);
    assert!(run("umount", &[]));
    assert_eq!((code, &*out), (EXIT_CONFIG, ""), "{err}");
    assert!(err.contains("has no direct I/O") && err.contains("--durability memory"), "{err}");
}

#[test]
fn plain_requests_are_answered_while_the_server_takes_connections() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        for _ in 0..cores * 4 {
            let health = server.http("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
            assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\nok\n"), "{health}");
        }
        let page = server.http("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<!doctype html>"), "{page}");
        let head = server.http("HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        // Who has ended its own side still gets its answer.
        for path in ["/metrics", "/healthz", "/"] {
            let mut peer = banter_tests::raw_peer::RawPeer::connect(server.address());
            peer.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
            peer.end();
            assert!(peer.read_to_end().starts_with(b"HTTP/1.1 200 "), "{path}");
        }
    }
}

#[test]
fn the_counters_of_each_core_move_with_what_happens_there() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let count = |name: &str, core: usize| server.metrics()[&format!("{name}{{core=\"{core}\"}}")];
        let mut clients: Vec<WireClient> =
            (0..cores).map(|core| WireClient::hello_on(&server, core, Form::Json, &format!("user {core}"))).collect();
        clients.iter_mut().for_each(|client| drop(client.join("room")));
        for client in &mut clients {
            (0..10).for_each(|_| drop(client.post("room", json!(1))));
        }
        clients.iter_mut().for_each(|client| (0..10 * cores).for_each(|_| drop(client.take_type("message"))));
        assert_eq!(clients[0].ask(json!({"type": "leave", "room": "x"}))["code"], "not_joined");
        let messages = 10 * cores as u64;
        assert_eq!(server.metric("banter_posts_total"), messages);
        assert_eq!(server.metric("banter_rooms"), 1);
        assert_eq!(server.refusals("not_joined"), 1);
        for (core, client) in clients.iter_mut().enumerate() {
            assert_eq!(count("banter_deliveries_total", core), messages, "each core has one reader");
            assert_eq!(count("banter_subscriptions", core), 1);
            wait_until("only the member is there", || count("banter_connections", core) == 1);
            assert!(count("banter_accepted_total", core) > 0);
            for name in [
                "banter_turns_total",
                "banter_turn_seconds_count",
                "banter_sleeps_total",
                "banter_bytes_received_total",
                "banter_bytes_sent_total",
                "banter_sends_total",
            ] {
                let before = count(name, core);
                // A core that has to wait for its CPU need not sleep between two requests.
                wait_until(name, || client.has_nothing() && count(name, core) > before);
            }
        }
        drop(clients);
        wait_until("all are gone", || server.metric("banter_subscriptions") == 0);
    }
}

#[test]
fn an_idle_server_uses_no_cpu() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let mut clients: Vec<WireClient> =
            (0..20).map(|index| WireClient::hello(server.address(), Form::ALL[index % 3], "idle")).collect();
        clients.iter_mut().for_each(|client| drop(client.join("room")));
        clients[0].post("room", Value::Null);
        // The log's files are still made ahead behind the first post; what spins never comes to rest.
        wait_until("a second passes in which it uses at most 50 ms", || {
            let before = server.cpu_time();
            std::thread::sleep(std::time::Duration::from_secs(1));
            (server.cpu_time() - before).as_millis() <= 50
        });
    }
}
