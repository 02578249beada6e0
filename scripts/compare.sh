#!/usr/bin/env bash
# Measures Banter beside what people run today, in turns, and writes docs/comparison.md and docs/comparison.svg:
#   scripts/compare.sh [--rounds N] [--only JOB,…] [--servers NAME,…] [--continue]
#
# Jobs: fanout fanout-16 rate rooms giant pingpong idle. Servers: banter banter-synced bun node redis nats mosquitto.
# What is missing is installed from Debian (as root), npm and PyPI. Each run has a fresh server on SERVER_CPU (0) and its load on
# LOAD_CPU (1). A round runs every job with every server; three rounds of all of it take half an hour.
# Less than all jobs, all servers and three rounds is written to target/comparison instead of docs. The runs themselves stay there as
# JSON; --continue keeps those of a comparison of the same commit that did not come to its end.
#
# From outside: ROUNDS (3), SECONDS_MEASURED (5), WARMUP_SECONDS (2), SERVER_CPU (0), LOAD_CPU (1), IDLE_CONNECTIONS (19000),
# PORT_FIRST (22100), DISK_FOLDER (target/disk, where banter-synced keeps its log), BIN (target/release), BANTER_BIN ($BIN/banter),
# BUILD (1; 0: measure the programs that are there), LOAD_WITH (a command in front of each load, such as: flock FILE).
# Exit code: 0 measured and verified, 1 a run was not verified or could not be made, 3 the comparison could not be made.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/jobs.sh
source scripts/jobs.sh
# shellcheck source=scripts/neighbours.sh
source scripts/neighbours.sh

ALL_JOBS=(fanout fanout-16 rate rooms giant pingpong idle)
ALL_SERVERS=(banter banter-synced "${NEIGHBOURS[@]}")
RESULTS="$TARGET/comparison"
rounds="${ROUNDS:-3}"
jobs=("${ALL_JOBS[@]}")
servers=("${ALL_SERVERS[@]}")
continues=0

choose() { # WHAT GIVEN ALL…: the given ones, each of which must be one of all
  local what="$1" given name
  [ -n "$2" ] || fail "name one $what or more, with commas between them; there are: ${*:3}"
  IFS=, read -r -a given <<<"$2"
  shift 2
  for name in "${given[@]}"; do
    [[ " $* " == *" $name "* ]] || fail "no $what is called $name; there are: $*"
  done
  echo "${given[@]}"
}

while [ $# -gt 0 ]; do
  case "$1" in
  --rounds) rounds="${2:-}" && shift ;;
  --only) chosen="$(choose job "${2:-}" "${ALL_JOBS[@]}")" || exit 3 && read -r -a jobs <<<"$chosen" && shift ;;
  --servers) chosen="$(choose server "${2:-}" "${ALL_SERVERS[@]}")" || exit 3 && read -r -a servers <<<"$chosen" && shift ;;
  --continue) continues=1 ;;
  -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0" && exit ;;
  *) fail "no option is called $1 (--rounds N, --only JOB,…, --servers NAME,…, --continue)" ;;
  esac
  shift || true
done
[[ "$rounds" =~ ^[1-9][0-9]*$ ]] || fail "--rounds takes a number from 1 on, not $rounds"

# The load's arguments for a job, but for the wire and the server.
compare_arguments() {
  local timed="--payload 128 --warmup $WARMUP_SECONDS --duration $SECONDS_MEASURED --drain 30"
  case "$1" in
  fanout) echo "$(job_arguments fanout-1) $timed" ;;
  fanout-16) echo "$(job_arguments fanout-16) $timed" ;;
  rate) echo "fanout --rooms 10 --members 100 --publishers 1 --rate 2000 $timed" ;;
  rooms) echo "$(job_arguments rooms-1000) $timed" ;;
  giant) echo "fanout --rooms 1 --members 10000 --publishers 1 --rate 5 $timed" ;;
  pingpong) echo "fanout --rooms 1 --members 2 --publishers 1 --outstanding 1 --complete echo $timed" ;;
  idle) job_arguments idle ;;
  esac
}

# What a server is started with, in words for people.
described_command() {
  case "$1" in
  banter) echo "banter $(server_arguments memory)" ;;
  banter-synced) echo "banter $(server_arguments synced)" ;;
  *)
    PORT=PORT
    neighbour_command "$1" . | sed -E "s#$NEIGHBOURS_FOLDER/(bun|node)/(node_modules/.bin/)?##g; s#${NATS:-nats-server}#nats-server#; s#(env |PORT=PORT | --port PORT|\./)##g"
    neighbour_configuration "$1" | grep -v "PORT" | sed 's/^/    /' || true
    ;;
  esac
}

