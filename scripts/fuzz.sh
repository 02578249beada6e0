#!/usr/bin/env bash
# Seeded fuzz of every parser: scripts/fuzz.sh [ITERATIONS] [SEED] [TEST]
# Without a SEED each run takes another and prints it. A failure prints the command that replays it.
set -euo pipefail
cd "$(dirname "$0")/.."
export BANTER_FUZZ_ITERATIONS="${1:-100000}"
export BANTER_FUZZ_SEED="${2:-$(od -An -N6 -tu8 /dev/urandom | tr -d ' ')}"
echo "BANTER_FUZZ_ITERATIONS=$BANTER_FUZZ_ITERATIONS BANTER_FUZZ_SEED=$BANTER_FUZZ_SEED"
# A name that fits no test would pass, having tried nothing.
if [ -n "${3:-}" ] && ! tests="$(cargo test -q -p banter-tests --test fuzz -- --list)"; then
  exit 1
elif [ -n "${3:-}" ] && ! grep -q -- "$3.*: test$" <<<"$tests"; then
  echo "fuzz.sh: no test's name has $3 in it; there are:" >&2
  sed -n 's/: test$//p' <<<"$tests" >&2
  exit 2
fi
exec cargo test -p banter-tests --test fuzz -- ${3:+"$3"}
