//! A room, who asks about it, and who hears what comes of that.

use std::cell::RefCell;

use banter_access::mint::{ClaimsToMint, SigningKey, mint_raw};
use banter_access::rights::Rights;
use banter_tests::access_world::{AUDIENCE, ISSUER, SECRET, World, claims, code, now_seconds, token};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

/// A room, a user, and a member of the room who hears what the user brings about.
pub struct Scene<'w> {
    pub world: &'w World,
    pub form: Form,
    pub room: String,
    pub user: String,
    pub epoch: Value,
    witness: RefCell<WireClient>,
}

/// A connection in the state.
pub struct Came {
    pub client: WireClient,
    /// What it says for a hello.
    pub hello: Value,
    /// Whether it has said one that was taken.
    pub is_greeted: bool,
}

impl<'w> Scene<'w> {
    pub fn new(world: &'w World, form: Form) -> Self {
        let (room, user) = (world.fresh("room"), world.fresh("user"));
        let mut witness = world.comes_in(form, &claims(&world.fresh("witness"), &[("*", Rights::MEMBER)]));
        let epoch = witness.join(&room)["epoch"].clone();
        for body in ["one", "two"] {
            witness.post(&room, json!(body));
            witness.take_type("message");
        }
        Scene { world, form, room, user, epoch, witness: RefCell::new(witness) }
    }

    pub fn claims(&self, rights: Rights) -> ClaimsToMint {
        claims(&self.user, &[(&self.room, rights)])
    }

    pub fn member(&self) -> ClaimsToMint {
        self.claims(Rights::MEMBER)
    }

    /// Rights in another room alone.
    pub fn stranger(&self) -> ClaimsToMint {
        claims(&self.user, &[("elsewhere", Rights::MEMBER)])
    }

    pub fn comes_in(&self, claims: &ClaimsToMint) -> WireClient {
        self.world.comes_in(self.form, claims)
    }

    /// One that has joined.
    pub fn reads(&self, claims: &ClaimsToMint) -> WireClient {
        let mut client = self.comes_in(claims);
        client.join(&self.room);
        client
    }

    /// One that has joined with a token for the room.
    pub fn reads_by(&self, own: &ClaimsToMint, room_token: &ClaimsToMint) -> WireClient {
        let mut client = self.comes_in(own);
        assert_eq!(code(&client.ask(self.join_by(&token(room_token)))), "joined");
        client
    }

    pub fn join_by(&self, token: &str) -> Value {
        json!({"type": "join", "room": self.room, "token": token})
    }

    pub fn is_removed(&self, client: &mut WireClient, code: &str) {
        assert_eq!(client.take_type("removed"), json!({"type": "removed", "room": self.room, "code": code}));
    }

    /// One that has said nothing, and that hello.
    pub fn says(&self, mut hello: Value) -> Came {
        hello["type"] = json!("hello");
        Came { client: WireClient::connect(self.world.address(), self.form), hello, is_greeted: false }
    }

    pub fn shows(&self, token: &str) -> Came {
        self.says(json!({"token": token}))
    }

    pub fn signed_under(&self, header: &str) -> String {
        let now = now_seconds();
        let claims = json!({"sub": self.user, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600});
        mint_raw(&SigningKey::from_secret(SECRET.as_bytes()).expect("a key"), header, &claims.to_string())
            .expect("a token")
    }

    /// A token whose user, session and own name can be revoked.
    pub fn revocable(&self) -> (ClaimsToMint, String, String) {
        let (session, id) = (self.world.fresh("session"), self.world.fresh("token"));
        let named = ClaimsToMint { session: Some(session.clone()), token_id: Some(id.clone()), ..self.member() };
        (named, session, id)
    }

    /// What a verb sends.
    pub fn request(&self, verb: &str, came: &Came) -> Value {
        let room = &self.room;
        match verb {
            "hello" => came.hello.clone(),
            "join" => json!({"type": "join", "room": room}),
            "after" => json!({"type": "join", "room": room, "after": {"epoch": self.epoch, "sequence": 1}}),
            "last" => json!({"type": "join", "room": room, "last": 1}),
            "presence" => json!({"type": "join", "room": room, "presence": true}),
            "post" | "signal" => json!({"type": verb, "room": room, "body": verb}),
            "fetch" => json!({"type": "fetch", "room": room, "after": 0}),
            "members" | "leave" => json!({"type": verb, "room": room}),
            "ping" => json!({"type": "ping"}),
            "renew" => renewal(&self.member()),
            other => panic!("{other} is no verb"),
        }
    }

    /// Asks by a verb, and gives the table's word for the answer.
    pub fn asks(&self, verb: &str, came: &mut Came) -> String {
        let request = self.request(verb, came);
        let answer = if verb == "signal" { signals(&mut came.client, request) } else { came.client.ask(request) };
        let own = match verb {
            "hello" => "welcome",
            "join" | "after" | "last" | "presence" => "joined",
            "post" => "posted",
            "fetch" => "page",
            "members" => "members",
            "leave" => "left",
            "renew" => "renewed",
            _ => "pong",
        };
        match &*code(&answer) {
            "bad_request" => "bad",
            "unauthorized" => "unau",
            "expired" => "expi",
            "forbidden" => "forb",
            "not_joined" => "noj",
            code if code == own => {
                self.has_done(verb, &answer, &mut came.client);
                "ok"
            }
            _ => return answer.to_string(),
        }
        .to_owned()
    }

    /// What is answered so was done.
    pub fn has_done(&self, verb: &str, answer: &Value, client: &mut WireClient) {
        match verb {
            "post" | "signal" => {
                let kind = if verb == "post" { "message" } else { "signal" };
                let is_it = |event: &Value| event["type"] == kind && event["user"] == *self.user;
                self.witness.borrow_mut().take("what was said", is_it);
            }
            "fetch" => assert!(answer["messages"].as_array().is_some_and(|messages| messages.len() >= 2), "{answer}"),
            "members" => assert!(answer["count"].as_u64().is_some_and(|count| count >= 1), "{answer}"),
            "renew" => {
                let fetch = json!({"type": "fetch", "room": self.room, "after": 0});
                assert_eq!(code(&client.ask(fetch)), "page", "the new token's rights hold");
            }
            _ => {}
        }
    }

    /// Nothing that was refused came into the room.
    pub fn has_heard_no_more(self) {
        let mut witness = self.witness.into_inner();
        witness.post(&self.room, json!("end"));
        loop {
            let event = witness.next_event();
            assert_ne!(event["user"], *self.user, "this was refused: {event}");
            if event["body"] == "end" {
                return;
            }
        }
    }
}

/// A signal has no answer: a refusal of it, or the answer to what was asked behind it.
fn signals(client: &mut WireClient, mut signal: Value) -> Value {
    const IDS: [u64; 2] = [1_000_000, 1_000_001];
    signal["id"] = json!(IDS[0]);
    client.send(&signal.to_string());
    client.send(&json!({"type": "ping", "id": IDS[1]}).to_string());
    let first = client.take("an answer", |event| IDS.iter().any(|id| event["id"] == *id));
    if first["id"] == IDS[1] {
        return if first["type"] == "pong" { json!({"type": "pong"}) } else { first };
    }
    client.answer_to(IDS[1]);
    first
}

pub fn renewal(claims: &ClaimsToMint) -> Value {
    json!({"type": "renew", "token": token(claims)})
}
