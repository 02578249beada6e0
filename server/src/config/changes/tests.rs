//! Two configurations side by side: every value is told either as in effect or as waiting, and is what was told.

use super::super::tests::config;
use super::*;

const TOKEN: &str = "[auth]\nmode = 'token'\nsecret_file = 's'\n";

fn keys(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(|change| change.key.as_str()).collect()
}

fn merged(old: &str, read: &str) -> (Config, Changes) {
    merge(&config(old).unwrap(), config(read).unwrap())
}

#[test]
fn the_same_file_changes_nothing() {
    let text = format!("origins = ['*']\n{TOKEN}[[rooms]]\nmatch = 'a'\nusers = ['read']\ndurability = 'memory'");
    let (config, changes) = merged(&text, &text);
    assert_eq!((changes, config), (Changes::default(), self::config(&text).unwrap()));
}

#[test]
fn every_limit_is_live_or_told_as_waiting_for_a_restart() {
    let old = config("").unwrap();
    for limit in LIMITS {
        // A segment is made of whole pages.
        let step = if limit.name == "log_segment_bytes" { 4_096 } else { 1 };
        let value = (limit.read)(&old.limits).max(20) + step;
        let (merged, changes) = merged("", &format!("[limits]\n{} = {value}", limit.name));
        let key = format!("limits.{}", limit.name);
        let is_live = LIVE_LIMITS.contains(&limit.name);
        let told = if is_live { &changes.takes_effect } else { &changes.needs_restart };
        assert_eq!(keys(told), [key.as_str()], "{changes:?}");
        assert_eq!(changes.takes_effect.len() + changes.needs_restart.len(), 1, "{changes:?}");
        let holds = if is_live { value } else { (limit.read)(&old.limits) };
        assert_eq!((limit.read)(&merged.limits), holds, "{key}");
    }
    for name in LIVE_LIMITS {
        assert!(LIMITS.iter().any(|limit| limit.name == name), "{name} is no limit");
    }
}

#[test]
fn what_takes_effect_is_in_the_merged_configuration_and_the_rest_is_as_it_was() {
    let old = format!("{TOKEN}[[rooms]]\nmatch = 'a'\nusers = ['read']");
    let read = "listen = '127.0.0.1:9'\ndata = 'd'\ncores = 2\ndurability = 'memory'\norigins = ['https://a.com']\n\
                log = 'warn'\n[limits]\nrooms_max = 5\nframe_bytes_max = 2048\n[auth]\nmode = 'token'\nkeys = ['k']\n\
                secret_env = 'E'\nissuer = 'i'\naudience = 'a'\nuser_claim = 'u'\nrooms_claim = 'r'\nlifetime_hours_max = 2\n\
                grace_ms = 1\n[[rooms]]\nmatch = 'b'\nusers = ['read']\nretention_hours = 3";
    let (merged, changes) = merged(&old, read);
    let (old, read) = (config(&old).unwrap(), config(read).unwrap());
    let value = |config: &Config, key: &str| rows(config).into_iter().find(|row| row.key == key).map(|row| row.value);
    for Change { key, .. } in &changes.takes_effect {
        assert_eq!(value(&merged, key), value(&read, key), "{key}");
    }
    for Change { key, .. } in &changes.needs_restart {
        assert_eq!(value(&merged, key), value(&old, key), "{key}");
    }
    let waiting = ["listen", "data", "cores", "durability", "rooms", "limits.frame_bytes_max"];
    assert_eq!(keys(&changes.needs_restart), waiting);
    let live =
        ["origins", "log", "rooms.users", "limits.rooms_max", "auth.keys", "auth.secret_file", "auth.secret_env"];
    assert_eq!(keys(&changes.takes_effect)[..7], live);
    assert_eq!(keys(&changes.takes_effect).last(), Some(&"auth.grace_ms"));
    // What waits is told again the next time.
    assert_eq!(merge(&merged, read).1, Changes { takes_effect: Vec::new(), needs_restart: changes.needs_restart });
}

#[test]
fn guests_and_the_rates_of_rooms_come_and_go_and_a_changed_right_is_told_as_whose_it_is() {
    let old = format!("{TOKEN}[[rooms]]\nmatch = 'a'\nusers = ['read']");
    let of_guests = format!("{TOKEN}guests = true\n[[rooms]]\nmatch = 'a'\nusers = ['read']\nguests = ['read']");
    let (config, changes) = merged(&old, &of_guests);
    assert_eq!((keys(&changes.takes_effect), changes.needs_restart), (vec!["rooms.guests", "auth.guests"], vec![]));
    assert_eq!(config, self::config(&of_guests).unwrap());
    // An entry behind the others that gives guests something changes nothing for users.
    let one_more = format!("{of_guests}\n[[rooms]]\nmatch = 'b'\nguests = ['read']");
    assert_eq!(keys(&merged(&of_guests, &one_more).1.takes_effect), ["rooms.guests"]);
    for (old, read) in [("", "posts_per_second_max = 3"), ("posts_per_second_max = 3", "posts_per_second_max = 4")] {
        let text = |rate: &str| format!("[[rooms]]\nmatch = 'a'\n{rate}");
        let (config, changes) = merged(&text(old), &text(read));
        assert_eq!(keys(&changes.takes_effect), ["rooms.posts_per_second_max"], "{changes:?}");
        assert_eq!((changes.needs_restart, config), (vec![], self::config(&text(read)).unwrap()));
    }
}

