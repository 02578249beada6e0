//! What a program is given and may give back: each hook, each function, each fault.

mod common;

use banter_chat::program::{ClassName, Effect, Event, FaultKind, ProgramId, Verdict};
use banter_protocol::ids::{RoomName, Sequence, UserName};
use banter_protocol::request::BodyFormat;
use bytes::Bytes;
use common::{Ended, Room, compile, engine, json, post_once};

const FIRST: ProgramId = ProgramId(0);

fn edited(ended: &Ended) -> String {
    match &ended.verdict {
        Ok(Verdict::Edit(body)) => String::from_utf8(body.clone()).unwrap(),
        other => panic!("no edit: {other:?}"),
    }
}

/// What a program of that expression writes into the field `r`.
fn result(expression: &str) -> String {
    let ended = post_once(&format!("function post(room, m) m:set('r', {expression}) end"), "{}");
    let body = edited(&ended);
    body.strip_prefix("{\"r\":").and_then(|rest| rest.strip_suffix('}')).expect(&body).to_owned()
}

fn fault(text: &str, body: &str) -> (FaultKind, String) {
    let fault = post_once(text, body).verdict.expect_err("a fault");
    (fault.kind, fault.message)
}

#[test]
fn a_post_passes_is_edited_refused_taken_or_routed() {
    assert_eq!(post_once("function post() end", "{}").verdict, Ok(Verdict::Pass));
    let ended = post_once(
        "function post(room, m) m:set('text', string.upper(m:get('text'))) end",
        r#"{ "text":"a", "n":1e2 }"#,
    );
    assert_eq!(edited(&ended), r#"{ "text":"A", "n":1e2 }"#);
    let ended = post_once("function post() return refuse('slow', 'wait a bit', 50) end", "{}");
    let refused =
        Verdict::Refuse { reason: "slow".into(), message: Some("wait a bit".into()), retry_after_ms: Some(50) };
    assert_eq!(ended.verdict, Ok(refused));
    let ended = post_once("function post() return take({ ok = true }) end", "{}");
    assert_eq!(ended.verdict, Ok(Verdict::Take { reply: Some(b"{\"ok\":true}".to_vec()) }));
    assert_eq!(post_once("function post() return take() end", "{}").verdict, Ok(Verdict::Take { reply: None }));
    let ended = post_once("function post() return route('lobby') end", "{}");
    assert_eq!(ended.verdict, Ok(Verdict::Route(RoomName::new("lobby").unwrap())));
    assert_eq!(fault("function post() return route('staff') end", "{}").0, FaultKind::Effects);
    assert_eq!(
        post_once("function post() refuse('x') end", "{}").verdict,
        Ok(Verdict::Pass),
        "only what is given back counts"
    );
}

#[test]
fn what_is_no_verdict_is_a_fault() {
    for text in [
        "function post() return 5 end",
        "function post() return { from = 1 } end",
        "function post() return function() end end",
        "function post() return refuse('') end",
        "function post() return refuse() end",
        "function post() return refuse(string.rep('x', 65)) end",
    ] {
        assert_eq!(fault(text, "{}").0, FaultKind::Error, "{text}");
    }
}

#[test]
fn each_hook_gets_what_it_is_about() {
    let text = "
        version = 3
        function join(room, who) if who.user == 'eve' then return refuse('no') end return { from = 7, class = who.user } end
        function leave(room, who) room.post({ gone = who.user }) end
        function signal(room, s) if s:get('t') == 1 then return refuse('loud') end log(s.user, s:raw()) end
        function fetch(room, q) if not q.user then return { from = 9 } end end
        function tick(room, name) room.signal({ tick = name }) end
        function upgrade(room, from) state.set('from', from) end";
    let mut engine = engine(&[text]);
    let mut room = Room::new();
    let user = |name| UserName::new(name).unwrap();
    let (ann, eve) = (user("ann"), user("eve"));
    let mut ask = |event: Event<'_>| room.call(&mut engine, FIRST, &event);
    assert_eq!(ask(Event::Join { user: &ann }).verdict, Ok(admitted(7, Some("ann"))));
    assert!(matches!(ask(Event::Join { user: &eve }).verdict, Ok(Verdict::Refuse { .. })));
    assert_eq!(ask(Event::Leave { user: &ann }).effects, [Effect::Post(b"{\"gone\":\"ann\"}".to_vec())]);
    assert!(matches!(ask(Event::Signal { user: &ann, body: &json("{\"t\":1}") }).verdict, Ok(Verdict::Refuse { .. })));
    assert_eq!(ask(Event::Signal { user: &ann, body: &json("{}") }).effects, [Effect::Log("ann {}".into())]);
    assert_eq!(ask(Event::Fetch { user: None }).verdict, Ok(admitted(9, None)));
    assert_eq!(ask(Event::Fetch { user: Some(&ann) }).verdict, Ok(Verdict::Pass));
    assert_eq!(ask(Event::Tick { name: "t" }).effects, [Effect::Signal(b"{\"tick\":\"t\"}".to_vec())]);
    assert_eq!(ask(Event::Upgrade { from: 2 }).verdict, Ok(Verdict::Pass));
    let facts = banter_chat::program::Engine::facts(&engine, FIRST);
    assert_eq!(facts.version, 3);
    assert!(!facts.hooks.has(banter_chat::program::Hook::Post));
}

fn admitted(from: u64, class: Option<&str>) -> Verdict {
    Verdict::Admit { from: Sequence(from), class: class.map(|name| ClassName::new(name).unwrap()) }
}

#[test]
fn a_reader_is_put_into_a_class_and_a_message_has_a_view_for_it() {
    let text = "
        function join(room, who) return { class = config.class } end
        function fetch(room, q) return { class = 'red' } end
        function post(room, m)
            m:view('red', { hand = m:get('hands.red') })
            m:view('blue', m:get('hands.blue'))
            m:set('hands', nil)
        end";
    let mut engine = engine(&[text]);
    let mut room = Room::new();
    let posted = room.post(&mut engine, FIRST, "ann", r#"{"hands":{"red":[1,2],"blue":"b"},"n":1}"#);
    assert_eq!(posted.verdict, Ok(Verdict::Edit(b"{\"n\":1}".to_vec())));
    let view = |class, body: &[u8]| Effect::View(ClassName::new(class).unwrap(), body.to_vec());
    assert_eq!(posted.effects, [view("red", b"{\"hand\":[1,2]}"), view("blue", b"\"b\"")]);
    let ann = UserName::new("ann").unwrap();
    // There is no such name in its configuration.
    assert_eq!(room.call(&mut engine, FIRST, &Event::Join { user: &ann }).verdict, Ok(admitted(0, None)));
    let mut wrong = common::engine(&["function join() return { class = {} } end"]);
    let refused = Room::new().call(&mut wrong, FIRST, &Event::Join { user: &ann }).verdict.unwrap_err();
    assert!(refused.message.contains("a table that is not of"), "{refused}");
    let refused = room.call(&mut engine, FIRST, &Event::Fetch { user: Some(&ann) }).verdict.unwrap_err();
    assert!(refused.message.contains("no `class`"), "{refused}");
}

#[test]
fn a_message_tells_of_itself_and_its_room() {
    assert_eq!(result("{ m.user, m.now_ms, m.key, m.hop, m.size }"), r#"["ann",1700000000000,"k1",0,2]"#);
    assert_eq!(
        result("{ room.name, room.epoch, room.head, room.members, room.now_ms, room.has('bob'), room.has('eve') }"),
        r#"["game-1","18446744073709551615",41,2,1700000000000,true,false]"#
    );
    assert_eq!(result("typeof(m) .. typeof(room) .. type(m)"), "\"eventroomuserdata\"");
    let messages = [
        ("m:view('', {})", "1 to 64 bytes"),
        ("m:view('red')", "wants a body"),
        ("m.get", "with a colon"),
        ("m.nope", "has no 'nope'"),
        ("room:post(1)", "with a dot"),
        ("room.nope", "no 'nope'"),
        ("m:nope()", "no 'nope'"),
    ];
    for (expression, message) in messages {
        let (kind, said) = fault(&format!("function post(room, m) local x = {expression} end"), "{}");
        assert!(kind == FaultKind::Error && said.contains(message), "{expression}: {said}");
    }
}

#[test]
fn bytes_are_no_json() {
    let text =
        "function post(room, m) return take({ m:get('a') == nil, m:table() == nil, m:raw(), m:set('a', 1) }) end";
    let body = banter_chat::parcel::OwnedBody { format: BodyFormat::Bytes, bytes: Bytes::from_static(b"{\"a\":1}") };
    let ended = Room::new().post_body(&mut engine(&[text]), FIRST, "ann", &body);
    assert_eq!(ended.verdict, Ok(Verdict::Take { reply: Some(br#"[true,true,"{\"a\":1}",false]"#.to_vec()) }));
}

#[test]
fn values_come_and_go_as_json() {
    assert_eq!(
        result("{ a = { 1, 2, { b = 'x' } }, c = 1.5, d = false }"),
        r#"{"a":[1,2,{"b":"x"}],"c":1.5,"d":false}"#
    );
    assert_eq!(result("json('[1,null,{\"a\":\"\\\\u0041\"}]')"), r#"[1,null,{"a":"A"}]"#);
    assert_eq!(result("{ json('{') == nil, json('') == nil, json('7') }"), "[true,true,7]");
    assert_eq!(result("text({ z = 1, a = { true } })"), r#""{\"a\":[true],\"z\":1}""#);
    assert_eq!(result("{}"), "{}");
    for (value, message) in [
        ("{ 1, a = 2 }", "not both"),
        ("0/0", "infinite or none"),
        ("function() end", "function is no JSON value"),
        ("{ [1] = 1, [100] = 2 }", "holes"),
        ("{ [{}] = 1 }", "no key"),
    ] {
        let (_, said) = fault(&format!("function post(room, m) m:set('r', {value}) end"), "{}");
        assert!(said.contains(message), "{value}: {said}");
    }
    let (_, said) = fault("function post(room, m) local t = {} t.t = t m:replace(t) end", "{}");
    assert!(said.contains("deeper"), "{said}");
    let ended =
        post_once("function post(room, m) local t = m:table() t.n += 1 m:replace(t) end", r#"{"n":1,"o":{"p":[]}}"#);
    assert_eq!(edited(&ended), r#"{"n":2,"o":{"p":{}}}"#);
}

#[test]
fn state_is_kept_between_calls_and_a_fault_undoes_a_call() {
    let text = "
        function post(room, m)
          local n = (state.get('n') or 0) + 1
          state.set('n', n) state.set('by:' .. m.user, { n }) state.set('short', 1, 10)
          if m:get('fail') then error('no') end
          if m:get('forget') then state.set('n', nil) end
          return take({ n, state.keys('by:'), state.get('by:ann') })
        end";
    let (mut engine, mut room) = (engine(&[text]), Room::new());
    let mut post = |user: &str, body: &str| {
        let ended = room.post(&mut engine, FIRST, user, body);
        match ended.verdict {
            Ok(Verdict::Take { reply: Some(reply) }) => String::from_utf8(reply).unwrap(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(post("ann", "{}"), r#"[1,["by:ann"],[1]]"#);
    assert!(post("bob", r#"{"fail":true}"#).contains("no"));
    assert_eq!(post("bob", "{}"), r#"[2,["by:ann","by:bob"],[1]]"#);
    assert_eq!(post("ann", r#"{"forget":1}"#), r#"[3,["by:ann","by:bob"],[3]]"#);
    assert_eq!(post("ann", "{}"), r#"[1,["by:ann","by:bob"],[1]]"#);
    let (kind, _) = fault("function post() state.set('k', string.rep('x', 5000)) end", "{}");
    assert_eq!(kind, FaultKind::State);
    let (kind, _) = fault("function post() pcall(state.set, 'k', string.rep('x', 5000)) end", "{}");
    assert_eq!(kind, FaultKind::State, "a program cannot go on behind it");
}

#[test]
fn effects_have_their_ends() {
    let ended = post_once(
        "function post(room, m) room.post(1) room.post_to('lobby', { a = 1 }) room.whisper('bob', 'x') room.signal(true) log('a\\nb', 1, { 2 }) room.after(100, 't') room.cancel('t') end",
        "{}",
    );
    let lobby = RoomName::new("lobby").unwrap();
    assert_eq!(
        ended.effects,
        [
            Effect::Post(b"1".to_vec()),
            Effect::PostTo(lobby, b"{\"a\":1}".to_vec()),
            Effect::Whisper(UserName::new("bob").unwrap(), b"\"x\"".to_vec()),
            Effect::Signal(b"true".to_vec()),
            Effect::Log("a\\nb 1 [2]".into()),
        ]
    );
    for text in [
        "for i = 1, 9 do room.post(i) end",
        "room.post_to('staff', 1)",
        "for i = 1, 17 do room.whisper('bob', i) end",
        "for i = 1, 5 do log(i) end",
        "room.post(string.rep('x', 65536))",
        "m:replace(string.rep('x', 65536))",
        "room.after(99, 't')",
        "for i = 1, 9 do room.after(100, 't' .. i) end",
        "pcall(room.post_to, 'staff', 1)",
    ] {
        assert_eq!(fault(&format!("function post(room, m) {text} end"), "{}").0, FaultKind::Effects, "{text}");
    }
}

#[test]
fn words_mask_and_what_is_no_text_has_none() {
    let text = "local bad = words('bad') function post(room, m) local t, n = bad:mask(m:get('t'), '_') return take({ t, n, bad:has(m:get('t')) }) end";
    let reply = |body: &str| match post_once(text, body).verdict {
        Ok(Verdict::Take { reply: Some(reply) }) => String::from_utf8(reply).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reply(r#"{"t":"Darn it, HECK"}"#), r#"["____ it, ____",2,true]"#);
    assert_eq!(reply(r#"{"t":"fine"}"#), r#"["fine",0,false]"#);
    assert_eq!(reply(r#"{"t":["darn"]}"#), r#"[["darn"],0,false]"#);
    assert!(compile("local w = words('good') function post() end").is_err());
}

#[test]
fn random_numbers_come_from_the_seed() {
    let text = "function post(room, m) return take({ random(1, 6), random(100), random() < 1 }) end";
    let mut engine = engine(&[text]);
    let mut with_seed = |seed| Room { seed, ..Room::new() }.post(&mut engine, FIRST, "ann", "{}");
    assert_eq!(with_seed(1), with_seed(1));
    assert_ne!(with_seed(1), with_seed(2));
    assert_eq!(fault("function post() random(6, 1) end", "{}").0, FaultKind::Error);
    assert_eq!(fault("function post() random(1.5) end", "{}").0, FaultKind::Error);
}

#[test]
fn patterns_work_as_in_lua() {
    assert_eq!(result("{ string.find('hello', 'l+') }"), "[3,4]");
    assert_eq!(result("{ ('k=v'):match('(%w)=(%w)') }"), r#"["k","v"]"#);
    assert_eq!(result("{ ('abc'):gsub('%w', '%0%0') }"), r#"["aabbcc",3]"#);
    assert_eq!(result("{ ('abc'):gsub('', '-') }"), r#"["-a-b-c-",4]"#);
    assert_eq!(result("{ ('hello world'):gsub('o', { o = '0' }, 1) }"), r#"["hell0 world",1]"#);
    assert_eq!(result("{ ('abc'):gsub('b', function(x) return x:upper() end) }"), r#"["aBc",1]"#);
    assert_eq!(result("{ ('a+b'):find('+', 1, true) }"), "[2,2]");
    assert_eq!(
        result("(function() local t = {} for k, v in ('a=1,b=2'):gmatch('(%w)=(%w)') do t[k] = v end return t end)()"),
        r#"{"a":"1","b":"2"}"#
    );
    assert_eq!(result("('a,b,,c'):split(',')"), r#"["a","b","","c"]"#);
    assert_eq!(result("('abc'):split('')"), r#"["a","b","c"]"#);
    assert_eq!(
        result("{ ('hello'):sub(2, -2), ('hello'):sub(-3), ('x'):sub(5), ('abc'):sub(0, 2) }"),
        r#"["ell","llo","","ab"]"#
    );
}

#[test]
fn nobody_learns_an_address() {
    assert_eq!(
        result("{ tostring({}), tostring(tostring), tostring(m), tostring(refuse('x')) }"),
        r#"["table","function","event","verdict"]"#
    );
    assert_eq!(result("string.format('%s %*', {}, room)"), "\"table room\"");
    assert_eq!(result("`{pcall} {room} {1}`"), "\"function room 1\"");
}

#[test]
fn a_fault_tells_line_and_trace() {
    let (kind, message) =
        fault("local function inner(x)\n return x.y.z\nend\nfunction post(room, m)\n inner({})\nend", "{}");
    assert_eq!(kind, FaultKind::Error);
    assert_eq!(message, "game.luau:2: attempt to index nil with 'z' [game.luau:2 in inner, game.luau:5 in post]");
    let (kind, message) = fault("function post()\n while true do end\nend", "{}");
    assert_eq!((kind, &*message), (FaultKind::Cpu, "more than 10000 units [game.luau:2 in post]"));
    let (_, message) = fault("function post() error('a\\nb' .. string.rep('x', 5000)) end", "{}");
    assert!(message.len() <= banter_programs::FAULT_BYTES_MAX && !message.contains('\n'), "{message}");
    let (_, message) = fault("function post() error({}) end", "{}");
    assert!(message.starts_with("the error is no text"), "{message}");
}
