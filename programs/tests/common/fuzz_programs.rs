// Random programs and bodies by a seed.

/// Numbers by a seed: xorshift over a mixed one.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice((seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % end as u64) as usize
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

const CALLED: &[&str] = &[
    "assert", "error", "ipairs", "json", "log", "next", "pairs", "pcall", "random", "refuse", "route", "select", "take", "text",
    "tonumber", "tostring", "type", "typeof", "words", "string.byte", "string.char", "string.find", "string.format",
    "string.gmatch", "string.gsub", "string.len", "string.lower", "string.match", "string.rep", "string.reverse",
    "string.split", "string.sub", "string.upper", "table.clear", "table.clone", "table.concat", "table.create", "table.find",
    "table.freeze", "table.insert", "table.isfrozen", "table.pack", "table.remove", "table.sort", "table.unpack", "math.abs",
    "math.floor", "math.max", "math.min", "math.fmod", "math.noise", "math.clamp", "math.ldexp", "math.log", "bit32.band",
    "bit32.extract", "bit32.lshift", "bit32.replace", "utf8.char", "utf8.codepoint", "utf8.codes", "utf8.len", "utf8.offset",
    "state.get", "state.set", "state.keys", "room.has", "room.post", "room.post_to", "room.whisper", "room.signal",
    "room.after", "room.cancel", "f", "g", "m.get", "room.name",
];
const METHODS: &[&str] = &["get", "set", "table", "replace", "raw", "view", "has", "mask", "rep", "find", "gsub", "sub", "upper", "nope"];
const ATOMS: &[&str] = &[
    "nil", "true", "false", "0", "1", "-1", "2.5", "1e9", "1e300", "math.huge", "0/0", "100", "7990", "''", "'a'", "'%'", "'(%w+)'",
    "'.-'", "'%b()'", "'[%a'", "'%f[%w]'", "'text'", "'n'", "'a.b.1'", "'lobby'", "'ann'", "'bad'", "'\\0\\255'", "'darn it'", "{}",
    "{1,2,3}", "{a=1}", "{1,nil,3}", "m", "room", "state", "config", "t", "s", "n", "f", "g", "w", "m.user", "m.size", "room.name",
    "room.head", "config.players", "#t", "#s", "...", "print", "string", "table",
];
const OPERATORS: &[&str] = &["+", "-", "*", "/", "//", "%", "^", "..", "==", "~=", "<", "<=", ">", "and", "or"];

fn expression(dice: &mut Dice, depth: usize) -> String {
    if depth == 0 {
        return dice.of(ATOMS).to_owned();
    }
    let part = |dice: &mut Dice| expression(dice, depth - 1);
    match dice.below(14) {
        0..=3 => dice.of(ATOMS).to_owned(),
        4 | 5 => format!("({} {} {})", part(dice), dice.of(OPERATORS), part(dice)),
        6..=8 => {
            let count = dice.below(4);
            let arguments: Vec<String> = (0..count).map(|_| part(dice)).collect();
            format!("{}({})", dice.of(CALLED), arguments.join(", "))
        }
        9 => format!("{}:{}({}, {})", dice.of(&["m", "s", "w", "room", "t", "('x')"]), dice.of(METHODS), part(dice), part(dice)),
        10 => format!("{{ {}, a = {}, ['k' .. n] = {} }}", part(dice), part(dice), part(dice)),
        11 => format!("(function(...) {} return {} end)", statements(dice, depth - 1), part(dice)),
        12 => format!("t[{}]", dice.of(&["1", "'a'", "n", "#t", "s"])),
        _ => format!("`a{{{}}}b`", part(dice)),
    }
}

fn statements(dice: &mut Dice, depth: usize) -> String {
    let count = 1 + dice.below(4);
    (0..count).map(|_| statement(dice, depth)).collect::<Vec<_>>().join(" ")
}

