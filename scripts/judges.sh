#!/usr/bin/env bash
# Has every judge of docs/faults.md try the server, one after another, and prints what each found as a table:
#   scripts/judges.sh [--share PERCENT]
# PERCENT (100) of the rounds that docs/faults.md names: about an hour for all of them. Needs root, /dev/fuse, mkfs.ext4 and loop
# devices; a judge that has not got what it needs says SKIPPED in its line. Fails if one found anything.
set -uo pipefail
cd "$(dirname "$0")/.."
share=100
while [ $# -gt 0 ]; do
  case "$1" in
    --share) share="$2"; shift 2 ;;
    *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
  esac
done
cargo build --release --locked --quiet -p banter-server -p banter-tests --bins || exit 1
# The clock's offset is taken by builds with debug assertions only.
cargo build --locked --quiet -p banter-server -p banter-tests --bins || exit 1
failed=0
rounds() { echo $(( ($1 * share + 99) / 100 )); }
judge() {
  local name="$1" line code
  shift
  echo "judges: $* ($(date +%H:%M:%S))" >&2
  line="$("$@" --json 2>/dev/null | tail -1)"
  code=$?
  [ "$code" -eq 0 ] || failed=1
  python3 - "$name" "$code" "$line" <<'PY'
import json, sys
name, code, line = sys.argv[1], int(sys.argv[2]), sys.argv[3]
keys = ["rounds", "acknowledged", "shown", "lost", "repeated", "reordered", "shown_and_lost", "altered"]
try:
    counts = json.loads(line)["counts"]
    cells = [f"{counts.get(key, 0):,}" for key in keys]
except (ValueError, KeyError, TypeError):
    cells = [line.strip() or f"no result, exit code {code}"] + [""] * (len(keys) - 1)
print("| " + " | ".join([name] + cells) + " |", flush=True)
PY
}
echo "| judge | rounds | acknowledged | shown | lost | repeated | reordered | shown and lost | altered |"
echo "|---|---|---|---|---|---|---|---|---|"
judge "kill -9" target/release/crash --cycles "$(rounds 500)" --cores 2
judge "the clock" target/debug/crash --cycles "$(rounds 100)" --clock-jumps 20
judge "writes, syncs, power" target/release/disk-faults --rounds "$(rounds 100)"
judge "reads" target/release/disk-faults --rounds "$(rounds 100)" --failing-reads
judge "the device below ext4" target/release/disk-faults --rounds "$(rounds 100)" --file-system ext4
judge "power of an ext4" target/release/power-cut --rounds "$(rounds 100)"
judge "a whole cluster" scripts/nemesis.sh "$(rounds 20)"
exit "$failed"
