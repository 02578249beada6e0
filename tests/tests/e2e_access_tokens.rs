//! End to end: which tokens are taken and which are refused, wherever one can be shown, over every wire form.
//!
//! A name that begins with a number is that of a section of RFC 8725. What stands in the table comes from it, and from
//! docs/access.md.

use std::fs;
use std::sync::Mutex;

use banter_access::mint::{SigningKey, mint_raw};
use banter_access::rights::Rights;
use banter_access::token::TOKEN_BYTES_MAX;
use banter_tests::access_world::{
    AUDIENCE, ED25519, ED25519_PUBLIC, ISSUER, KID, P256, SECRET, World, claims, closed_with, code, each_at_once,
    now_seconds, token,
};
use banter_tests::server_process::run_to_end;
use banter_tests::wire_client::{Form, WireClient};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The room that tokens of the table give rights in, and the one that the connections have anyway.
const ROOM: &str = "deal";
const OWN_ROOM: &str = "lobby";

const OTHER_ED25519: &str = include_str!("../../access/tests/keys/ed25519-b.pem");
const OTHER_P256: &str = include_str!("../../access/tests/keys/p256-b.pem");

/// A token, and what becomes of whoever shows it: `taken`, or the code of the refusal.
struct Row {
    name: String,
    token: String,
    verdict: &'static str,
}

/// The rows, as they are made.
#[derive(Default)]
struct Table {
    rows: Vec<Row>,
}

impl Table {
    fn add(&mut self, name: &str, token: String, verdict: &'static str) {
        self.rows.push(Row { name: name.to_owned(), token, verdict });
    }

    fn refuses(&mut self, name: &str, token: String) {
        self.add(name, token, "unauthorized");
    }

    /// Refused: a token with that header, signed by the key that it should be signed by.
    fn refuses_header(&mut self, name: &str, header: &str) {
        self.refuses(&format!("{name}: {header}"), raw(&secret(), header, &payload("")));
    }

    /// Refused: a token in whose claims this stands for that of its name; nothing: it is left out.
    fn refuses_claim(&mut self, name: &str, claim: &str, value: &str) {
        let token = raw(&secret(), HS256, &with_claim(claim, value));
        self.refuses(&format!("{name}: {claim} = {value:.60}"), token);
    }
}

const HS256: &str = r#"{"alg":"HS256"}"#;

fn secret() -> SigningKey {
    SigningKey::from_secret(SECRET.as_bytes()).expect("a key")
}

fn key(pem: &str) -> SigningKey {
    SigningKey::from_pem(pem).expect("a key")
}

fn raw(key: &SigningKey, header: &str, payload: &str) -> String {
    mint_raw(key, header, payload).expect("a token")
}

fn part(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

/// Claims that hold, each as it stands in JSON.
fn good_claims<'a>() -> Vec<(&'a str, String)> {
    let now = now_seconds();
    vec![
        ("sub", "\"ann\"".to_owned()),
        ("iss", format!("\"{ISSUER}\"")),
        ("aud", format!("\"{AUDIENCE}\"")),
        ("iat", now.to_string()),
        ("exp", (now + 600).to_string()),
        ("banter", format!("{{\"rooms\":{{\"{ROOM}\":\"member\"}}}}")),
    ]
}

fn written(claims: &[(&str, String)], more: &str) -> String {
    let claims: Vec<String> = claims.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}{more}}}", claims.join(","))
}

fn payload(more: &str) -> String {
    written(&good_claims(), more)
}

/// Claims of which one is another; nothing: it is left out.
fn with_claim(claim: &str, value: &str) -> String {
    let mut claims = good_claims();
    claims.retain(|(name, _)| *name != claim);
    if !value.is_empty() {
        claims.push((claim, value.to_owned()));
    }
    written(&claims, "")
}

fn table() -> Vec<Row> {
    let mut table = Table::default();
    algorithms(&mut table);
    signatures(&mut table);
    headers(&mut table);
    parties(&mut table);
    times(&mut table);
    forms(&mut table);
    table.rows
}

