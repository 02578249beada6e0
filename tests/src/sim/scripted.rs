//! A program of the simulated world, by itself or in Luau by the real engine: what it does with a post follows from the post alone,
//! so that the oracle knows it without asking `chat`; and it numbers what it lets through, so that a state that was lost, doubled or
//! mixed up with another shows.
//!
//! A user is of one of two classes or of none, by the name, and each class is shown its own view of what was edited.
//!
//! Of a room that always had it the number of a message is its place, whatever crashed, was refused or carried; where all that a room
//! has may be dropped, its state goes with its last message, and numbers begin again.

use banter_chat::policy::RoomPattern;
use banter_chat::program::{
    Call, ClassName, Effect, Engine, Event, Fault, FaultKind, Hook, Hooks, ProgramFacts, ProgramId, Verdict,
};
use banter_chat::programs::{OnFault, ProgramLimits, ProgramRule, ProgramSet, Programs};
use banter_programs::{Compiled, LuauEngine, Source};
use banter_protocol::ids::{Sequence, UserName};
use banter_protocol::request::BodyFormat;

use super::coverage::Coverage;
use super::wire::Said;

/// The room that has the program.
pub const ROOM: &str = "room-0";
/// Who its own posts are from.
const USER: &str = "@script";
/// What an edited body begins with; then its number, and the body as it was sent.
const EDITED: &str = "[\"#\",";
/// The classes, and what the body that each is shown begins with instead.
pub const CLASSES: [(&str, &str); 2] = [("even", "[\"even\","), ("odd", "[\"odd\",")];
/// What its own posts begin with; then their number.
const OWN: &str = "[\"@\",";

/// Of sixteen seeds, the one whose first room has a program; none with a name is among them.
pub fn is_of(seed: u64) -> bool {
    seed % 16 == 12
}

/// What it does with a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Will {
    /// Numbers it; one that is no JSON it only counts.
    Edit,
    /// Numbers it, and says something behind it.
    EditAndSay,
    /// Refuses it, and counts that.
    Refuse,
    /// Keeps it, and counts that.
    Take,
    /// Fails behind a change of everything.
    Fail,
}

/// Of the seeds with a program, the half that run it in Luau, by the real engine.
pub fn is_luau(seed: u64) -> bool {
    seed % 32 == 28
}

/// Of the first bytes and the length; small enough for the numbers of Luau, which has the same in `scripted.luau`.
fn hash(bytes: &[u8]) -> u64 {
    let add = |hash, byte: &u8| (hash * 31 + u64::from(*byte)) % (1 << 20);
    bytes.iter().take(64).fold(bytes.len() as u64, add)
}

/// The class that a user's readings are of.
pub fn class_of(user: &str) -> Option<&'static str> {
    CLASSES.get((hash(user.as_bytes()) % 3) as usize).map(|(class, _)| *class)
}

/// By the bytes that were posted.
pub fn will(body: &[u8]) -> Will {
    match hash(body) % 251 {
        0..16 => Will::Refuse,
        16..32 => Will::Take,
        32..64 => Will::EditAndSay,
        // Seldom: where it failed five times it is not asked any more, and nobody comes in.
        64 => Will::Fail,
        _ => Will::Edit,
    }
}

/// As the shards take it.
pub fn programs(seed: u64) -> ProgramSet {
    let rule = ProgramRule {
        pattern: RoomPattern::new(ROOM),
        name: "script".into(),
        digest: 1,
        on_fault: OnFault::Refuse,
        user: UserName::new(USER).expect("a name"),
        post_to: Vec::new(),
    };
    // A turn takes a few calls, so that some wait for the next.
    let (engine, units_per_turn_max): (Box<dyn Engine>, u32) =
        if is_luau(seed) { (Box::new(luau()), 2_000) } else { (Box::new(Script), 3 * SCRIPT_UNITS) };
    let limits = ProgramLimits {
        units_per_turn_max,
        body_bytes_max: 0,
        units_per_second_max: 0,
        watch_us: 0,
        ..ProgramLimits::default()
    };
    ProgramSet { programs: Programs::new(vec![rule]), engine, limits, seed: 1 }
}

fn luau() -> LuauEngine {
    let (words, config) = Default::default();
    let source = Source { name: "scripted.luau".into(), text: include_str!("scripted.luau").into(), words, config };
    LuauEngine::new(&[Compiled::new(&source).expect("a program")])
}

/// Units of a call of the script.
const SCRIPT_UNITS: u32 = 33;

