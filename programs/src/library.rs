//! What a program may name beside what it makes itself: the complete list, which a test holds the machine to.

/// Globals of the library.
pub const GLOBALS: [&str; 26] = [
    "assert", "bit32", "config", "error", "ipairs", "json", "log", "math", "next", "pairs", "pcall", "random",
    "refuse", "route", "select", "state", "string", "table", "take", "text", "tonumber", "tostring", "type", "typeof",
    "utf8", "words",
];

/// What is in its tables; `config` has what the operator said.
#[cfg(test)]
const MEMBERS: [(&str, &[&str]); 6] = [
    (
        "string",
        &[
            "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "rep", "reverse", "split",
            "sub", "upper",
        ],
    ),
    (
        "table",
        &[
            "clear", "clone", "concat", "create", "find", "freeze", "insert", "isfrozen", "pack", "remove", "sort",
            "unpack",
        ],
    ),
    (
        "math",
        &[
            "abs", "acos", "asin", "atan", "atan2", "ceil", "clamp", "cos", "cosh", "deg", "e", "exp", "floor", "fmod",
            "frexp", "huge", "isfinite", "isinf", "isnan", "ldexp", "lerp", "log", "log10", "map", "max", "min",
            "modf", "nan", "noise", "phi", "pi", "pow", "rad", "round", "sign", "sin", "sinh", "sqrt", "sqrt2", "tan",
            "tanh", "tau",
        ],
    ),
    (
        "bit32",
        &[
            "arshift", "band", "bnot", "bor", "btest", "bxor", "byteswap", "countlz", "countrz", "extract", "lrotate",
            "lshift", "replace", "rrotate", "rshift",
        ],
    ),
    ("utf8", &["char", "charpattern", "codepoint", "codes", "len", "offset"]),
    ("state", &["get", "keys", "set"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::{Asked, Buffers};
    use crate::compile::Grants;
    use crate::vm::Vm;

    #[test]
    fn a_program_has_the_library_of_the_list_and_nothing_else() {
        let grants = Grants { words: Vec::new(), config: b"{\"every_ms\":5}".as_slice().into() };
        let mut buffers = Buffers::default();
        let mut vm = Vm::new(&mut Asked::new(&grants, None, &mut buffers));
        let mut there: Vec<String> = vm.globals().into_iter().map(|(name, _)| name).collect();
        there.sort();
        let members =
            MEMBERS.iter().flat_map(|(library, names)| names.iter().map(move |name| format!("{library}.{name}")));
        let mut expected: Vec<String> = GLOBALS.iter().map(|name| (*name).to_owned()).chain(members).collect();
        expected.push("config.every_ms".into());
        expected.sort();
        assert_eq!(there, expected);
    }
}