#[test]
fn a_change_says_both_values_as_the_file_says_them() {
    let told = |old: &str, read: &str| {
        let (_, changes) = merged(old, read);
        changes
            .takes_effect
            .iter()
            .chain(&changes.needs_restart)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert_eq!(told("log = 'info'", "log = 'debug'"), "log: \"info\" -> \"debug\"");
    assert_eq!(told(TOKEN, &format!("{TOKEN}issuer = 'us'")), "auth.issuer: nothing -> \"us\"");
    assert_eq!(
        told("", "limits_dry_run = ['posts_per_second_max']"),
        "limits_dry_run: [] -> [\"posts_per_second_max\"]"
    );
    assert_eq!(told("cores = 1", "cores = 2"), "cores: [0] -> [0, 1]");
    let admin = |more: &str| format!("[admin]\nsocket = 'a'\n{more}");
    assert_eq!(
        told(
            &admin(""),
            &admin(
                "listen = '127.0.0.1:1'\n[[admin.keys]]\nname = 'a'\nsha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'\nrights = ['read']"
            )
        ),
        "admin.keys: [] -> [{ name = \"a\", sha256 = \"ba7816bf…\", rights = [\"read\"], rooms = [\"*\"] }]; \
         admin.listen: nothing -> \"127.0.0.1:1\""
    );
    assert_eq!(told("", &admin("")), "admin: nothing -> [admin]");
    assert_eq!(
        told("", "[[rooms]]\nmatch = 'a'\ndurability = 'memory'"),
        "rooms: [] -> [{ match = \"a\", durability = \"memory\", history_messages_max = 0, retention_hours = 0, \
         retention_bytes = 0 }]"
    );
    let (_, changes) = merged("", &format!("log = '{}'", "a=info,".repeat(100)));
    assert_eq!(changes.takes_effect[0].to.as_ref().unwrap().chars().count(), SHOWN_CHARS_MAX + 1);
}

#[test]
fn of_a_long_list_what_differs_is_shown_and_not_its_beginning() {
    let list = |last: &str| {
        let names: Vec<String> =
            (0..50).map(|number| format!("'https://a-rather-long-name-{number}.example.com'")).collect();
        format!("origins = [{}, '{last}']", names.join(", "))
    };
    let (_, changes) = merged(&list("https://old.example.com"), &list("https://new.example.com"));
    assert_eq!(
        changes.takes_effect[0].to_string(),
        "origins: […, \"https://old.example.com\"] -> […, \"https://new.example.com\"]"
    );
}

#[test]
fn a_change_between_open_and_tokens_waits_as_a_whole() {
    for (old, read) in [("", TOKEN), (TOKEN, "")] {
        let (merged, changes) = merged(old, read);
        assert_eq!((keys(&changes.needs_restart), keys(&changes.takes_effect)), (vec!["auth.mode"], vec![]));
        assert_eq!(merged, config(old).unwrap());
    }
}

#[test]
fn another_address_of_keys_waits_with_all_that_tokens_must_say() {
    let text = |url: &str, issuer: &str| {
        format!("[auth]\nmode = 'token'\njwks_url = '{url}'\nissuer = '{issuer}'\naudience = 'us'\n")
    };
    let (old, read) = (text("https://a/k", "a"), text("https://b/k", "b"));
    let (merged, changes) = merged(&old, &format!("log = 'warn'\n{read}"));
    assert_eq!(keys(&changes.needs_restart), ["auth.jwks_url", "auth.issuer"]);
    assert_eq!((keys(&changes.takes_effect), merged.auth), (vec!["log"], config(&old).unwrap().auth));
    // At the same address the rest is live.
    assert_eq!(keys(&self::merged(&old, &text("https://a/k", "b")).1.takes_effect), ["auth.issuer"]);
}

#[test]
fn an_entry_that_says_nothing_of_how_rooms_are_kept_changes_nothing_of_it() {
    let kept = "[[rooms]]\nmatch = 'a'\ndurability = 'memory'\n";
    let same = [kept.to_owned(), format!("{kept}[[rooms]]\nmatch = 'b'")];
    assert_eq!(merged(&same[0], &same[1]).1, Changes::default());
    // One ahead of an entry that does may hide rooms from it.
    assert_eq!(keys(&merged(kept, &format!("[[rooms]]\nmatch = 'ab'\n{kept}")).1.needs_restart), ["rooms"]);
}

#[test]
fn no_limit_that_is_live_is_bounded_by_one_that_waits() {
    for limit in LIMITS {
        for value in [1, 20, 1_000, 100_000, 10_000_000] {
            // What a whole configuration may say holds also where half of it waits.
            let Ok(read) = config(&format!("[limits]\n{} = {value}", limit.name)) else { continue };
            let (merged, _) = merge(&config("").unwrap(), read);
            assert_eq!(merged.limits.check(), Ok(()), "{} = {value}", limit.name);
        }
    }
}
