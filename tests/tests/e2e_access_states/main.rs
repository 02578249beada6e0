//! End to end: every verb in every state that a connection can be in, over every wire form, as one table.
//!
//! What stands in the table comes from docs/protocol.md and docs/access.md. Which tokens are refused is a table of its own
//! (`e2e_access_tokens.rs`), and so is what comes of a right that is lost in the midst of something (`e2e_access_losses.rs`).

mod scene;
mod ways;

use std::sync::Mutex;

use banter_tests::access_world::{World, closed_with, each_at_once};
use banter_tests::wire_client::Form;
use serde_json::json;

use scene::Scene;

/// What each verb is answered in each state, about one room.
///
/// `ok`: as where all is allowed · `bad`: `bad_request` · `unau`: `unauthorized` · `expi`: `expired` · `forb`: `forbidden` ·
/// `noj`: `not_joined` · `shut CODE CLOSE`: nothing is answered but an `error` with that code, and the connection is closed
/// with that one.
///
/// `hello` is said with the state's own token; once it was taken, with a good one. `after`, `last` and `presence` are joins.
/// What is refused changes nothing, so the same connection is asked on; behind an `ok` that changes something another one is
/// brought into the state.
const TABLE: &str = "
state                                        | hello join  after last  presence post  fetch signal members leave ping renew
the token has ended                          | bad   expi  expi  expi  expi     expi  expi  expi   expi    ok    ok   ok
the token has ended, and the grace is over   | shut expired 4401
a room token that has ended                  | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok

before hello                                 | ok    bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
no token                                     | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
a guest, and there are none                  | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
another token's signature                    | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
another key                                  | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
alg none                                     | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
alg swapped                                  | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
expired                                      | expi  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
not yet valid                                | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
for another audience                         | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
of another issuer                            | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
another user's than hello says               | unau  bad   bad   bad   bad      bad   bad   bad    bad     bad   bad  bad
the third token that is refused              | shut unauthorized 4401
its user was revoked                         | shut revoked 4403
its session was revoked                      | shut revoked 4403
its token was revoked                        | shut revoked 4403
its address was revoked                      | shut revoked 4403

a member                                     | bad   ok    ok    ok    ok       ok    ok    ok     ok      ok    ok   ok
a member who has not joined                  | bad   ok    ok    ok    ok       noj   ok    noj    ok      noj   ok   ok
another room                                 | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
a room whose name begins like the token's    | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
a room that is another user's own            | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
no right to read                             | bad   forb  forb  forb  forb     noj   ok    noj    ok      noj   ok   ok
no right to write                            | bad   ok    ok    ok    ok       forb  ok    ok     ok      ok    ok   ok
no right to signal                           | bad   ok    ok    ok    ok       ok    ok    forb   ok      ok    ok   ok
no right to presence                         | bad   ok    ok    ok    forb     ok    ok    ok     forb    ok    ok   ok
no right to history                          | bad   ok    ok    forb  ok       ok    forb  ok     ok      ok    ok   ok
no right but that of [[rooms]]               | bad   ok    ok    ok    forb     forb  ok    forb   forb    ok    ok   ok

a room token                                 | bad   ok    ok    ok    ok       ok    ok    ok     ok      ok    ok   ok
another user's room token                    | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
another room's room token                    | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
a room token, and another room               | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
a room token that proves nothing             | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
a room token, and the room was left          | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
a room token, and a smaller one behind it    | bad   ok    ok    forb  forb     forb  forb  forb   forb    ok    ok   ok
the same, with a join that was refused       | bad   ok    ok    forb  forb     forb  forb  forb   forb    ok    ok   ok
a room token that was revoked                | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
a room token that was revoked, beside `read` | bad   ok    ok    forb  forb     forb  forb  forb   forb    ok    ok   ok

