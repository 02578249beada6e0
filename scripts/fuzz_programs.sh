#!/usr/bin/env bash
# Random programs, and random bodies into the examples: `scripts/fuzz_programs.sh [COUNT] [FIRST_SEED]`, 100,000 from 1 by default.
# A failure names its seed.
set -euo pipefail
cd "$(dirname "$0")/.."
export BANTER_FUZZ_PROGRAMS="${1:-100000}" BANTER_FUZZ_SEED="${2:-1}"
exec cargo test --profile simulation -p banter-programs --test fuzz -- --nocapture