fn algorithms(table: &mut Table) {
    let good = payload("");
    table.add("the secret's own", raw(&secret(), HS256, &good), "taken");
    table.add("the key's own", raw(&key(ED25519), r#"{"alg":"EdDSA"}"#, &good), "taken");
    table.add("the named key's own", raw(&key(P256), &format!(r#"{{"alg":"ES256","kid":"{KID}"}}"#), &good), "taken");
    table.add("no kid, and one of the keys", raw(&key(P256), r#"{"alg":"ES256"}"#, &good), "taken");
    for (signer, named) in [(secret(), ["EdDSA", "ES256", "RS256"]), (key(ED25519), ["HS256", "ES256", "RS256"])] {
        for named in named {
            let token = raw(&signer, &format!(r#"{{"alg":"{named}"}}"#), &good);
            table.refuses(&format!("3.1 {:?} that says {named}", signer.algorithm()), token);
        }
    }
    for public in [ED25519_PUBLIC, ED25519_PUBLIC.trim_end()] {
        let forger = SigningKey::from_secret(public.as_bytes()).expect("long enough");
        table.refuses("2.1 HS256 with the public key for a secret", raw(&forger, HS256, &good));
        table.refuses(
            "2.1 the same under a key's name",
            raw(&forger, &format!(r#"{{"alg":"HS256","kid":"{KID}"}}"#), &good),
        );
    }
    for name in ["HS384", "HS512", "RS512", "PS256", "ES384", "Ed25519", "hs256", "HS256 ", "", "A128KW"] {
        table.refuses_header("3.1 no algorithm of a key", &format!(r#"{{"alg":"{name}"}}"#));
    }
    for name in ["none", "None", "NONE", "nOnE"] {
        let header = format!(r#"{{"alg":"{name}"}}"#);
        table.refuses(&format!("3.2 {name}, and unsigned"), format!("{}.{}.", part(&header), part(&good)));
        table.refuses_header("3.2 signed", &header);
    }
}

fn signatures(table: &mut Table) {
    let good = payload("");
    let token = raw(&secret(), HS256, &good);
    let (message, signature) = token.rsplit_once('.').expect("a token");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(signature).expect("base64");
    let signed = |bytes: &[u8]| format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
    let flipped: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 31)).collect();
    table.refuses("3.3 a bit of the signature", signed(&flipped));
    table.refuses("3.3 half of the signature", signed(&bytes[..16]));
    table.refuses("3.3 no signature", format!("{message}."));
    table.refuses("3.3 the signature and a byte", signed(&[&bytes[..], &[0]].concat()));
    let (header, _) = message.split_once('.').expect("a token");
    table.refuses("3.3 other claims", format!("{header}.{}.{signature}", part(&payload(",\"x\":1"))));
    table.refuses(
        "3.3 another header",
        format!("{}.{}.{signature}", part(r#"{"alg":"HS256","typ":"JWT"}"#), part(&good)),
    );
    table.refuses("3.3 another key", raw(&key(OTHER_ED25519), r#"{"alg":"EdDSA"}"#, &good));
    table.refuses(
        "3.3 another key of the name",
        raw(&key(OTHER_P256), &format!(r#"{{"alg":"ES256","kid":"{KID}"}}"#), &good),
    );
    table.refuses("3.3 another secret", raw(&SigningKey::from_secret(&[7; 32]).expect("a key"), HS256, &good));
    table.refuses("3.3 encrypted", format!("{}.key.iv.text.tag", part(r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#)));
    table.refuses("3.3 a token in a token", raw(&secret(), r#"{"alg":"HS256","cty":"JWT"}"#, &token));
}

fn headers(table: &mut Table) {
    let jwk = key(OTHER_ED25519).public_jwk().expect("a key").expect("a public one");
    for (name, header) in [
        ("3.6 compressed", r#"{"alg":"HS256","zip":"DEF"}"#),
        ("3.10 brings its key", r#"{"alg":"HS256","jku":"https://evil.example/jwks"}"#),
        ("3.10 brings its key", r#"{"alg":"HS256","x5u":"https://evil.example/x5u"}"#),
        ("3.10 brings its key", r#"{"alg":"HS256","x5c":["MIIB"]}"#),
        ("3.10 brings its key", &format!(r#"{{"alg":"HS256","jwk":{jwk}}}"#)),
        ("3.10 names no key", r#"{"alg":"HS256","kid":7}"#),
        ("3.10 names another key", &format!(r#"{{"alg":"HS256","kid":"{KID}"}}"#)),
        ("RFC 7515, 4.1.11", r#"{"alg":"HS256","crit":["exp"]}"#),
        ("RFC 7515, 4.1.11", r#"{"alg":"HS256","crit":[]}"#),
        ("RFC 7797", r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#),
        ("3.11 another kind", r#"{"alg":"HS256","typ":"dpop+jwt"}"#),
        ("3.11 another kind", r#"{"alg":"HS256","typ":"logout+jwt"}"#),
        ("3.11 another kind", r#"{"alg":"HS256","typ":7}"#),
        ("no header", "[]"),
        ("no header", r#"{"typ":"JWT"}"#),
        ("a name twice", r#"{"alg":"HS256","alg":"HS256"}"#),
    ] {
        table.refuses_header(name, header);
    }
    // A name that no key has means the keys without one, and nothing is looked up by it.
    for kid in ["three", "../../dev/null", "' OR 1=1 --", ""] {
        let header = |name: &str| format!(r#"{{"alg":"{name}","kid":"{kid}"}}"#);
        table.refuses(&format!("3.10 the named key's under {kid:?}"), raw(&key(P256), &header("ES256"), &payload("")));
        table.add(&format!("3.10 the secret's under {kid:?}"), raw(&secret(), &header("HS256"), &payload("")), "taken");
    }
    let forger = key(OTHER_ED25519);
    table.refuses(
        "3.10 signed by the key that it brings",
        raw(&forger, &format!(r#"{{"alg":"EdDSA","jwk":{jwk}}}"#), &payload("")),
    );
    for header in [
        r#"{"alg":"HS256","typ":"JWT"}"#,
        r#"{"alg":"HS256","typ":"jwt"}"#,
        r#"{"alg":"HS256","typ":"at+jwt"}"#,
        r#"{"alg":"HS256","x5t":"abc","cty":"x"}"#,
    ] {
        table.add(&format!("3.11 {header}"), raw(&secret(), header, &payload("")), "taken");
    }
}

fn parties(table: &mut Table) {
    for (claim, value) in [
        ("iss", ""),
        ("iss", "\"https://evil.example\""),
        ("iss", "\"https://id.example.com/\""),
        ("iss", "[\"https://id.example.com\"]"),
        ("iss", "null"),
        ("sub", ""),
        ("sub", "\"\""),
        ("sub", "7"),
        ("sub", "\"~guest\""),
        ("sub", "\"a\\nb\""),
        ("sub", &format!("\"{}\"", "x".repeat(65))),
    ] {
        table.refuses_claim("3.8", claim, value);
    }
    for value in ["", "\"mail\"", "[]", "[\"mail\"]", "\"banter \"", "7", "[\"banter\",7]"] {
        table.refuses_claim("3.9", "aud", value);
    }
    let several = with_claim("aud", "[\"mail\",\"banter\"]");
    table.add("3.9 for this server, too", raw(&secret(), HS256, &several), "taken");
    for value in [
        "[]",
        "{\"rooms\":[\"deal\"]}",
        "{\"rooms\":{\"deal\":\"king\"}}",
        "{\"rooms\":{\"de*l\":\"member\"}}",
        "{\"rooms\":{\"deal\":\"member\",\"deal\":[]}}",
        "{\"posts_per_second\":0}",
        "{\"posts_per_second\":\"5\"}",
    ] {
        table.refuses_claim("rights", "banter", value);
    }
    let many: Vec<String> = (0..65).map(|room| format!("\"room-{room}\":[]")).collect();
    table.refuses_claim("65 patterns", "banter", &format!("{{\"rooms\":{{{}}}}}", many.join(",")));
    for (claim, value) in [("jti", "7"), ("jti", "\"\""), ("sid", "null"), ("sid", &format!("\"{}\"", "s".repeat(256)))]
    {
        table.refuses_claim("ids", claim, value);
    }
}

fn times(table: &mut Table) {
    let now = now_seconds();
    for (claim, value) in [("exp", String::new()), ("iat", String::new())] {
        table.refuses_claim("3.12 is missing", claim, &value);
    }
    // CVE-2026-25537: an end in a wrong form is none that never comes.
    for claim in ["exp", "iat", "nbf"] {
        let time = if claim == "exp" { now + 600 } else { now };
        for value in [
            "null".to_owned(),
            "true".to_owned(),
            "-1".to_owned(),
            "{}".to_owned(),
            format!("\"{time}\""),
            format!("{time}.0"),
            format!("{time}e0"),
            format!("[{time}]"),
            format!("{time}000"),
            "99999999999999999999".to_owned(),
        ] {
            table.refuses_claim("CVE-2026-25537", claim, &value);
        }
    }
    for (claim, seconds) in [("iat", now + 500), ("nbf", now + 500), ("exp", now + 24 * 3_600 + 60)] {
        table.refuses_claim("not now, or for too long", claim, &seconds.to_string());
    }
    table.refuses_claim("made long ago", "iat", "0");
    let lasting = |issued: u64, expires: u64| {
        let mut claims = good_claims();
        claims.retain(|(name, _)| !matches!(*name, "iat" | "exp"));
        claims.extend([("iat", issued.to_string()), ("exp", expires.to_string())]);
        raw(&secret(), HS256, &written(&claims, ""))
    };
    table.add("ended a minute ago", lasting(now - 600, now - 60), "expired");
    table.add("ended in 1970", lasting(0, 1), "expired");
    table.add("as long as may be", lasting(now, now + 24 * 3_600), "taken");
    table.add("begun", raw(&secret(), HS256, &with_claim("nbf", &(now - 60).to_string())), "taken");
}

fn forms(table: &mut Table) {
    let good = payload("");
    let token = raw(&secret(), HS256, &good);
    let (message, signature) = token.rsplit_once('.').expect("a token");
    let plain = BASE64_STANDARD.encode(BASE64_URL_SAFE_NO_PAD.decode(signature).expect("base64"));
    for (name, text) in [
        ("no token", "abc".to_owned()),
        ("three parts of nothing", "..".to_owned()),
        ("four parts", format!("{token}.x")),
        ("two parts", message.to_owned()),
        ("padded", format!("{token}=")),
        ("base64 with padding", format!("{message}.{plain}")),
        ("a blank ahead", format!(" {token}")),
        ("a line end behind", format!("{token}\n")),
        ("letters that are none of base64", "ü.ü.ü".to_owned()),
        ("claims that are no object", raw(&secret(), HS256, "[]")),
        ("claims that are no JSON", raw(&secret(), HS256, "sub=ann")),
        ("3.7 claims that are no Unicode", raw(&secret(), HS256, &with_claim("sub", "\"\\ud800\""))),
        ("a claim twice", raw(&secret(), HS256, &payload(",\"sub\":\"bob\""))),
        ("deep claims", raw(&secret(), HS256, &payload(&format!(",\"x\":{}{}", "[".repeat(200), "]".repeat(200))))),
    ] {
        table.refuses(name, text);
    }
    let padded = |bytes: usize| raw(&secret(), HS256, &payload(&format!(",\"x\":\"{}\"", "x".repeat(bytes))));
    let fits = (2_600..3_100).map(padded).rfind(|token| token.len() <= TOKEN_BYTES_MAX).expect("one");
    table.add("as many bytes as may be", fits, "taken");
    table.refuses("more bytes", (2_600..3_100).map(padded).find(|token| token.len() > TOKEN_BYTES_MAX).expect("one"));
    table.refuses("many more bytes", padded(30_000));
}

/// Where a token can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Hello,
    Upgrade,
    Renew,
    Join,
}

impl Place {
    const ALL: [Place; 4] = [Place::Hello, Place::Upgrade, Place::Renew, Place::Join];

    /// Whether a token can be shown there over that form. A header holds neither blanks nor line ends, and 8 KiB at most.
    fn is_there(self, form: Form, token: &str) -> bool {
        let fits_header = token.is_ascii() && !token.contains([' ', '\n']) && token.len() < 7_000;
        self != Place::Upgrade || (form != Form::Native && fits_header)
    }

    /// A connection that can show one.
    fn connects(self, world: &World, form: Form, token: &str) -> WireClient {
        match self {
            Place::Hello => WireClient::connect(world.address(), form),
            Place::Upgrade => {
                let stream = std::net::TcpStream::connect(world.address()).expect("the server accepts");
                WireClient::with_headers(stream, form, &[("authorization", &format!("Bearer {token}"))])
            }
            Place::Renew | Place::Join => {
                let mut client = world.comes_in(form, &claims("ann", &[(OWN_ROOM, Rights::MEMBER)]));
                client.join(OWN_ROOM);
                client
            }
        }
    }

    fn shows(self, token: &str) -> Value {
        match self {
            Place::Hello => json!({"type": "hello", "token": token}),
            Place::Upgrade => json!({"type": "hello"}),
            Place::Renew => json!({"type": "renew", "token": token}),
            Place::Join => json!({"type": "join", "room": ROOM, "token": token}),
        }
    }

    fn own_answer(self) -> &'static str {
        match self {
            Place::Hello | Place::Upgrade => "welcome",
            Place::Renew => "renewed",
            Place::Join => "joined",
        }
    }

    /// Who was refused has what it had before, and no more.
    fn has_changed_nothing(self, client: &mut WireClient) {
        let post = |client: &mut WireClient, room| code(&client.ask(json!({"type": "post", "room": room, "body": 1})));
        match self {
            Place::Hello | Place::Upgrade => assert_eq!(post(client, ROOM), "bad_request"),
            Place::Renew | Place::Join => {
                assert_eq!(
                    (post(client, OWN_ROOM), post(client, ROOM)),
                    ("posted".to_owned(), "not_joined".to_owned())
                );
                assert_eq!(code(&client.ask(json!({"type": "join", "room": ROOM}))), "forbidden");
            }
        }
    }
}

/// Whoever shows such a token somewhere gets the table's verdict, no right by it, and two more tries.
fn check(world: &World, form: Form, place: Place, row: &Row) {
    let what = format!("{}, {place:?}, {form:?}", row.name);
    let mut client = place.connects(world, form, &row.token);
    let shown = place.shows(&row.token);
    let answer = client.ask(shown.clone());
    if row.verdict == "taken" {
        assert_eq!(code(&answer), place.own_answer(), "{what}: {answer}");
        let post = json!({"type": "post", "room": ROOM, "body": 1});
        if place != Place::Join {
            client.join(ROOM);
        }
        assert_eq!(code(&client.ask(post)), "posted", "{what}");
        return;
    }
    assert_eq!(code(&answer), row.verdict, "{what}: {answer}");
    place.has_changed_nothing(&mut client);
    for _ in 0..2 {
        client.send(&shown.to_string());
    }
    let (events, ended) = client.read_to_end();
    let refused = events.iter().filter(|event| event["code"] == row.verdict).count();
    assert_eq!((refused, ended), (2, closed_with(form, 4_401)), "{what}: {events:?}");
    // A good one behind it is taken.
    let mut client = place.connects(world, form, &row.token);
    assert_eq!(code(&client.ask(shown)), row.verdict, "{what}");
    let good = token(&claims("ann", &[(ROOM, Rights::MEMBER)]));
    let shows_good = if place == Place::Upgrade { Place::Hello } else { place }.shows(&good);
    assert_eq!(code(&client.ask(shows_good)), place.own_answer(), "{what}");
}

#[test]
fn each_token_has_its_verdict_wherever_it_is_shown() {
    let world = World::start(2, "durability = 'memory'", "");
    let table = table();
    let places = |row| Place::ALL.into_iter().map(move |place| (row, place));
    let shown = table.iter().flat_map(places).flat_map(|(row, place)| Form::ALL.map(|form| (row, place, form)));
    let jobs: Vec<(&Row, Place, Form)> = shown.filter(|(row, place, form)| place.is_there(*form, &row.token)).collect();
    let failed = Mutex::new(0);
    each_at_once(&jobs, |&(row, place, form)| {
        // All that differ are told, and not the first alone.
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&world, form, place, row)));
        *failed.lock().expect("nobody panics with it") += usize::from(checked.is_err());
    });
    assert_eq!(failed.into_inner().ok(), Some(0), "of {} cases", jobs.len());
    let log = world.log();
    for row in table.iter().filter(|row| row.token.len() > 100) {
        let signature = row.token.rsplit('.').next().unwrap_or_default();
        assert!(signature.len() < 20 || !log.contains(signature), "{}: a token is in no log", row.name);
    }
}

#[test]
fn keys_that_no_token_should_be_checked_with_end_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("text").to_owned()
    };
    let oct = format!(r#"{{"kty":"oct","k":"{}"}}"#, part(SECRET));
    let public = key(P256).public_jwk().expect("a key").expect("a public one");
    for (name, keys, text, says) in [
        ("3.5 a secret of 31 bytes and a line end", "secret_file", "one byte less than it must have\n", "at least 32"),
        ("3.2 RSA of 1024 bits", "keys", include_str!("../../access/tests/keys/rsa1024-a.pub.pem"), "1024 bits"),
        ("3.2 P-384", "keys", include_str!("../../access/tests/keys/p384-a.pub.pem"), "curve"),
        ("3.4 a curve of its own", "keys", include_str!("../../access/tests/keys/p256-explicit.pub.pem"), "curve"),
        ("a private key", "keys", P256, "private key"),
        ("2.1 a secret among public keys", "keys", &oct, "symmetric"),
        ("3.1 a key for encryption", "keys", &public.replace("\"sig\"", "\"enc\""), "not for signatures"),
        ("3.1 a key for another algorithm", "keys", &public.replace("ES256", "ES384"), "not for signatures"),
    ] {
        let path = file("key", text);
        let value = if keys == "keys" { format!("['{path}']") } else { format!("'{path}'") };
        let config = format!("listen = '127.0.0.1:0'\n[auth]\nmode = 'token'\n{keys} = {value}\n");
        let data = folder.path().join("data");
        let args = ["--config", &file("banter.toml", &config), "--data", data.to_str().expect("text")];
        let (code, _, errors) = run_to_end(&args);
        assert!(code == 78 && errors.contains(says) && errors.contains(&path), "{name}: {code}: {errors}");
        assert!(!errors.contains("one byte less"), "{name}: what a secret says is told to nobody: {errors}");
    }
}
