#!/usr/bin/env bash
# Times how soon a revocation closes live connections, and what others feel of it:
# scripts/revocation.sh [--connections N] [--rounds N] [--wire json|native|ws-rkyv] [--json]
#
# A server on all cores asks for tokens and answers backends; --connections (19000) of them are held, of which VICTIMS (100) are
# one user's and RANGED (1000) come from 127.1.0.0/16. Beside them a room of LIVE_MEMBERS (40) reads LIVE_RATE (500) posts a
# second. The user is revoked, then the range: from the interface's 200 to each closed socket, and the live load's p99 meanwhile
# divided by that before. Then the server is killed (-9) and started again, and the user's token must be refused.
# Rounds (3) have a server each; medians are printed. From outside too: BEFORE_SECONDS (5), SERVER_CORES (all), DISK_FOLDER
# (target/disk), BIN (target/release, where the programs are), BUILD (1; 0: measure those that are there).
# Exit code: 0 measured and all holds, 1 something does not hold, 3 could not be run. An aim that is missed is said only.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/jobs.sh
source scripts/jobs.sh
# shellcheck source=scripts/access-jobs.sh
source scripts/access-jobs.sh

rounds=3
connections=19000
wire=json
form=table
while [ $# -gt 0 ]; do
  case "$1" in
  --rounds) rounds="${2:?--rounds needs a number}" && shift ;;
  --connections) connections="${2:?--connections needs a number}" && shift ;;
  --wire) wire="${2:?--wire needs a name}" && shift ;;
  --json) form=json ;;
  -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit ;;
  *) echo "revocation.sh: no option is called $1 (--connections N, --rounds N, --wire W, --json)" >&2 && exit 2 ;;
  esac
  shift
done
[[ "$rounds" =~ ^[1-9][0-9]{0,3}$ ]] || { echo "revocation.sh: --rounds must be 1 to 9999" >&2 && exit 2; }
[[ "$connections" =~ ^[1-9][0-9]{0,6}$ ]] || { echo "revocation.sh: --connections must be 1 to 9999999" >&2 && exit 2; }

command -v python3 >/dev/null || fail "python3 works the medians out: apt-get install python3"
if [ "${BUILD:-1}" != 0 ]; then
  echo "building" >&2
  cargo build --release --quiet --locked -p banter-server -p banter-benches
fi
ulimit -n "$(ulimit -Hn)"
mkdir -p "$DISK_FOLDER"

results="$(mktemp -d)"
trap 'kill_server; clean_access_jobs; rm -rf "$results"' EXIT

# Both cores, and its log on the disk: a revocation lies there before its 200.
server_arguments() {
  echo "--listen 127.0.0.1:0 --cores ${SERVER_CORES:-$(nproc)} --durability memory"
}

kill_server() {
  [ -n "${SERVER_PID:-}" ] || return 0
  kill -9 "$SERVER_PID" 2>/dev/null || true
  wait "$SERVER_PID" 2>/dev/null || true
  SERVER_PID=""
  rm -rf "${SERVER_FOLDER:-}"
}

# shown_again FILE: the server is killed and started on the same folder. True when it refuses the token.
shown_again() {
  local folder="$SERVER_FOLDER" code=0
  kill -9 "$SERVER_PID"
  wait "$SERVER_PID" 2>/dev/null || true
  SERVER_DATA="$folder/data"
  start_server written
  SERVER_DATA=""
  "$BIN/revocation" refused --server "$SERVER_ADDRESS" --wire "$wire" --token-file "$1" || code=$?
  kill_server
  rm -rf "$folder"
  [ "$code" -le 1 ] || fail "the server that was started again could not be asked (exit code $code)"
  return "$code"
}

access_setup
holds=1
for round in $(seq "$rounds"); do
  echo "round $round of $rounds: opening $connections connections, then about $((2 * ${BEFORE_SECONDS:-5} + 6)) seconds of load" >&2
  SERVER_MORE=(--config "$ACCESS_FOLDER/api.toml")
  start_server written
  code=0
  "$BIN/revocation" measure --server "$SERVER_ADDRESS" --api "$(api_address)" --key-file "$ACCESS_FOLDER/key" \
    --secret-file "$ACCESS_FOLDER/secret" --token-out "$ACCESS_FOLDER/token" --wire "$wire" --connections "$connections" \
    --victims "${VICTIMS:-100}" --ranged "${RANGED:-1000}" --live-members "${LIVE_MEMBERS:-40}" --live-rate "${LIVE_RATE:-500}" \
    --before "${BEFORE_SECONDS:-5}" --json >"$results/$round.json" || code=$?
  [ "$code" -le 1 ] || { tail -n 5 "$SERVER_FOLDER/log" >&2 && fail "it could not be measured (exit code $code)"; }
  echo "round $round of $rounds: kill -9, and the token again" >&2
  again=true
  shown_again "$ACCESS_FOLDER/token" || again=false
  [ "$code" = 0 ] && [ "$again" = true ] || holds=0
  echo "$again" >"$results/$round.again"
done

COMMIT="$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)" python3 scripts/revocation-report.py "$form" "$results"
[ "$holds" = 1 ]