start() {
  case "$1" in
  banter) start_server memory && taskset -acp "$SERVER_CPU" "$SERVER_PID" >/dev/null ;;
  banter-synced) start_server synced && taskset -acp "$SERVER_CPU" "$SERVER_PID" >/dev/null ;;
  *) start_neighbour "$1" ;;
  esac
}

# run JOB SERVER FILE: FILE.json has the figures; or FILE.fault why there are none.
run() {
  local code=0
  start "$2"
  # shellcheck disable=SC2046,SC2086  # words on purpose
  ${LOAD_WITH:-} "$BIN/banter-loadgen" $(compare_arguments "$1") --json --wire "$(wire_of "$2")" --server "$SERVER_ADDRESS" \
    --cpu "$LOAD_CPU" --pid "$SERVER_PID" >"$3.part" 2>"$3.said" </dev/null || code=$?
  stop_server
  case "$code" in
  0 | 1) mv "$3.part" "$3.json" && rm -f "$3.said" ;;
  3) rm -f "$3.part" && tail -n 1 "$3.said" | sed 's/^banter-loadgen: //' >"$3.fault" && rm -f "$3.said" ;;
  *) cat "$3.said" >&2 && fail "$1 with $2 could not be run (exit code $code)" ;;
  esac
}

command -v python3 >/dev/null || fail "python3 works the medians out: apt-get install python3"
export PYTHONDONTWRITEBYTECODE=1
prepare_host
for server in "${servers[@]}"; do
  case "$server" in banter*) ;; *) install_neighbour "$server" ;; esac
done
if [ "${BUILD:-1}" != 0 ]; then
  echo "building" >&2
  cargo build --release --quiet --locked -p banter-server -p banter-loadgen --bin banter --bin banter-loadgen
fi
for program in "$BANTER_BIN" "$BIN/banter-loadgen"; do
  [ -x "$program" ] || fail "$program is missing: leave out BUILD=0"
done

commit="$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)"
mkdir -p "$RESULTS"
if [ "$continues" = 0 ] || [ "$(cat "$RESULTS/commit" 2>/dev/null)" != "$commit" ]; then
  [ "$continues" = 0 ] || echo "nothing of commit $commit is there: beginning anew" >&2
  rm -f "$RESULTS"/*.{json,fault,part,said}
fi
echo "$commit" >"$RESULTS/commit"
for server in "${servers[@]}"; do
  { case "$server" in banter*) echo "Banter $("$BANTER_BIN" --version | sed 's/.* //')" ;; *) neighbour_version "$server" ;; esac } >"$RESULTS/$server.version"
  described_command "$server" >"$RESULTS/$server.command"
done
for job in "${jobs[@]}"; do
  compare_arguments "$job" >"$RESULTS/$job.arguments"
done

trap 'stop_server; rm -f "$RESULTS"/*.part "$RESULTS"/*.said' EXIT
trap 'exit 130' INT TERM

total=$((rounds * ${#jobs[@]} * ${#servers[@]}))
number=0
echo "$total runs of about $((WARMUP_SECONDS + SECONDS_MEASURED + 3)) s: $((total * (WARMUP_SECONDS + SECONDS_MEASURED + 3) / 60)) minutes" >&2
for round in $(seq "$rounds"); do
  for job in "${jobs[@]}"; do
    for place in $(seq 0 $((${#servers[@]} - 1))); do
      # Another server begins each round, so that none always has the same one before it.
      server="${servers[(place + round - 1) % ${#servers[@]}]}"
      number=$((number + 1))
      file="$RESULTS/$round.$job.$server"
      [ -e "$file.json" ] || [ -e "$file.fault" ] || run "$job" "$server" "$file"
      printf '%3d of %d  round %d  %-10s %-14s %s\n' "$number" "$total" "$round" "$job" "$server" \
        "$(python3 scripts/compare_report.py line "$file" "$job")" >&2
    done
  done
done

folder="$RESULTS"
if [ "$rounds" -ge 3 ] && [ ${#jobs[@]} = ${#ALL_JOBS[@]} ] && [ ${#servers[@]} = ${#ALL_SERVERS[@]} ]; then folder=docs; fi
python3 scripts/compare_report.py write "$RESULTS" "$folder" "$rounds" "$(IFS=, && echo "${jobs[*]}")" "$(IFS=, && echo "${servers[*]}")"
