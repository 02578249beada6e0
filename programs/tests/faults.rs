//! How a text that is no program is said: as a compiler says it.

mod common;

use common::{compile, source};

#[test]
fn a_fault_names_its_place_and_shows_it() {
    let fault = compile("function post(room, m)\n  local x = = 3\nend").unwrap_err();
    assert_eq!((fault.line, fault.column), (2, 13));
    let printed = fault.to_string();
    assert!(printed.starts_with("game.luau:2:13: expected "), "{printed}");
    assert!(printed.ends_with("\n    local x = = 3\n              ^"), "{printed}");
    let fault = compile("local x = nil .. 'a'\nfunction post() end").unwrap_err();
    assert!(fault.to_string().starts_with("game.luau:1: attempt to concatenate"), "{fault}");
}

#[test]
fn a_hook_that_is_misspelt_is_said_with_those_that_there_are() {
    for text in ["function Post() end", "function psot() end", "function post() end function joins() end"] {
        let fault = compile(text).unwrap_err().to_string();
        assert!(
            fault.contains("no hook") && fault.contains("post, join, leave, signal, fetch, tick, upgrade"),
            "{fault}"
        );
    }
    assert!(compile("").unwrap_err().to_string().contains("it has no hook"));
    assert!(compile("post = 5").unwrap_err().to_string().contains("function"));
    assert!(compile("version = 1.5 function post() end").unwrap_err().to_string().contains("version"));
    assert!(compile("function count() end function post() count() end").is_ok());
}

#[test]
fn a_compiled_program_is_shared_between_threads() {
    fn is_shared<T: Clone + Send + Sync>(_: &T) {}
    is_shared(&compile("function post() end").unwrap());
    let mut no_word = source("game", "function post() end");
    no_word.words.insert("none".into(), vec!["...".into()]);
    assert!(banter_programs::Compiled::new(&no_word).unwrap_err().message.contains("none"));
}