renewed with more rights                     | bad   ok    ok    ok    ok       ok    ok    ok     ok      ok    ok   ok
renewed with `read` alone                    | bad   ok    ok    forb  forb     forb  forb  forb   forb    ok    ok   ok
renewed without a right                      | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
renewals that were refused                   | bad   ok    ok    ok    ok       ok    ok    ok     ok      ok    ok   ok
a right of [[rooms]] that a reload took      | bad   forb  forb  forb  forb     noj   forb  noj    forb    noj   ok   ok
a right of [[rooms]] that a reload gave      | bad   ok    ok    ok    forb     noj   ok    noj    forb    noj   ok   ok
kicked                                       | bad   ok    ok    ok    ok       noj   ok    noj    ok      noj   ok   ok
revoked were older tokens of the user        | bad   ok    ok    ok    ok       ok    ok    ok     ok      ok    ok   ok
revoked was the token before the renewal     | bad   ok    ok    ok    ok       ok    ok    ok     ok      ok    ok   ok
revoked, and taken back                      | bad   ok    ok    ok    ok       ok    ok    ok     ok      ok    ok   ok
its user is revoked while it is there        | shut revoked 4403
its session is revoked while it is there     | shut revoked 4403
its token is revoked while it is there       | shut revoked 4403
its address is revoked while it is there     | shut revoked 4403
disconnected                                 | shut kicked 4405
";

impl Scene<'_> {
    /// Every verb in a state; what differs from the table.
    fn differs(self, state: &str, cells: &[&str]) -> Vec<String> {
        let mut differences = Vec::new();
        let mut came = None;
        for (&verb, &expected) in verbs().iter().zip(cells) {
            let here = came.get_or_insert_with(|| self.enters(state));
            let answer = self.asks(verb, here);
            if answer != expected {
                differences.push(format!("{verb}, {state}, {:?}: {answer}, and not {expected}", self.form));
            }
            let is_asked_on = answer != "ok" || matches!(verb, "post" | "fetch" | "signal" | "members" | "ping");
            came = came.filter(|_| is_asked_on);
        }
        self.has_heard_no_more();
        differences
    }

    /// A state in which nothing is answered.
    fn must_be_shut(self, state: &str, code: &str, close_code: u16) {
        let mut came = self.enters(state);
        if !came.is_greeted {
            // Whatever it asks behind its hello; the connection may be gone by then.
            for (verb, id) in verbs().iter().zip(1..) {
                let mut request = self.request(verb, &came);
                request["id"] = json!(id);
                let _ = came.client.try_send(&request.to_string());
            }
        }
        let (events, ended) = came.client.read_to_end();
        assert_eq!(ended, closed_with(self.form, close_code), "{state}: {events:?}");
        assert_eq!(events.last().map(|event| &event["code"]), Some(&json!(code)), "{state}: {events:?}");
        let answers = events.iter().filter(|event| event["id"].is_u64() && event["id"] != 1);
        assert_eq!(answers.count(), 0, "{state}: {events:?}");
        self.has_heard_no_more();
    }
}

/// The names of the columns.
fn verbs() -> Vec<&'static str> {
    let (_, names) = TABLE.trim().lines().next().and_then(|line| line.split_once('|')).expect("a head");
    names.split_whitespace().collect()
}

#[test]
fn every_verb_is_answered_in_every_state_as_the_table_says() {
    let world = World::start(2, "durability = 'memory'", "");
    let rows = TABLE.trim().lines().skip(1).filter(|line| !line.is_empty());
    let rows = rows.map(|line| line.split_once('|').expect("a name and its cells"));
    let jobs: Vec<_> = rows.flat_map(|row| Form::ALL.map(|form| (row, form))).collect();
    let differences = Mutex::new(Vec::new());
    each_at_once(&jobs, |&((state, cells), form)| {
        let cells: Vec<&str> = cells.split_whitespace().collect();
        let (scene, state) = (Scene::new(&world, form), state.trim());
        match cells[..] {
            ["shut", code, close_code] => scene.must_be_shut(state, code, close_code.parse().expect("a number")),
            _ => {
                assert_eq!(cells.len(), verbs().len(), "{state}");
                differences.lock().expect("nobody panics with it").extend(scene.differs(state, &cells));
            }
        }
    });
    let differences = differences.into_inner().expect("nobody panicked with it");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
