//! The way into each state of the table.

use banter_access::mint::ClaimsToMint;
use banter_access::rights::Rights;
use banter_tests::access_world::{claims, code, ending, greeted, now_seconds, signed, token};
use banter_tests::server_process::wait_until;
use banter_tests::wire_client::{WireClient, stream_from};
use serde_json::json;

use super::scene::{Came, Scene, renewal};

const OTHER_SECRET: &str = "another secret of more than thirty-two bytes";

impl Scene<'_> {
    /// Brings a connection into the state.
    pub fn enters(&self, state: &str) -> Came {
        let world = self.world;
        let parts =
            |token: &str| token.rsplit_once('.').map(|(message, signature)| (message.to_owned(), signature.to_owned()));
        let in_time = |change: &dyn Fn(&mut ClaimsToMint)| {
            let mut claims = self.member();
            change(&mut claims);
            self.shows(&token(&claims))
        };
        let client = match state {
            "before hello" => return self.shows(&token(&self.member())),
            "no token" => return self.says(json!({"user": self.user})),
            "a guest, and there are none" => return self.says(json!({})),
            "another token's signature" => {
                let (message, _) = parts(&token(&self.member())).expect("a token");
                let (_, signature) = parts(&token(&self.stranger())).expect("a token");
                return self.shows(&format!("{message}.{signature}"));
            }
            "another key" => {
                return self.shows(&signed(OTHER_SECRET, &self.member()));
            }
            "alg none" => {
                let (message, _) = parts(&self.signed_under(r#"{"alg":"none"}"#)).expect("a token");
                return self.shows(&format!("{message}."));
            }
            "alg swapped" => return self.shows(&self.signed_under(r#"{"alg":"EdDSA"}"#)),
            "expired" => {
                return in_time(&|it| {
                    (it.issued_seconds, it.expires_seconds) = (now_seconds() - 90, now_seconds() - 30)
                });
            }
            "not yet valid" => return in_time(&|it| it.not_before_seconds = Some(now_seconds() + 60)),
            "for another audience" => return in_time(&|it| it.audience = Some("mail".to_owned())),
            "of another issuer" => return in_time(&|it| it.issuer = Some("https://evil.example".to_owned())),
            "another user's than hello says" => {
                return self
                    .says(json!({"user": self.user, "token": token(&claims("bob", &[(&self.room, Rights::MEMBER)]))}));
            }
            "the third token that is refused" => {
                let mut came = self.shows("a.b.c");
                for _ in 0..2 {
                    assert_eq!(code(&came.client.ask(came.hello.clone())), "unauthorized");
                }
                return came;
            }
            "its user was revoked" | "its session was revoked" | "its token was revoked" => {
                let (claims, session, id) = self.revocable();
                world.revoke(&match state {
                    "its user was revoked" => json!({"user": self.user}),
                    "its session was revoked" => json!({"session": session}),
                    _ => json!({"token": id}),
                });
                return self.shows(&token(&claims));
            }
            "its address was revoked" => {
                let address = world.fresh_address();
                world.revoke(&json!({"address": address.to_string()}));
                let client = WireClient::over(stream_from(address, world.address()), self.form);
                return Came { client, ..self.shows(&token(&self.member())) };
            }
            "a member" => self.reads(&self.member()),
            "a member who has not joined" => self.comes_in(&self.member()),
            "another room" => self.comes_in(&self.stranger()),
            "a room whose name begins like the token's" => {
                let shorter = &self.room[..self.room.len() - 1];
                self.comes_in(&claims(
                    &self.user,
                    &[(shorter, Rights::MEMBER), (&format!("{}-*", self.room), Rights::MEMBER)],
                ))
            }
            // The room is `room-N`, and nobody but the user `N` has it by that pattern.
            "a room that is another user's own" => {
                self.comes_in(&claims(&self.user, &[("room-{user}", Rights::MEMBER)]))
            }
            "no right to read" => self.comes_in(&self.claims(Rights::MEMBER.minus(Rights::READ))),
            "no right to write" => self.reads(&self.claims(Rights::MEMBER.minus(Rights::WRITE))),
            "no right to signal" => self.reads(&self.claims(Rights::MEMBER.minus(Rights::SIGNAL))),
            "no right to presence" => self.reads(&self.claims(Rights::MEMBER.minus(Rights::PRESENCE))),
            "no right to history" => self.reads(&self.claims(Rights::MEMBER.minus(Rights::HISTORY))),
            "no right but that of [[rooms]]" => {
                world.open(&self.room);
                self.reads(&self.stranger())
            }
            "the token has ended" => {
                let mut client = self.reads(&ending(self.member()));
                let fetch = json!({"type": "fetch", "room": self.room, "after": 0});
                wait_until("the token has ended", || code(&client.ask(fetch.clone())) == "expired");
                client
            }
            "the token has ended, and the grace is over" => self.reads(&ending(self.member())),
            "a room token" => self.reads_by(&self.stranger(), &self.member()),
            "another user's room token" => {
                let mut client = self.comes_in(&self.stranger());
                let of_another = token(&claims("bob", &[(&self.room, Rights::MEMBER)]));
                assert_eq!(code(&client.ask(self.join_by(&of_another))), "forbidden");
                client
            }
            "another room's room token" => {
                let mut client = self.comes_in(&self.stranger());
                let of_another = token(&claims(&self.user, &[("deal-8", Rights::MEMBER)]));
                assert_eq!(code(&client.ask(self.join_by(&of_another))), "forbidden");
                client
            }
            // A token that comes with a join holds in that room, whatever else it names.
            "a room token, and another room" => {
                let mut client = self.comes_in(&claims(&self.user, &[]));
                let of_both = token(&claims(&self.user, &[("deal-8", Rights::MEMBER), (&self.room, Rights::MEMBER)]));
                let join = json!({"type": "join", "room": "deal-8", "token": of_both});
                assert_eq!(code(&client.ask(join)), "joined");
                client
            }
            "a room token that proves nothing" => {
                let mut client = self.comes_in(&self.stranger());
                let forged = signed(OTHER_SECRET, &self.member());
                assert_eq!(code(&client.ask(self.join_by(&forged))), "unauthorized");
                let over = ClaimsToMint {
                    expires_seconds: now_seconds() - 60,
                    issued_seconds: now_seconds() - 90,
                    ..self.member()
                };
                assert_eq!(code(&client.ask(self.join_by(&token(&over)))), "expired");
                client
            }
            "a room token, and the room was left" => {
                let mut client = self.reads_by(&self.stranger(), &self.member());
                assert_eq!(code(&client.ask(json!({"type": "leave", "room": self.room}))), "left");
                client
            }
            "a room token, and a smaller one behind it" | "the same, with a join that was refused" => {
                let mut client = self.reads_by(&self.stranger(), &self.member());
                let mut join = self.join_by(&token(&self.claims(Rights::READ)));
                if state.ends_with("refused") {
                    join["after"] = json!({"epoch": 1, "sequence": 0});
                    assert_eq!(code(&client.ask(join)), "wrong_epoch");
                } else {
                    assert_eq!(code(&client.ask(join)), "joined");
                }
                client
            }
            "a room token that has ended" => {
                let mut client = self.reads_by(&self.stranger(), &ending(self.member()));
                self.is_removed(&mut client, "expired");
                client
            }
            "a room token that was revoked" => {
                let (room_token, session, _) = self.revocable();
                let mut client = self.reads_by(&self.stranger(), &room_token);
                world.revoke(&json!({"session": session}));
                self.is_removed(&mut client, "revoked");
                assert_eq!(code(&client.ask(self.join_by(&token(&room_token)))), "revoked", "and it stays open");
                client
            }
            "a room token that was revoked, beside `read`" => {
                let (room_token, _, id) = self.revocable();
                let mut client = self.reads_by(&self.claims(Rights::READ), &room_token);
                world.revoke(&json!({"token": id}));
                let members = json!({"type": "members", "room": self.room});
                wait_until("it is gone", || code(&client.ask(members.clone())) == "forbidden");
                client
            }
            "renewed with more rights" => {
                let mut client = self.reads(&self.claims(Rights::READ));
                assert_eq!(code(&client.ask(renewal(&self.member()))), "renewed");
                client
            }
            "renewed with `read` alone" => {
                let mut client = self.reads(&self.member());
                assert_eq!(code(&client.ask(renewal(&self.claims(Rights::READ)))), "renewed");
                client
            }
            "renewed without a right" => {
                let mut client = self.reads(&self.member());
                assert_eq!(code(&client.ask(renewal(&self.stranger()))), "renewed");
                self.is_removed(&mut client, "forbidden");
                client
            }
            "renewals that were refused" => {
                let mut client = self.reads(&self.member());
                assert_eq!(code(&client.ask(renewal(&claims("bob", &[])))), "forbidden");
                let forged = signed(OTHER_SECRET, &self.stranger());
                assert_eq!(code(&client.ask(json!({"type": "renew", "token": forged}))), "unauthorized");
                client
            }
            "a right of [[rooms]] that a reload took" => {
                world.open(&self.room);
                let mut client = self.reads(&self.stranger());
                world.close(&self.room);
                self.is_removed(&mut client, "forbidden");
                client
            }
            "a right of [[rooms]] that a reload gave" => {
                world.close(&self.room);
                let mut client = self.comes_in(&self.stranger());
                assert_eq!(code(&client.ask(json!({"type": "join", "room": self.room}))), "forbidden");
                world.open(&self.room);
                client
            }
            "kicked" => {
                let mut client = self.reads(&self.member());
                world.kick(&self.room, &self.user);
                self.is_removed(&mut client, "kicked");
                client
            }
            "revoked were older tokens of the user" => {
                world.revoke(&json!({"user": self.user, "issued_before": now_seconds() - 60}));
                self.reads(&self.member())
            }
            "revoked was the token before the renewal" => {
                let (named, _, id) = self.revocable();
                let mut client = self.reads(&named);
                assert_eq!(code(&client.ask(renewal(&self.member()))), "renewed");
                world.revoke(&json!({"token": id}));
                client
            }
            "revoked, and taken back" => {
                world.revoke(&json!({"user": self.user}));
                world.lift(&format!("user={}", self.user));
                self.reads(&self.member())
            }
            "its user is revoked while it is there"
            | "its session is revoked while it is there"
            | "its token is revoked while it is there" => {
                let (named, session, id) = self.revocable();
                let client = self.reads(&named);
                world.revoke(&match state.split(' ').nth(1) {
                    Some("user") => json!({"user": self.user}),
                    Some("session") => json!({"session": session}),
                    _ => json!({"token": id}),
                });
                client
            }
            "its address is revoked while it is there" => {
                let address = world.fresh_address();
                let client = WireClient::over(stream_from(address, world.address()), self.form);
                let client = greeted(client, &self.member());
                world.revoke(&json!({"address": format!("{address}/32")}));
                client
            }
            "disconnected" => {
                let client = self.reads(&self.member());
                world.disconnect(&self.user);
                client
            }
            other => panic!("nobody knows the way into this state: {other}"),
        };
        let hello = json!({"type": "hello", "token": token(&self.member())});
        Came { client, hello, is_greeted: true }
    }
}
