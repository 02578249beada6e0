//! Each claim absent, right, and in every wrong form.

use proptest::prelude::*;

use super::*;

fn read(payload: &str) -> Result<Claims, Refusal> {
    Claims::read(payload.as_bytes(), &Rules::default())
}

/// The claims of `ann` with more.
fn with(more: &str) -> Result<Claims, Refusal> {
    read(&format!(r#"{{"sub":"ann","iat":1,"exp":2{more}}}"#))
}

fn fault(more: &str) -> (ClaimName, ClaimFault) {
    match with(more) {
        Err(Refusal::Claim { claim, fault }) => (claim, fault),
        other => panic!("{more}: {other:?}"),
    }
}

fn names(path: &str) -> Vec<String> {
    path.parse::<ClaimPath>().unwrap().names().map(str::to_owned).collect()
}

#[test]
fn a_path_has_dots_between_its_names() {
    assert_eq!(names("sub"), ["sub"]);
    assert_eq!(names("banter.rooms"), ["banter", "rooms"]);
    assert_eq!(names("cognito:username"), ["cognito:username"]);
    assert_eq!(names(r"a\.b.c\\d"), ["a.b", r"c\d"]);
}

#[test]
fn dots_before_the_last_slash_of_a_namespace_belong_to_its_name() {
    assert_eq!(names("https://example.com/claims.uid"), ["https://example.com/claims", "uid"]);
    assert_eq!(names("http://a.b.c/d/e.f.g"), ["http://a.b.c/d/e", "f", "g"]);
    assert_eq!(names("https://example.com/uid"), ["https://example.com/uid"]);
    assert_eq!(names(r"https://example.com/v1\.2.uid"), ["https://example.com/v1.2", "uid"]);
    assert_eq!(names("https://example.com"), ["https://example", "com"], "no path: its last slash is before the host");
    assert_eq!(names("urn:a/b.c"), ["urn:a/b", "c"]);
}

#[test]
fn a_path_that_is_none_is_refused() {
    let fault = |text: &str| text.parse::<ClaimPath>().unwrap_err();
    for text in ["", ".", "a.", ".a", "a..b", "https://example.com/.a."] {
        assert_eq!(fault(text), ClaimPathFault::EmptyName, "{text}");
    }
    for text in [r"a\", r"a\b", r"\"] {
        assert_eq!(fault(text), ClaimPathFault::Backslash, "{text}");
    }
    assert_eq!(fault(&"a".repeat(257)), ClaimPathFault::TooLong);
    assert_eq!(fault("a.b.c.d.e.f.g.h.i"), ClaimPathFault::TooLong);
    assert_eq!(names("a.b.c.d.e.f.g.h").len(), 8);
    assert_eq!(ClaimPath::rooms(), "banter.rooms".parse().unwrap());
    assert_eq!(ClaimPath::rooms().to_string(), "banter.rooms");
}

#[test]
fn the_least_that_a_token_says_is_enough() {
    let claims = with("").unwrap();
    assert_eq!((claims.user.as_str(), claims.issued_seconds, claims.expires_seconds), ("ann", 1, 2));
    assert_eq!((claims.not_before_seconds, claims.issuer, claims.audiences), (None, None, None));
    assert_eq!((claims.token_id, claims.session, claims.posts_per_second), (None, None, None));
    assert!(claims.rooms.is_empty());
    assert!(with(r#","email":"a@b","x":[1.5,null],"banter":{"other":1}"#).is_ok(), "others are not looked at");
}

#[test]
fn everything_that_a_token_says_is_read() {
    let claims = with(
        r#","nbf":1,"iss":"i","aud":"a","jti":"t","sid":"s","banter":{
            "rooms":{"lobby":["read","write"],"team-7-*":"member","inbox-{user}":"moderator","*":[]},
            "posts_per_second":65535}"#,
    )
    .unwrap();
    assert_eq!((claims.not_before_seconds, claims.issuer.as_deref()), (Some(1), Some("i")));
    assert_eq!((claims.token_id.as_deref(), claims.session.as_deref()), (Some("t"), Some("s")));
    assert_eq!((claims.audiences, claims.posts_per_second), (Some(vec!["a".into()]), Some(u16::MAX)));
    let rooms: Vec<_> = claims.rooms.iter().map(|(pattern, rights)| (pattern.as_str(), *rights)).collect();
    assert_eq!(
        rooms,
        [
            ("*", Rights::NONE),
            ("inbox-{user}", Rights::MODERATOR),
            ("lobby", Rights::READ | Rights::WRITE),
            ("team-7-*", Rights::MEMBER),
        ]
    );
}

#[test]
fn a_users_name_keeps_the_rules_of_the_protocol() {
    for (user, wanted) in [
        (r#""""#.to_owned(), ClaimFault::UserName),
        (format!("{:?}", "u".repeat(65)), ClaimFault::UserName),
        (r#""a\n""#.to_owned(), ClaimFault::UserName),
        (r#""a\u0085""#.to_owned(), ClaimFault::UserName),
        (r#""~ann""#.to_owned(), ClaimFault::GuestName),
        ("7".to_owned(), ClaimFault::NotText),
        ("null".to_owned(), ClaimFault::NotText),
        (r#"["ann"]"#.to_owned(), ClaimFault::NotText),
    ] {
        let refusal = read(&format!(r#"{{"sub":{user},"iat":1,"exp":2}}"#));
        assert_eq!(refusal, Err(Refusal::Claim { claim: ClaimName::User, fault: wanted }), "{user}");
    }
    assert!(read(&format!(r#"{{"sub":{:?},"iat":1,"exp":2}}"#, "u".repeat(64))).is_ok());
    assert!(read(r#"{"sub":"ann~","iat":1,"exp":2}"#).is_ok());
}

#[test]
fn what_stands_in_the_way_of_a_path_is_no_absence() {
    let rules = Rules { user_claim: "a.b".parse().unwrap(), ..Rules::default() };
    let fault = |payload: &str| match Claims::read(payload.as_bytes(), &rules) {
        Err(Refusal::Claim { claim: ClaimName::User, fault }) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(r#"{"a":"x"}"#), ClaimFault::NotObject);
    assert_eq!(fault(r#"{"a":{}}"#), ClaimFault::Missing);
    assert_eq!(fault(r#"{"a.b":"ann"}"#), ClaimFault::Missing);
    assert_eq!(self::fault(r#","banter":7"#), (ClaimName::Rooms, ClaimFault::NotObject));
    assert_eq!(self::fault(r#","banter":null"#), (ClaimName::Rooms, ClaimFault::NotObject));
}

#[test]
fn texts_are_texts() {
    assert_eq!(fault(r#","iss":7"#), (ClaimName::Issuer, ClaimFault::NotText));
    assert_eq!(fault(r#","iss":null"#), (ClaimName::Issuer, ClaimFault::NotText));
    for value in ["7", "null", "{}", r#"["a",7]"#, r#"[["a"]]"#] {
        assert_eq!(fault(&format!(r#","aud":{value}"#)), (ClaimName::Audience, ClaimFault::NotTexts), "{value}");
    }
}

#[test]
fn ids_have_their_limits() {
    for (name, claim) in [("jti", ClaimName::TokenId), ("sid", ClaimName::Session)] {
        let long = format!("{:?}", "i".repeat(256));
        for (value, wanted) in [
            ("7", ClaimFault::NotText),
            (r#""""#, ClaimFault::Id),
            (&long, ClaimFault::Id),
            (r#""a\t""#, ClaimFault::Id),
        ] {
            assert_eq!(fault(&format!(r#","{name}":{value}"#)), (claim, wanted), "{name} {value}");
        }
        assert!(with(&format!(r#","{name}":{:?}"#, "i".repeat(255))).is_ok());
    }
}

#[test]
fn rooms_are_patterns_with_rights() {
    let rooms = |value: &str| format!(r#","banter":{{"rooms":{value}}}"#);
    for value in
        ["7", "null", "[]", r#""member""#, r#"{"a":7}"#, r#"{"a":null}"#, r#"{"a":[7]}"#, r#"{"a":[["read"]]}"#]
    {
        assert_eq!(fault(&rooms(value)), (ClaimName::Rooms, ClaimFault::NotRooms), "{value}");
    }
    let (_, unknown) = fault(&rooms(r#"{"a":["read","admin"]}"#));
    assert!(unknown.to_string().contains("\"admin\""), "{unknown}");
    assert!(matches!(fault(&rooms(r#"{"a":"read,write"}"#)).1, ClaimFault::Right(_)));
    let (_, pattern) = fault(&rooms(r#"{"a*b":[]}"#));
    assert_eq!(pattern.to_string(), "has the pattern \"a*b\": a * stands for any characters only at its end");
    assert!(with(&rooms(r#"{"a":"read","b":["member","own"],"c":[]}"#)).is_ok());
}

#[test]
fn rooms_are_counted() {
    let many = |count: usize| {
        let rooms: Vec<_> = (0..count).map(|room| format!(r#""r{room}":"read""#)).collect();
        format!(r#","banter":{{"rooms":{{{}}}}}"#, rooms.join(","))
    };
    assert_eq!(with(&many(ROOMS_MAX)).unwrap().rooms.len(), 64);
    assert_eq!(fault(&many(ROOMS_MAX + 1)), (ClaimName::Rooms, ClaimFault::TooManyRooms));
}

#[test]
fn a_rate_is_a_whole_number_above_zero() {
    for value in ["0", "65536", "-1", "1.0", r#""5""#, "null", "1e1"] {
        let (claim, wanted) = fault(&format!(r#","banter":{{"posts_per_second":{value}}}"#));
        assert_eq!((claim, wanted), (ClaimName::PostsPerSecond, ClaimFault::NotRate), "{value}");
    }
}

#[test]
fn what_is_no_json_object_is_refused() {
    for payload in ["", "[]", "7", "null", "{", r#"{"sub":"ann"}x"#, r#"{"sub":"ann","sub":"bob"}"#] {
        assert_eq!(read(payload), Err(Refusal::WrongForm), "{payload}");
    }
    assert_eq!(Claims::read(b"{\"sub\":\"\xff\"}", &Rules::default()), Err(Refusal::WrongForm));
}

#[test]
fn a_message_names_the_claim() {
    let refusal = with(r#","nbf":"1""#).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the token's claim is refused: nbf must be a whole number of seconds since 1970, without quotes, point or exponent"
    );
    for name in [ClaimName::User, ClaimName::Rooms] {
        assert!(name.to_string().contains("_claim)"));
    }
}

proptest! {
    #[test]
    fn any_path_and_payload_are_read_without_a_panic(path in ".*", payload in ".*") {
        if let Ok(user_claim) = path.parse() {
            let _ = Claims::read(payload.as_bytes(), &Rules { user_claim, ..Rules::default() });
        }
    }

    #[test]
    fn a_path_finds_what_was_put_there(names in prop::collection::vec("[a-z.\\\\:/]{1,6}", 1..6)) {
        let text = names.iter().map(|name| name.replace('\\', r"\\").replace('.', r"\.")).collect::<Vec<_>>().join(".");
        if !text.starts_with("http") {
            let path: ClaimPath = text.parse().unwrap();
            prop_assert_eq!(path.names().collect::<Vec<_>>(), names);
        }
    }
}
