#!/usr/bin/env bash
# Random programs, and random bodies into the examples: `scripts/fuzz_programs.sh [--asan] [COUNT] [FIRST_SEED]`, 100,000 from 1 by
# default. A failure names its seed. --asan: with AddressSanitizer in Rust (a nightly toolchain), in the shim and in Luau, whose
# own pages it is told of too; some times slower.
set -euo pipefail
cd "$(dirname "$0")/.."
run=(cargo)
target=()
if [ "${1:-}" = --asan ]; then
  shift
  run=(cargo +nightly) target=(--target x86_64-unknown-linux-gnu)
  # With a target that is named, build scripts are built without it.
  export RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address"
  # LUAU_ENABLE_ASAN: what is free within a page of Luau's is poisoned, as its authors fuzz it. The rest of a table's size in its
  # pages would hide the small faults else.
  export CXXFLAGS_x86_64_unknown_linux_gnu="-fsanitize=address -fno-omit-frame-pointer -DLUAU_ENABLE_ASAN"
  # A machine is looked at while it lives: leaks are what the test of memory is for.
  export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:${ASAN_OPTIONS:-}" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/asan"
fi
export BANTER_FUZZ_PROGRAMS="${1:-100000}" BANTER_FUZZ_SEED="${2:-1}"
exec "${run[@]}" test --profile simulation "${target[@]}" -p banter-programs --test fuzz -- --nocapture
