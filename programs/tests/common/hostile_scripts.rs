// Programs that mean harm, for the test and for the table of what each takes: a name, and a post hook or what is in one.

/// What they are posted.
const HOSTILE_BODY: &str = r#"{"text":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","list":[1,2,3,{"a":[[[[[[]]]]]]}],"n":1}"#;

/// The whole program.
fn hostile_text(script: &str) -> String {
    if script.contains("function post") {
        script.to_owned()
    } else {
        format!("function post(room, m) {script} end")
    }
}

const HOSTILE: &[(&str, &str)] = &[
    ("endless while", "while true do end"),
    ("endless repeat", "repeat until false"),
    ("endless for", "for i = 1, math.huge do end"),
    ("endless for with a small step", "for i = 0, 1, 1e-300 do end"),
    ("endless pcall", "while true do pcall(function() while true do end end) end"),
    ("endless pcall of errors", "while true do pcall(error, 'x') end"),
    ("endless pcall of a pcall", "local function f() pcall(f) return f() end f()"),
    ("endless catching of the budget", "local function f() local ok, e = pcall(function() while true do end end) return f() end f()"),
    ("endless error with tables", "while true do pcall(error, {}) end"),
    ("endless tail call", "local function f() return f() end f()"),
    ("endless iterator", "for _ in function() return 1 end do end"),
    ("endless sort comparator", "local t = {} for i = 1, 100 do t[i] = i end table.sort(t, function() while true do end end)"),
    ("endless gsub function", "string.gsub('aaaa', 'a', function() while true do end end)"),
    ("endless gmatch", "while true do for _ in string.gmatch('aaaa', 'a') do end end"),
    ("endless host call", "while true do m:get('text') end"),
    ("endless caught host error", "while true do pcall(room.has) end"),
    ("endless state", "while true do state.set('a', 1) end"),
    ("endless state keys", "for i = 1, 50 do state.set('k' .. i, 1) end while true do state.keys() end"),
    ("endless random", "while true do random(1, 6) end"),
    ("endless next of an emptied table", "local t = {} for i = 1, 2000 do t['k' .. i] = 1 end for i = 1, 2000 do t['k' .. i] = nil end while true do next(t) end"),
    ("endless loop over an emptied table", "local t = {} for i = 1, 2000 do t['k' .. i] = 1 end for i = 1, 2000 do t['k' .. i] = nil end while true do for _ in t do end end"),
    ("endless compare of long texts", "local a = string.rep('x', 60000) local b, c = a .. 'y', a .. 'z' local n = 0 while true do if b < c then n += 1 end end"),
    ("endless tonumber of a long text", "local a = string.rep('1', 60000) while true do tonumber(a) end"),
    ("endless find in a list", "local t = table.create(8000, 1) while true do table.find(t, 2) end"),
    ("endless insert at the front", "local t = table.create(4000, 1) while true do table.insert(t, 1, 1) table.remove(t, 1) end"),
    ("endless unpack", "local t = table.create(4000, 1) while true do select('#', table.unpack(t)) end"),
    ("endless select", "local function f(...) while true do local x = select(-1, ...) end end f(table.unpack(table.create(4000, 1)))"),
    ("endless clear", "local t = table.create(8000, 1) while true do table.clear(t) end"),
    ("endless concat of a list", "local t = table.create(8000, '') while true do table.concat(t) end"),
    ("endless sort", "local t = {} for i = 1, 1000 do t[i] = i * 7919 % 1000 end while true do table.sort(t) end"),
    ("endless clone", "local t = table.create(4000, 1) while true do table.clone(t) end"),
    ("endless reverse", "local s = string.rep('ab', 20000) while true do s:reverse() end"),
    ("endless upper and lower", "local s = string.rep('ab', 10000) while true do s:upper() s:lower() end"),
    ("endless sub", "local s = string.rep('ab', 10000) while true do s:sub(2) end"),
    ("endless byte", "local s = string.rep('ab', 2000) while true do s:byte(1, -1) end"),
    ("endless split", "local s = string.rep('a,', 1000) while true do s:split(',') end"),
    ("endless format", "while true do string.format('%99d %99s %q', 1, 'x', 'y') end"),
    ("endless words", "local w = words('bad') function post(room, m) local s = string.rep('darn ', 5000) while true do w:mask(s) end end"),
    ("endless json", "local s = '[' .. string.rep('1,', 1000) .. '1]' while true do json(s) end"),
    ("endless text", "local t = table.create(1000, 1) while true do text(t) end"),
    ("endless utf8", "local s = string.rep('ä', 5000) while true do utf8.len(s) end"),
    ("endless set", "while true do m:set('n', 1) end"),
    ("endless tables of a body", "while true do m:table() end"),
    ("memory by tables", "local t = {} for i = 1, 1e9 do t[i] = {} end"),
    ("memory by caught tables", "local t = {} while true do pcall(function() while true do t[#t + 1] = { 1, 2, 3 } end end) end"),
    ("memory by a doubled text", "local s = 'x' while true do s = s .. s end"),
    ("memory by caught doubled texts", "local s = 'x' while true do pcall(function() s = s .. s end) end"),
    ("memory by rep", "string.rep('x', 1e9)"),
    ("memory by rep of nothing", "string.rep('', 1e9)"),
    ("memory by create", "table.create(1e8, 0)"),
    ("memory by caught create", "for i = 1, 1e6 do pcall(table.create, 1e7) end"),
    ("memory by a sparse list", "local t = {} for i = 1, 30 do t[2 ^ i] = i end"),
    ("memory by closures", "local t = {} for i = 1, 1e9 do t[i] = function() return i end end"),
    ("memory by texts", "local t = {} for i = 1, 1e9 do t[i] = tostring(i) .. 'x' end"),
    ("memory by many returns", "local function f(n) if n == 0 then return 1 end return 1, f(n - 1) end f(1e6)"),
    ("memory by many arguments", "local function f(...) return f(1, ...) end f()"),
    ("memory by captures", "string.match(string.rep('a', 1000), string.rep('(.-)', 32))"),
    ("memory by gsub", "string.gsub(string.rep('a', 10000), 'a', string.rep('b', 1000))"),
    ("memory by concat of a list", "table.concat(table.create(5000, string.rep('x', 1000)))"),
    ("memory by split", "string.split(string.rep('a', 50000), '')"),
    ("memory by unpack", "table.unpack({}, 1, 1e8)"),
    ("memory by char", "string.char(table.unpack(table.create(7990, 65)))"),
    ("memory by format", "string.format(string.rep('%99d', 500), table.unpack(table.create(500, 1)))"),
    ("memory by a shared value", "local t = { 1 } for i = 1, 40 do t = { t, t } end room.post(t)"),
    ("memory by log", "for i = 1, 1e6 do pcall(log, string.rep('x', 10000)) end"),
    ("memory by verdicts", "for i = 1, 1e6 do pcall(refuse, 'x', string.rep('y', 500)) end"),
    ("memory by edits", "local s = string.rep('x', 60000) while true do m:replace(s) end"),
    ("memory by posts", "local s = string.rep('x', 60000) for i = 1, 100 do room.post(s) end"),
    ("deep recursion", "local function f() return f() + 1 end f()"),
    ("deep recursion through pcall", "local function f() pcall(f) end f()"),
    ("deep recursion through pcall of pcall", "local function f() return pcall(pcall, f) end f()"),
    ("deep recursion through sort", "local function f() table.sort({ 1, 2, 3 }, function() f() return false end) end f()"),
    ("deep recursion through gsub", "local function f() string.gsub('a', 'a', f) end f()"),
    ("deep recursion through an iterator", "local function f() for _ in f do end end f()"),
    ("deep value out", "local t = {} for i = 1, 5000 do t = { t } end room.post(t)"),
    ("deep value in", "json(string.rep('[', 5000) .. string.rep(']', 5000))"),
    ("deep value with itself", "local t = {} t[1] = t m:replace(t)"),
    ("deep pattern", "string.match(string.rep('a', 500), string.rep('a?', 500))"),
    ("deep captures in a pattern", "string.match('a', string.rep('(', 500))"),
    ("pattern that goes back", "string.match(string.rep('a', 3000), string.rep('.-', 20) .. 'b')"),
    ("pattern of many stars", "string.find(string.rep('a', 1000), string.rep('a*', 20) .. 'b')"),
    ("pattern of balance", "string.find(string.rep('(', 20000), '%b()')"),
    ("pattern of a large set", "string.find(string.rep('b', 5000), '[' .. string.rep('a', 5000) .. ']')"),
    ("pattern with a long reference", "string.find(string.rep('a', 2000), '(.*)%1%1b')"),
    ("plain find of a bad case", "string.find(string.rep('a', 30000), string.rep('a', 15000) .. 'b', 1, true)"),
    ("gsub of nothing", "while true do string.gsub(string.rep('a', 100), '', '') end"),
    ("error in an error", "pcall(error) pcall(error, nil, 1e9) error(error)"),
    ("error with a long text", "error(string.rep('x', 100000))"),
    ("error that is a table with itself", "local t = {} t.t = t error(t)"),
    ("sort that lies", "local t = {} for i = 1, 500 do t[i] = i % 7 end table.sort(t, function() return true end)"),
    ("sort that changes its list", "local t = {} for i = 1, 100 do t[i] = i end table.sort(t, function(a, b) t[#t + 1] = 1 return a < b end)"),
    ("sort that empties its list", "local t = {} for i = 1, 100 do t[i] = i end table.sort(t, function(a, b) table.clear(t) return a < b end)"),
    ("gsub that changes what it walks", "local t = {} string.gsub('abc', '.', t)"),
    ("table changed while it is walked", "local t = { a = 1 } for k in t do t[k .. 'x'] = 1 end"),
    ("sizes that lie", "table.create(-1) string.rep('x', -1) string.sub('x', -1e300, 1e300) table.unpack({}, -1e9, 1e9)"),
    ("sizes that are none", "string.rep('x', 0/0) table.create(0/0)"),
    ("substring without a number", "string.sub('abc', 0/0, 0/0)"),
    ("insert far away", "local t = {} table.insert(t, 1e9, 1) table.remove(t, 1e9) table.insert(t, -5, 1)"),
    ("concat with bounds that lie", "table.concat({}, ',', 1, 1e9)"),
    ("concat far away", "table.concat({}, ',', -1e9, 1e9)"),
    ("methods of something else", "pcall(m.get, room) local f = room.post f(m) words(m) state.get(room) words('bad').has('x')"),
    ("methods without arguments", "pcall(function() m:get() end) pcall(function() m:set() end) pcall(room.post) pcall(state.set) pcall(words) pcall(text) pcall(json) pcall(route) pcall(random, {}) pcall(room.after)"),
    ("too many arguments", "log(table.unpack(table.create(1000, 1)))"),
    ("tables as all arguments", "log({}, { {} }, {}, { { {} } }, {}, {}, {}, {})"),
    ("keys that are none", "room.post({ [true] = 1 }) "),
    ("numbers that are none", "room.post(0/0)"),
    ("name of a room that is none", "route(string.rep('x', 1000))"),
    ("name of a user that is none", "room.whisper('\\0', 1)"),
    ("timer that never comes", "room.after(1e300, 'x')"),
    ("key of the state that is too long", "state.set(string.rep('x', 200), 1)"),
    ("state that is too large", "for i = 1, 1000 do state.set('k' .. i, string.rep('x', 100)) end"),
    ("state with a mean end", "state.set('x', 1, -1)"),
    ("no UTF-8", "room.post('\\xff\\xfe') m:set('\\xff', 1)"),
    ("what is not there", "return setmetatable({}, { __index = function() while true do end end })"),
    ("bytes as code", "loadstring('x')()"),
    ("library overwritten", "string.rep = nil"),
    ("library overwritten raw", "rawset(string, 'rep', nil)"),
    ("long path", "m:get(string.rep('a.', 50000))"),
];

