#!/usr/bin/env bash
# Fills a loop-mounted ext4 of 32 MiB with posts, frees space, and checks that posting goes on by itself.
# Needs root, mkfs.ext4 and loop devices; says SKIPPED where it has not got them.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo test --release --locked --quiet -p banter-tests --test e2e_disk_full -- --nocapture "$@"
