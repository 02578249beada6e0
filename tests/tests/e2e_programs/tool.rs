//! `banter program`: what an author is told ahead of the server.

use std::fs;

use banter_tests::server_process::run_to_end;
use banter_tests::wire_client::Form;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::setup::{Setup, entry, post};

const EXIT_DIFFERS: i32 = 1;
const EXIT_USAGE: i32 = 2;
const EXIT_CONFIG: i32 = 78;
const DICE: &str = r#"
function post(room, m)
  local n, s = string.match(m:get("text") or "", "^/roll (%d%d?)d(%d%d?%d?)$")
  if not n then return end
  local sum = 0
  for _ = 1, tonumber(n) do sum += random(1, tonumber(s)) end
  m:set("roll", sum)
  state.set("rolls", (state.get("rolls") or 0) + 1)
  room.after(1000, "tell")
end
function tick(room, name) room.post({ rolls = state.get("rolls") }) end
"#;

/// A folder with files, and the tool in it.
struct Desk(TempDir);

impl Desk {
    fn new(files: &[(&str, &str)]) -> Self {
        let desk = Desk(TempDir::new().expect("a folder"));
        files.iter().for_each(|(name, text)| fs::write(desk.0.path().join(name), text).expect("a file"));
        desk
    }

    /// Where a file lies.
    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_owned()
    }

    /// What comes of `banter program`: its exit code, stdout and stderr. Words with a dot are files of the folder.
    fn run(&self, line: &str) -> (i32, String, String) {
        let words = line.split(' ').map(|word| if word.contains('.') { self.at(word) } else { word.to_owned() });
        let words: Vec<String> = ["program".to_owned()].into_iter().chain(words).collect();
        run_to_end(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|fault| panic!("{line}: {fault}"))).collect()
}

#[test]
fn check_says_that_a_program_holds_and_what_it_hooks() {
    let desk = Desk::new(&[("dice.luau", DICE)]);
    let (code, out, err) = desk.run("check dice.luau");
    assert_eq!((code, &*err), (0, ""), "{out}");
    assert!(out.contains("dice.luau: it holds") && out.contains("hooks: post, tick"), "{out}");
}

#[test]
fn check_tells_a_mistake_as_a_compiler_does_and_a_file_that_is_not_there_otherwise() {
    let broken = "function post(room, m)\n  m:set('v' 2)\nend\n";
    let kept = "local count = 0\nfunction post()\n  count += 1\nend\n";
    let desk = Desk::new(&[
        ("broken.luau", broken),
        ("kept.luau", kept),
        ("none.luau", "local x = 1\n"),
        ("near.luau", "function pots() end"),
        ("global.luau", "function post()\n  total = 1\nend\n"),
        ("slow.luau", "while true do end"),
    ]);
    let (code, out, err) = desk.run("check broken.luau");
    assert_eq!((code, &*out), (EXIT_DIFFERS, ""), "{err}");
    let mut told = err.lines();
    let first = told.next().expect("a line");
    assert!(first.starts_with("banter: ") && first.contains("broken.luau:2:13: expected ')'"), "{err}");
    assert_eq!(told.next(), Some("    m:set('v' 2)"), "{err}");
    assert_eq!(told.next().map(|line| line.find('^')), Some(Some(2 + 12)), "the caret is under the 2: {err}");
    for (name, says) in [
        ("kept", "kept.luau:3: a function assigns"),
        ("none", "it has no hook"),
        ("near", "is it to be `post`?"),
        ("global", "global.luau:2: a function assigns the global `total`"),
        ("slow", "slow.luau: the chunk takes more than"),
    ] {
        let (code, out, err) = desk.run(&format!("check {name}.luau"));
        assert_eq!((code, &*out), (EXIT_DIFFERS, ""), "{err}");
        assert!(err.contains(says), "{err}");
    }
    let (code, _, err) = desk.run("check nowhere.luau");
    assert!(code == EXIT_CONFIG && err.contains("nowhere.luau"), "{code}: {err}");
    assert_eq!(desk.run("check").0, EXIT_USAGE);
}

#[test]
fn test_says_what_a_program_does_with_each_line_and_fails_where_that_is_not_expected() {
    let log = [
        json!({"room": "r", "user": "ann", "sequence": 1, "time_ms": 1_000, "body": {"text": "hello"}}),
        json!({"room": "r", "user": "ann", "sequence": 2, "time_ms": 2_000, "body": {"text": "/roll 3d6"}}),
        json!({"room": "r", "user": "ann", "sequence": 3, "time_ms": 9_000, "body": {"text": "bye"}}),
    ];
    let log: String = log.iter().map(|line| format!("{line}\n")).collect();
    let desk = Desk::new(&[("dice.luau", DICE), ("log.jsonl", &log)]);
    let (code, out, err) = desk.run("test dice.luau --log log.jsonl");
    assert_eq!(code, 0, "{err}");
    let told = lines(&out);
    let did: Vec<Value> = told.iter().map(|told| json!([told["event"], told["verdict"]])).collect();
    assert_eq!(json!(did), json!([["post", "pass"], ["post", "edit"], ["tick", "pass"], ["post", "pass"]]));
    assert!((3..=18).contains(&told[1]["body"]["roll"].as_u64().expect("a sum")), "{out}");
    assert_eq!(told[2]["effects"], json!([{"post": {"rolls": 1}}]));
    assert!(err.contains("4 calls; units of a call"), "{err}");
    // The same comes of it again, and is what is expected.
    fs::write(desk.at("expected.jsonl"), &out).expect("a file");
    let (code, differs, _) = desk.run("test dice.luau --log log.jsonl --expect expected.jsonl");
    assert_eq!((code, &*differs), (0, ""));
    fs::write(desk.at("other.jsonl"), out.replacen("\"edit\"", "\"pass\"", 1)).expect("a file");
    let (code, differs, _) = desk.run("test dice.luau --log log.jsonl --expect other.jsonl");
    assert_eq!(code, EXIT_DIFFERS);
    assert!(differs.starts_with("line 2:\n  expected {") && differs.contains("  and it is {"), "{differs}");
    for (name, text, says) in [
        ("short", out.lines().take(3).collect::<Vec<_>>().join("\n"), "line 3:\n  expected nothing"),
        ("long", format!("{out}{{}}\n"), "behind the last line:\n  expected {}"),
    ] {
        fs::write(desk.at(&format!("{name}.jsonl")), text).expect("a file");
        let (code, differs, _) = desk.run(&format!("test dice.luau --log log.jsonl --expect {name}.jsonl"));
        assert!(code == EXIT_DIFFERS && differs.starts_with(says), "{name}: {differs}");
    }
}