// ---- Texts and numbers that stand in one chain of Luau's tables, whose hashes have no seed.

/// Luau's hash of a text below 32 bytes.
fn luau_hash(text: &[u8]) -> u32 {
    text.iter().rev().fold(text.len() as u32, |hash, byte| hash_step(hash, *byte))
}

fn hash_step(hash: u32, byte: u8) -> u32 {
    hash ^ (hash << 5).wrapping_add(hash >> 2).wrapping_add(u32::from(byte))
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Of the hash of a text: as many as tables of texts of a machine have chains, and more.
const ALIKE_BITS: u32 = 16;

/// So many texts of 6 bytes, all with a hash of the same low bits.
fn alike_texts(count: usize) -> Vec<String> {
    let mask = (1 << ALIKE_BITS) - 1;
    let mut texts = Vec::with_capacity(count);
    for number in 0_u64.. {
        let mut text = [b'0'; 6];
        let mut rest = number;
        for byte in &mut text[1..] {
            *byte = DIGITS[(rest % 36) as usize];
            rest /= 36;
        }
        // The first byte is hashed last: which one it has to be is said by the others.
        let hash = text[1..].iter().rev().fold(6, |hash, byte| hash_step(hash, *byte));
        let first = (hash ^ TARGET).wrapping_sub((hash << 5).wrapping_add(hash >> 2)) & mask;
        if let Ok(first) = u8::try_from(first)
            && DIGITS.contains(&first)
        {
            text[0] = first;
            texts.push(String::from_utf8(text.to_vec()).unwrap());
        }
        if texts.len() >= count {
            break;
        }
    }
    assert!(texts.iter().all(|text| luau_hash(text.as_bytes()) & mask == TARGET & mask));
    texts
}

const TARGET: u32 = 0x5eed;

/// So many whole numbers that stand in one chain of a table of so many keys.
fn alike_numbers(count: usize) -> Vec<u64> {
    const TABLE_BITS: u32 = 12;
    let hash = |number: u64| {
        let bits = (number as f64).to_bits();
        let (mut low, mut high) = (bits as u32, (bits >> 32) as u32 & 0x7fff_ffff);
        low = (low ^ (high >> 18)).wrapping_mul(0x5bd1_e995);
        high = (high ^ (low >> 22)).wrapping_mul(0x5bd1_e995);
        low = (low ^ (high >> 17)).wrapping_mul(0x5bd1_e995);
        (high ^ (low >> 19)).wrapping_mul(0x5bd1_e995) & ((1 << TABLE_BITS) - 1)
    };
    (1_000_000..).filter(|number| hash(*number) == 7).take(count).collect()
}

/// A name, a program, and how the body holds them, of which there are as many as it has room for.
const FLOODS: &[(&str, &str, Flood)] = &[
    ("keys of a body that one field is read of", "m:get('text')", Flood::Keys),
    ("keys of a body as a table", "m:table()", Flood::Keys),
    ("keys of a body, again and again", "while true do pcall(function() m:get('text') end) end", Flood::Keys),
    ("few keys of a body, again and again", "while true do m:get('few') end", Flood::Keys),
    ("texts of a body", "m:get('text')", Flood::Texts),
    ("the same text of a body, behind others", "m:get('few') m:get('last') m:get('last')", Flood::Texts),
    ("texts of a body in JSON of its own", "json(m:get('text'))", Flood::Json),
    ("texts that are split", "string.split(m:get('text'), ' ')", Flood::Words),
    ("texts that are matched", "for word in string.gmatch(m:get('text'), '%w+') do end", Flood::Words),
    ("texts that are replaced", "string.gsub(m:get('text'), '%w+', string.upper)", Flood::Words),
    ("texts that are replaced by a table", "local t = {} string.gsub(m:get('text'), '%w+', t)", Flood::Words),
    ("texts that are cut", "local s = m:get('text') for i = 1, #s, 7 do local k = string.sub(s, i, i + 5) end", Flood::Words),
    ("texts that are cut by a method", "local s = m:get('text') for i = 1, #s, 7 do local k = s:sub(i, i + 5) end", Flood::Words),
    ("texts of bytes", "local s = m:get('text') for i = 1, #s, 7 do local k = string.char(s:byte(i, i + 5)) end", Flood::Words),
    ("texts put together", "local s = m:get('text') for i = 1, #s, 7 do local k = s:sub(i, i + 2) .. s:sub(i + 3, i + 5) end", Flood::Words),
    ("texts of a format", "local s = m:get('text') for i = 1, #s, 7 do local k = `{s:sub(i, i + 2)}{s:sub(i + 3, i + 5)}` end", Flood::Words),
    ("texts as keys", "local t = {} for word in string.gmatch(m:get('text'), '%w+') do t[word] = true end", Flood::Words),
    ("few texts, again and again", "local s = m:get('few') while true do for i = 1, #s, 7 do local k = s:sub(i, i + 2) .. s:sub(i + 3, i + 5) end end", Flood::Words),
    ("few texts, many for a unit", "local s = m:get('few') local a, b = s:sub(1, 3), s:sub(4, 6) for i = 1, #s, 7 do local k = s:sub(i, i + 5) end while true do local k = a .. b k = a .. b k = a .. b k = a .. b k = a .. b k = a .. b k = a .. b k = a .. b k = a .. b k = a .. b end", Flood::Words),
    ("errors that are caught", "for word in string.gmatch(m:get('text'), '%w+') do pcall(error, word) end", Flood::Words),
    ("keys of a state", "for word in string.gmatch(m:get('few'), '%w+') do state.set(word, 1) end while true do state.keys() end", Flood::Words),
    ("numbers of a body as keys", "local t = {} for _, n in m:get('text') do t[n] = true end", Flood::Numbers),
    ("numbers of a body, counted", "local t = {} for _, n in ipairs(m:get('text')) do t[n] = (t[n] or 0) + 1 end", Flood::Numbers),
    ("few numbers as keys of many tables", "local few = m:get('few') while true do local t = {} for _, n in few do t[n] = 1 end end", Flood::Numbers),
    ("a table of numbers that grows as a copy", "local t = {} for i, n in m:get('text') do if i > 1023 then break end t[n] = 1 end while true do local u = table.clone(t) for i = 1, 3 do u['k' .. i] = 1 end end", Flood::Numbers),
    ("numbers of a text as keys", "local t = {} for word in string.gmatch(m:get('text'), '%w+') do t[tonumber(word, 36)] = 1 end", Flood::NumberWords),
];

#[derive(Clone, Copy)]
enum Flood {
    Keys,
    Texts,
    /// A text that is JSON.
    Json,
    /// A text of them.
    Words,
    Numbers,
    NumberWords,
}

impl Flood {
    fn body(self) -> String {
        const FEW: usize = 250;
        let list = self.list();
        let (few, last, all) = (self.write(&list[..FEW]), self.write(&list[list.len() - 1..]), self.write(&list));
        format!("{{\"few\":{few},\"last\":{last},\"text\":{all}}}")
    }

    fn list(self) -> Vec<String> {
        const MANY: usize = 4_000;
        // As many as there are units to read them.
        const KEYS: usize = 2_048;
        let of_36 = |number: u64| {
            let digits = (0..10).rev().map(|place| DIGITS[(number / 36_u64.pow(place) % 36) as usize]);
            digits.map(char::from).collect()
        };
        match self {
            Flood::Keys => alike_texts(KEYS),
            Flood::Texts | Flood::Json | Flood::Words => alike_texts(MANY),
            Flood::Numbers => alike_numbers(MANY).iter().map(u64::to_string).collect(),
            Flood::NumberWords => alike_numbers(MANY).into_iter().map(of_36).collect(),
        }
    }

    fn write(self, list: &[String]) -> String {
        match self {
            Flood::Keys => format!("{{\"{}\":0}}", list.join("\":0,\"")),
            Flood::Texts => format!("[\"{}\"]", list.join("\",\"")),
            Flood::Json => format!("{:?}", Flood::Texts.write(list)),
            Flood::Words | Flood::NumberWords => format!("\"{}\"", list.join(" ")),
            Flood::Numbers => format!("[{}]", list.join(",")),
        }
    }
}
