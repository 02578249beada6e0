//! Builds Luau, with errors by `longjmp`, and the shim over it.

use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Values that a C function may have on its stack, which bounds what `table.unpack` and `string.byte` give at once.
const C_STACK_MAX: usize = 8_000;
const SOURCES: [&str; 5] = ["compile.cpp", "values.cpp", "patterns.cpp", "library.cpp", "vm.cpp"];

fn main() {
    println!("cargo:rerun-if-changed=src/shim");
    println!("cargo:rerun-if-changed=build.rs");
    let luau = luau_sources();
    let built = luau0_src::Build::new().use_longjmp(true).set_max_cstack_size(C_STACK_MAX).build();
    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++17").define("LUA_API", "extern \"C\"").define("LUACODE_API", "extern \"C\"");
    // As Luau itself is built above: the shim reads its structures.
    shim.define("LUA_USE_LONGJMP", "1").define("LUA_VECTOR_SIZE", "3");
    shim.define("LUAI_MAXCSTACK", &*C_STACK_MAX.to_string()).flag_if_supported("-fno-math-errno");
    for folder in ["Common/include", "Ast/include", "Bytecode/include", "Compiler/include", "VM/include", "VM/src"] {
        // Of the system: its warnings are not ours.
        shim.flag("-isystem").flag(luau.join(folder).to_str().expect("a path of UTF-8"));
    }
    shim.files(SOURCES.map(|file| Path::new("src/shim").join(file)));
    shim.compile("banter_shim");
    built.print_cargo_metadata();
}

/// The folder of Luau's sources. `luau0-src` does not say it, but where it panics names its own file.
fn luau_sources() -> PathBuf {
    static PLACE: Mutex<Option<String>> = Mutex::new(None);
    panic::set_hook(Box::new(|info| {
        *PLACE.lock().expect("nobody else has it") = info.location().map(|place| place.file().to_owned());
    }));
    const NO_VECTOR_SIZE: usize = 0;
    let refused = panic::catch_unwind(|| {
        luau0_src::Build::new().set_vector_size(NO_VECTOR_SIZE);
    });
    let _ = panic::take_hook();
    assert!(refused.is_err(), "luau0-src takes any size of vectors now: find its sources in another way");
    let file = PLACE.lock().expect("nobody else has it").take().expect("a panic has a place");
    let luau = Path::new(&file).parent().and_then(Path::parent).expect("src/lib.rs in a folder").join("luau");
    assert!(luau.join("VM/src/lstate.h").is_file(), "no sources of Luau in {}", luau.display());
    luau
}