#[test]
fn test_fails_where_the_program_does_and_says_what_it_cannot_read() {
    let desk = Desk::new(&[
        ("dice.luau", DICE),
        ("loop.luau", "function post(room, m)\n  while true do end\nend"),
        ("log.jsonl", "{\"room\":\"r\",\"user\":\"ann\",\"body\":1}\n"),
        ("odd.jsonl", "{\"room\":\"r\",\"user\":\"ann\",\"body\":1}\n\n{\"room\":\"r\",\"event\":\"explode\"}\n"),
    ]);
    let (code, out, _) = desk.run("test loop.luau --log log.jsonl");
    let told = &lines(&out)[0];
    assert_eq!((code, json!([told["verdict"], told["fault"]])), (EXIT_DIFFERS, json!(["fault", "cpu"])));
    assert!(told["message"].as_str().is_some_and(|message| message.contains("loop.luau:2 in post")), "{told}");
    let (code, _, err) = desk.run("test dice.luau --log odd.jsonl");
    assert!(code == EXIT_DIFFERS && err.contains("line 3 of the log: `event` is unknown"), "{code}: {err}");
    for line in [
        "test nowhere.luau --log log.jsonl",
        "test dice.luau --log nowhere.jsonl",
        "test dice.luau --log log.jsonl --expect nowhere.jsonl",
        "check dice.luau --config nowhere.toml",
    ] {
        let (code, _, err) = desk.run(line);
        assert!(code == EXIT_CONFIG && err.contains("nowhere."), "{line}: {code}: {err}");
    }
}

#[test]
fn a_program_is_tried_with_what_the_servers_configuration_gives_it() {
    let text = "local bad = words('bad')\nfunction post(room, m)\n  local t, n = bad:mask(m:get('text'), '*')\n  \
                m:set('text', t .. config.ends) m:set('n', n)\nend\n";
    let desk = Desk::new(&[
        ("redactor.luau", text),
        ("bad.txt", "# what nobody is to read\ndarn\n\nheck\n"),
        ("other.luau", "function post() end"),
        ("log.jsonl", "{\"room\":\"r\",\"user\":\"ann\",\"body\":{\"text\":\"oh darn it\"}}\n"),
    ]);
    let config = format!(
        "[[programs]]\nmatch = '*'\nfile = '{}'\non_fault = 'refuse'\ngrants = {{ words = {{ bad = '{}' }} }}\n\
         config = {{ ends = '!' }}\n",
        desk.at("redactor.luau"),
        desk.at("bad.txt")
    );
    fs::write(desk.at("banter.toml"), config).expect("a file");
    let (code, out, err) = desk.run("test redactor.luau --config banter.toml --log log.jsonl");
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(lines(&out)[0]["body"], json!({"text": "oh **** it!", "n": 1}));
    assert_eq!(desk.run("check redactor.luau").0, EXIT_DIFFERS, "without it there are no such words");
    let (code, _, err) = desk.run("check other.luau --config banter.toml");
    assert!(code == EXIT_CONFIG && err.contains("has no entry of [[programs]]"), "{err}");
}

#[test]
fn what_a_log_holds_can_be_tried_on_another_program() {
    let mut setup = Setup::new("written", &[], &[entry("dice", "dice", "function post() end")], "");
    setup.run(1);
    let mut ann = setup.member(Form::Json, "ann", "dice");
    for text in ["hello", "/roll 2d20", "/roll 1d1"] {
        assert_eq!(ann.ask(post("dice", &json!({"text": text})))["type"], "posted");
    }
    setup.stop(Signal::TERM);
    let (code, dump, err) = run_to_end(&["log", "dump", &setup.text_of("data")]);
    assert_eq!(code, 0, "{err}");
    let desk = Desk::new(&[("dice.luau", DICE), ("log.jsonl", &dump)]);
    let (code, out, err) = desk.run("test dice.luau --log log.jsonl");
    assert_eq!(code, 0, "{out}{err}");
    let posts: Vec<Value> = lines(&out).into_iter().filter(|told| told["event"] == "post").collect();
    let verdicts: Vec<&Value> = posts.iter().map(|told| &told["verdict"]).collect();
    assert_eq!(json!(verdicts), json!(["pass", "edit", "edit"]), "{dump}");
    assert_eq!(posts[2]["body"], json!({"text": "/roll 1d1", "roll": 1}));
}
