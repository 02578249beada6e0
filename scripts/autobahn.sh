#!/usr/bin/env bash
# Runs the Autobahn cases for WebSocket against the server's own codec and data plane: scripts/autobahn.sh [FOLDER]
#
# The cases are those of the Autobahn test suite, as the package kosoku has them; without 12 and 13, which are about
# compression that Banter does not offer. Reports go to FOLDER (default: target/autobahn/reports).
# Exit code: 0 all cases are well, 1 some are not (they are listed), 3 the suite could not be run.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "autobahn.sh: $*" >&2
  exit 3
}

target="${CARGO_TARGET_DIR:-target}"
reports="${1:-$target/autobahn/reports}"
tools="$target/autobahn/python"
command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3 python3-venv"
if [ ! -x "$tools/bin/kosoku" ]; then
  echo "installing the suite into $tools" >&2
  python3 -m venv "$tools" || fail "the module venv is missing: apt-get install python3-venv"
  "$tools/bin/pip" install --quiet kosoku==0.1.0
fi
cargo build --release --quiet --locked -p banter-tests --bin websocket-echo

mkdir -p "$reports"
rm -f "$reports"/*.json "$reports"/*.html
said="$(mktemp)"
"$target/release/websocket-echo" --port 0 >"$said" </dev/null &
echo_server=$!
trap 'kill $echo_server 2>/dev/null || true; rm -f "$said"' EXIT
for _ in $(seq 100); do
  address="$(sed -n 's/^listening on //p' "$said")"
  [ -z "$address" ] || break
  kill -0 "$echo_server" 2>/dev/null || fail "websocket-echo ended at once"
  sleep 0.05
done
[ -n "$address" ] || fail "websocket-echo does not say where it listens"

# Its exit code is not asked: what is judged is the report.
"$tools/bin/kosoku" -m fuzzingclient "$address" -x '12.*' -x '13.*' -o "$reports" >"$reports/log" 2>&1 || true
kill -0 "$echo_server" 2>/dev/null || fail "websocket-echo ended during the cases; see $reports/log"

python3 - "$reports" <<'PYTHON'
import collections
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
WELL = {"OK", "NON-STRICT", "INFORMATIONAL"}
GROUPS = {"1", "2", "3", "4", "5", "6", "7", "9", "10"}
index = folder / "index.json"
if not index.exists():
    print((folder / "log").read_text(), file=sys.stderr)
    sys.exit(3)
(cases,) = json.loads(index.read_text()).values()
missing = GROUPS - {case.split(".")[0] for case in cases}
if missing:
    print(f"no case was run of the groups {sorted(missing, key=int)}", file=sys.stderr)
    sys.exit(3)
counted = collections.Counter()
bad = []
for case in sorted(cases, key=lambda name: [int(part) for part in name.split(".")]):
    found = cases[case]
    counted[found["behavior"]] += 1
    if case.split(".")[0] in GROUPS and not {found["behavior"], found["behaviorClose"]} <= WELL:
        report = json.loads((folder / found["reportfile"]).read_text())
        bad.append(f"{case}: {found['behavior']}, close {found['behaviorClose']}: {report.get('result')}")
print(f"{len(cases)} cases: " + ", ".join(f"{count} {word}" for word, count in sorted(counted.items())))
print("\n".join(bad) if bad else "all are well", f"\nreports: {folder}")
sys.exit(1 if bad else 0)
PYTHON
