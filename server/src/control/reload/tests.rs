//! Reloads with cores that are channels, and files that change in between.

use std::path::{Path, PathBuf};

use banter_access::guest::GUEST_SEED_BYTES;
use tempfile::TempDir;

use super::*;
use crate::args::{self, Command};
use crate::core::mesh::Bell;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A reload whose cores take what they are told, and its file.
struct Rig {
    folder: TempDir,
    reload: Reload,
    cores: Vec<Receiver<ToCore>>,
    control: Receiver<ToControl>,
}

impl Rig {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("banter.toml");
        std::fs::write(folder.path().join("secret"), SECRET).expect("a file");
        write(&file, folder.path(), config);
        let line = ["banter", "--config", file.to_str().expect("text")].map(Into::into);
        let Ok(Command::Run(config, sources)) = args::parse(line) else { panic!("{config}") };
        let slot = JudgeSlot::new(OwnKeys::default(), None);
        slot.take().expect("the first");
        let (links, cores) = (0..2).map(|_| core()).unzip();
        let (to_control, control) = flume::unbounded();
        let reload = Reload {
            sources: *sources,
            config: *config,
            guest_seed: GuestSeed::new([7; GUEST_SEED_BYTES]),
            connections_fit: 1_000,
            cores: links,
            programs: ProgramBook::default(),
            judge: Some(slot),
            log: LogFilter::idle(),
            api_keys: None,
            control: to_control,
        };
        Rig { folder, reload, cores, control }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("banter.toml")
    }

    /// Reloads with that file, while every core takes what it is told; what was told to them. Without a reload they are told to stop.
    fn reload(&mut self, config: &str) -> (ReloadAnswer, Vec<CoreReload>) {
        write(&self.file(), self.folder.path(), config);
        let cores = self.cores.clone();
        let takers = std::thread::spawn(move || cores.iter().enumerate().filter_map(take).collect());
        let answer = self.reload.reload();
        if answer.is_err() {
            self.reload.cores.iter().for_each(|core| core.send(ToCore::Stop));
        }
        (answer, takers.join().expect("cores take"))
    }
}

fn core() -> (CoreLink, Receiver<ToCore>) {
    let (messages, inbox) = flume::unbounded();
    (CoreLink { messages, bell: Bell::new().expect("a descriptor") }, inbox)
}

fn write(file: &Path, folder: &Path, config: &str) {
    std::fs::write(file, config.replace("FOLDER", folder.to_str().expect("text"))).expect("a file");
}

fn take((index, core): (usize, &Receiver<ToCore>)) -> Option<CoreReload> {
    let Ok(ToCore::Reload(reload)) = core.recv() else { return None };
    reload.taken.send(Core(index as u16)).expect("it is waited for");
    Some(*reload)
}

#[test]
fn every_core_goes_by_what_was_read_and_says_so() {
    let mut rig = Rig::new("");
    let (answer, told) = rig.reload("origins = ['https://a.com']\n[limits]\nrooms_max = 7\ndrain_timeout_ms = 500");
    let reloaded = answer.expect("it holds");
    assert_eq!((reloaded.silent_cores.as_slice(), reloaded.keys), (&[][..], None));
    assert_eq!(reloaded.changes.takes_effect.len(), 3);
    assert_eq!(told.len(), 2);
    for core in told {
        assert_eq!((core.limits.rooms_max, core.entrance.upgrades.origins.allowed.len()), (7, 1));
        assert!(core.told_limits.contains("rooms_max 7\n"), "{}", core.told_limits);
    }
    let ToControl::DrainTimeout { drain_timeout_ms } = rig.control.recv().unwrap() else { panic!("the drain's") };
    assert_eq!(drain_timeout_ms, 500);
    // The next one is compared with it.
    let (answer, _) = rig.reload("[limits]\nrooms_max = 7");
    let keys: Vec<_> = answer.unwrap().changes.takes_effect.into_iter().map(|change| change.key).collect();
    assert_eq!(keys, ["origins", "limits.drain_timeout_ms"]);
}

#[test]
fn guests_and_the_rates_of_rooms_reach_every_core_and_names_come_from_the_same_seed() {
    let token = "[auth]\nmode = 'token'\nsecret_file = 'FOLDER/secret'\n";
    let mut rig = Rig::new(token);
    let seed = rig.reload.guest_seed;
    let rooms = "[[rooms]]\nmatch = 'a'\nguests = ['read']\nposts_per_second_max = 3";
    for (guests, wanted) in [(true, Some(seed)), (false, None)] {
        let (answer, told) = rig.reload(&format!("{token}guests = {guests}\n{rooms}"));
        answer.expect("it holds");
        assert_eq!(told.len(), 2);
        for core in told {
            let Access::Token(access) = &core.access else { panic!("the mode is as it was") };
            assert_eq!((access.guests, core.post_rates.of("a")), (wanted, 3));
            assert_eq!(core.entrance.upgrades.takes_guests, guests);
        }
    }
}