fn statement(dice: &mut Dice, depth: usize) -> String {
    if depth == 0 {
        return format!("s = {}", dice.of(ATOMS));
    }
    let value = expression(dice, depth);
    match dice.below(16) {
        0 => format!("t[{}] = {value}", dice.of(&["1", "#t + 1", "'a'", "'k' .. n", "n", "s"])),
        1 => format!("s = tostring({value})"),
        2 => format!("n = tonumber({value}) or n + 1"),
        3 => format!("t = type({value}) == 'table' and {value} or t"),
        4 => format!("for i = 1, {} do {} end", dice.of(&["3", "10", "1000", "n", "math.huge"]), statements(dice, depth - 1)),
        5 => format!("while {value} do {} end", statements(dice, depth - 1)),
        6 => format!("for k, v in {} do {} end", dice.of(&["t", "pairs(t)", "ipairs(t)", "next, t", "string.gmatch(s, '.')"]), statements(dice, depth - 1)),
        7 => format!("if {value} then {} else {} end", statements(dice, depth - 1), statements(dice, depth - 1)),
        8 | 9 => format!("pcall(function() {} end)", statements(dice, depth - 1)),
        10 => format!("local ok, e = pcall({}, {value})", dice.of(CALLED)),
        11 => "s = s .. s".to_owned(),
        12 => format!("m:set({}, {value})", dice.of(&["'n'", "'a.b'", "s", "'text'"])),
        13 => format!("if n > 3 then return {} end", dice.of(&["refuse('x')", "take(t)", "route('lobby')", "nil", "t", "s"])),
        14 => format!("f = function(...) {} return ... end", statements(dice, depth - 1)),
        _ => format!("local _ = {value}"),
    }
}

fn random_program(dice: &mut Dice) -> String {
    let depth = 1 + dice.below(4);
    format!(
        "local w = words('bad') function post(room, m, ...) local t, s, n = {{ 3, 1, 2 }}, 'abc', 1 local f = function(x) return x end local g = function(a, b) return a < b end {} end",
        (0..1 + dice.below(6)).map(|_| statement(dice, depth)).collect::<Vec<_>>().join(" ")
    )
}

const KEYS: &[&str] = &["text", "te\\u0078t", "roll", "vote", "move", "n", "a", "", "\\\"", "\\ud800", "\u{e4}", "hands"];
const TEXTS: &[&str] = &[
    "", "darn", "Heck, darn heck DARN", "/roll 2d6", "/roll 99d999", "/roll 0d0", "/roll 1d1", "/echo x", "/echo ", "\\u0000",
    "\\ud83d\\ude00", "\\udc00\\ud800", "\\n\\t\\\\", "n:", "\u{1f600}\u{e4}", "a.b",
];

/// A JSON value that is not kind.
fn random_body(dice: &mut Dice, depth: usize) -> String {
    let space = dice.of(&["", "", "", " ", "\n\t"]);
    let value = match dice.below(if depth == 0 { 6 } else { 10 }) {
        0 => dice.of(&["null", "true", "false"]).to_owned(),
        1 => dice.of(&["0", "-0", "1", "5", "9", "1e2", "-1.5e-7", "12345678901234567890", "1e308", "9007199254740993"]).to_owned(),
        2..=4 => format!("\"{}\"", dice.of(TEXTS)),
        5 => format!("\"{}\"", dice.of(TEXTS).repeat(1 + dice.below(50))),
        6 => {
            let values: Vec<String> = (0..dice.below(5)).map(|_| random_body(dice, depth - 1)).collect();
            format!("[{}]", values.join(","))
        }
        7 => {
            let levels = 1 + dice.below(200);
            format!("{}{}", "[".repeat(levels), "]".repeat(levels))
        }
        _ => {
            let members: Vec<String> = (0..dice.below(6))
                .map(|_| format!("{space}\"{}\"{space}:{}", dice.of(KEYS), random_body(dice, depth - 1)))
                .collect();
            format!("{{{}{space}}}", members.join(","))
        }
    };
    format!("{space}{value}{space}")
}
