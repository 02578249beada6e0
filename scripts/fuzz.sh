#!/usr/bin/env bash
# Seeded fuzz of every parser: scripts/fuzz.sh [ITERATIONS] [SEED] [TEST]
# Without a SEED each run takes another and prints it. A failure prints the command that replays it.
set -euo pipefail
cd "$(dirname "$0")/.."
export BANTER_FUZZ_ITERATIONS="${1:-100000}"
export BANTER_FUZZ_SEED="${2:-$(od -An -N6 -tu8 /dev/urandom | tr -d ' ')}"
echo "BANTER_FUZZ_ITERATIONS=$BANTER_FUZZ_ITERATIONS BANTER_FUZZ_SEED=$BANTER_FUZZ_SEED"
exec cargo test -p banter-tests --test fuzz -- ${3:+"$3"}