#[test]
fn what_does_not_hold_changes_nothing_at_all() {
    let good = "[auth]\nmode = 'token'\nsecret_file = 'FOLDER/secret'\n";
    let mut rig = Rig::new(good);
    for (config, says) in [
        ("lisen = 1".to_owned(), "unknown key"),
        ("[limits]\nrooms_max = 0".to_owned(), "rooms_max must be"),
        ("[limits]\nconnections_max = 1001".to_owned(), "connections_max = 1001 is more than the 1000"),
        (format!("log = 'debug'\n{good}keys = ['FOLDER/none']"), "cannot read"),
        (format!("log = 'debug'\n{good}secret_env = 'BANTER_NO_SUCH_SECRET'"), "it is not set"),
    ] {
        let (answer, told) = rig.reload(&config);
        let fault = answer.expect_err(&config).to_string();
        assert!(fault.contains(says), "{config}: {fault}");
        assert!(told.is_empty() && rig.control.is_empty(), "{config}");
        assert!(rig.reload.judge.as_ref().is_some_and(|slot| slot.take().is_none()), "{config}");
        assert_eq!(rig.reload.config.log, "info", "{config}");
    }
    std::fs::remove_file(rig.file()).unwrap();
    assert!(matches!(rig.reload.reload(), Err(ReloadFault::Config(_))));
}

#[test]
fn keys_are_read_anew_although_the_configuration_is_the_same() {
    let text = "[auth]\nmode = 'token'\nsecret_file = 'FOLDER/secret'\n";
    let mut rig = Rig::new(text);
    let (answer, _) = rig.reload(text);
    assert_eq!(answer.unwrap(), Reloaded { keys: Some(1), ..Reloaded::default() });
    assert!(rig.reload.judge.as_ref().is_some_and(|slot| slot.take().is_some()));
}

#[test]
fn asks_above_the_bound_and_behind_the_end_are_told_so() {
    let (asks, inbox) = flume::bounded(1);
    let desk = ReloadDesk(asks);
    let _first = desk.ask().expect("a place");
    assert!(matches!(desk.ask(), Err(ReloadFault::Busy)));
    drop(inbox);
    assert!(matches!(desk.ask(), Err(ReloadFault::Stopping)));
}

#[test]
fn a_look_says_what_a_reload_would_do_and_changes_nothing() {
    let mut rig = Rig::new("");
    write(&rig.file(), rig.folder.path(), "log = 'warn'\ncores = 1\n[limits]\nrooms_max = 7");
    for _ in 0..2 {
        let (_, changes) = rig.reload.read().expect("it holds");
        let keys = |changes: &[Change]| changes.iter().map(|change| change.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&changes.takes_effect), ["log", "limits.rooms_max"]);
    }
    assert!(rig.control.is_empty() && rig.cores.iter().all(Receiver::is_empty));
    assert_eq!((rig.reload.config.log.as_str(), rig.reload.log.texts().now.as_str()), ("info", "info"));
    write(&rig.file(), rig.folder.path(), "[limits]\nconnections_max = 1001");
    assert!(matches!(rig.reload.read(), Err(ReloadFault::Connections { .. })));
    rig.reload("").0.expect("it holds");
}

#[test]
fn a_reload_ends_what_an_operator_has_the_log_tell() {
    let mut rig = Rig::new("log = 'warn'");
    rig.reload.log.configure("warn");
    rig.reload.log.set("debug").expect("a filter");
    let (answer, _) = rig.reload("log = 'warn'");
    assert_eq!(answer.unwrap().changes.takes_effect, [Change::of_texts("log", "debug", "warn")]);
    assert_eq!(rig.reload.log.texts().now, "warn");
    assert_eq!(rig.reload("log = 'warn'").0.unwrap().changes, Changes::default());
}

#[test]
fn what_was_done_is_said_in_one_line() {
    let changes = Changes {
        takes_effect: vec![Change::of_texts("log", "info", "a\nb")],
        needs_restart: vec![Change {
            key: "cores".to_owned(),
            from: Some("[0]".to_owned()),
            to: Some("[0, 1]".to_owned()),
        }],
    };
    let (programs, silent_cores) = (Vec::new(), vec![Core(1)]);
    let reloaded = Reloaded { changes, keys: Some(2), silent_cores, programs };
    assert_eq!(
        reloaded.to_string(),
        "reloaded; new: log: \"info\" -> \"a\\nb\"; waits for a restart: cores: [0] -> [0, 1]; tokens are checked with 2 \
         keys; core 1 did not take it within 2 s"
    );
    let nothing = "reloaded; new: nothing; waits for a restart: nothing";
    assert_eq!(Reloaded::default().to_string(), nothing);
}

#[test]
fn a_look_finds_what_a_reload_would_be_refused_for_and_changes_nothing() {
    let rig = Rig::new("[auth]\nmode = 'token'\nsecret_file = 'FOLDER/secret'");
    assert_eq!(rig.reload.look().expect("all is there"), Changes::default());
    let secret = rig.folder.path().join("secret");
    std::fs::remove_file(&secret).expect("it is there");
    let fault = rig.reload.look().expect_err("a key is gone").to_string();
    assert!(fault.contains("secret"), "{fault}");
    std::fs::write(&secret, SECRET).expect("a file");
    write(
        &rig.file(),
        rig.folder.path(),
        "[auth]\nmode = 'token'\nsecret_file = 'FOLDER/secret'\n[limits]\nrooms_max = 7",
    );
    let takes_effect = rig.reload.look().expect("it holds").takes_effect;
    assert_eq!(takes_effect.len(), 1);
    assert!(rig.cores.iter().all(Receiver::is_empty) && rig.reload.config.limits.rooms_max != 7);
}
