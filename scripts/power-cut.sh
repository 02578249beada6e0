#!/usr/bin/env bash
# Cuts the power of a loop-mounted ext4 under load, again and again: scripts/power-cut.sh [--rounds N] [--cores N] ...
# Needs root, mkfs.ext4 and loop devices; says SKIPPED where it has not got them.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo run --release --locked --quiet -p banter-tests --bin power-cut -- "$@"
