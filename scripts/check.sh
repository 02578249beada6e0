#!/usr/bin/env bash
# The one gate: installs what it needs, builds, lints, and runs the README's test command.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never

step() { printf '\n== %s\n' "$*"; }

step "tools"
cargo --version
command -v cc >/dev/null || { apt-get update -q && apt-get install -y -q gcc libc6-dev; }
command -v c++ >/dev/null || { apt-get update -q && apt-get install -y -q g++; }
command -v patch >/dev/null || { apt-get update -q && apt-get install -y -q patch; }

step "format"
cargo fmt --all --check

step "lint"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

step "docs/openapi.json, by a public validator"
bash scripts/openapi.sh

step "each named mutant still applies"
scripts/mutants.sh --apply

step "tests: the README's command"
cargo test --workspace --locked --no-run
# That has built the server and the load generator too, with the features of the whole workspace. A test that is named no server builds
# both by themselves, and nearly all that they are made of a second time.
export BANTER_BIN="$PWD/target/debug/banter"
# Most tests wait for disks and servers, and leave a CPU idle meanwhile.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$((2 * $(nproc)))}"
cargo test --workspace --locked

if [ "${BANTER_SKIP_PAGE:-}" != 1 ]; then
  step "the page, in headless Chromium"
  if ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then
    apt-get update -q && apt-get install -y -q --no-install-recommends chromium chromium-driver ||
      echo "Chromium could not be installed: the page's test will say that it is skipped"
  fi
  python3 tests/page/page_test.py
fi

step "all checks passed"