struct Script;

impl Engine for Script {
    fn facts(&self, _: ProgramId) -> ProgramFacts {
        ProgramFacts { hooks: Hooks::default().with(Hook::Post).with(Hook::Join), version: 1 }
    }

    fn call(&mut self, _: ProgramId, call: Call<'_, '_>) -> Result<Verdict, Fault> {
        let body = match call.event {
            Event::Post { body, .. } => body,
            Event::Join { user } => {
                let class = class_of(user.as_str()).map(|class| ClassName::new(class).expect("a name"));
                return Ok(Verdict::Admit { from: Sequence(0), class });
            }
            other => panic!("it has no hook for {other:?}"),
        };
        call.spent.units = SCRIPT_UNITS;
        let count = |call: &Call<'_, '_>, key| {
            call.state
                .get(key)
                .map_or(0, |text| std::str::from_utf8(text).expect("a number").parse().expect("a number"))
        };
        let (number, others): (u64, u64) = (count(&call, "n"), count(&call, "others"));
        let will = will(&body.bytes);
        let mut set =
            |key: &str, number: u64| call.state.set(key, number.to_string().as_bytes(), None).expect("it fits");
        let own = || Effect::Post(format!("{OWN}{}]", number + 2).into_bytes());
        match will {
            Will::Edit => set("n", number + 1),
            Will::EditAndSay => {
                set("n", number + 2);
                call.effects.push(own()).expect("it fits");
            }
            Will::Refuse | Will::Take => set("others", others + 1),
            Will::Fail => {
                set("n", number + 100);
                call.effects.push(own()).expect("it fits");
                return Err(Fault::new(FaultKind::Error, "as it was told"));
            }
        }
        let edited = |begin: &str| [format!("{begin}{},", number + 1).as_bytes(), &body.bytes, b"]"].concat();
        if matches!(will, Will::Edit | Will::EditAndSay) && body.format == BodyFormat::Json {
            for (class, begin) in CLASSES {
                let view = Effect::View(ClassName::new(class).expect("a name"), edited(begin));
                call.effects.push(view).expect("it fits");
            }
        }
        Ok(match will {
            Will::Refuse => Verdict::Refuse { reason: "script".into(), message: None, retry_after_ms: None },
            Will::Take => Verdict::Take { reply: None },
            _ if body.format == BodyFormat::Json => Verdict::Edit(edited(EDITED)),
            _ => Verdict::Pass,
        })
    }

    fn rest(&mut self) -> bool {
        false
    }
}

/// An edited body's number, the body as it was sent, and the class whose view it is.
pub fn as_sent(body: &[u8]) -> Option<(u64, Vec<u8>, Option<&'static str>)> {
    let of_class = CLASSES.map(|(class, begin)| (Some(class), begin));
    let (class, rest) = std::iter::once((None, EDITED))
        .chain(of_class)
        .find_map(|(class, begin)| Some((class, body.strip_prefix(begin.as_bytes())?)))?;
    let rest = rest.strip_suffix(b"]")?;
    let comma = rest.iter().position(|byte| *byte == b',')?;
    let (number, sent) = rest.split_at(comma);
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, sent[1..].to_vec(), class))
}

/// A message of the room is what the program made of what was posted, and its number is its place. Who reads the room is shown it as
/// his class is; a page for somebody who may not read it is as for nobody's class.
pub fn check(said: &Said, (user, is_live): (&str, bool), may_begin_again: bool, seen: &mut Coverage) {
    let is_right = |number: u64| number == said.sequence || (may_begin_again && number < said.sequence);
    if said.user == USER {
        let number = said.body.strip_prefix(OWN.as_bytes()).and_then(|rest| rest.strip_suffix(b"]"));
        let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
        assert!(number.is_some_and(is_right), "{said:?}");
        seen.saw("post of a program");
        return;
    }
    assert!(
        matches!(will(&said.body), Will::Edit | Will::EditAndSay),
        "{said:?} has a place, and its program keeps it from one"
    );
    match said.number {
        Some(number) => {
            assert!(is_right(number), "{said:?}");
            let is_own = said.class == class_of(user);
            assert!(is_own || (!is_live && said.class.is_none()), "{said:?} is shown to {user}");
            seen.saw_times("view of a class", u64::from(said.class.is_some()));
        }
        None => assert!(!said.is_json, "{said:?} was not edited"),
    }
    seen.saw("post edited by a program");
}
