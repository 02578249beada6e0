#!/usr/bin/env bash
# Measures the server beside the floor, in turns, and prints medians: scripts/bench.sh [--rounds N] [--json] [JOB …]
#
# Jobs: fanout-1 fanout-16 fanout-256 fanout-1024 fanout-10x100 rooms-1000 idle (default: these). Each has a fresh server.
# On a disk: synced-throughput ack-light ack-latency resume-storm restart. "disk" is these five.
# What the log takes: start-rooms restore log-bytes page-cost. "log" is these four.
# What tokens and the interface for backends take: access-idle access-fanout access-storm access-api access-reload. "access" is these.
# What programs of rooms take: program-fanout program-rooms program-harm program-swap. "program" is these four.
# With hostile connections, kind by kind beside honest ones, three minutes a round: hostile.
# From outside: SECONDS_MEASURED (5), WARMUP_SECONDS (2), SERVER_CPU (0), LOAD_CPU (1), IDLE_CONNECTIONS (19000),
# DISK_FOLDER (target/disk), SYNCED_ROOMS (10), SYNCED_MEMBERS (100, at least 10), ACK_ROOMS (100), ACK_MEMBERS (2),
# ACK_LIGHT_RATE (2000), ACK_SHARE (0.2), RESUME_CLIENTS (10000), RESUME_MESSAGES (1000), RESUME_KEYED (1), RESTART_TAIL_MIB
# (512), START_ROOMS ("1000000 100000"), START_SEGMENTS (1000), RESTORE_MIB (10240, or what fits), RESTORE_SEGMENT_MIB (64),
# RESTORE_MEMORY_MIB (512; 0: no limit), RESTORE_PAYLOAD (128), PAGE_COST_MIB (64), PAGE_COST_ROOMS (5000),
# RESTART_SEALED_MIB (10240), RESTART_SEALED_FOLDER (made and removed), HOSTILE_ATTACKERS (100), HOSTILE_MEMORY (1000),
# STORM_CLIENTS (10000), STORM_MESSAGES (10), API_CONNECTIONS (64), PROGRAM_ROOMS (10000), HARM_ROOMS (100), HARM_RATE (100),
# LIVE_RATE (500), BIN (target/release, where the programs are),
# BUILD (1; 0: measure the programs that are there).
# Exit code: 0 measured and verified, 1 a run was not verified, 3 could not be run. A target that is missed is said only.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/jobs.sh
source scripts/jobs.sh
# shellcheck source=scripts/disk-jobs.sh
source scripts/disk-jobs.sh
# shellcheck source=scripts/access-jobs.sh
source scripts/access-jobs.sh
# shellcheck source=scripts/program-jobs.sh
source scripts/program-jobs.sh

rounds=3
form=table
wanted=()
while [ $# -gt 0 ]; do
  case "$1" in
  --rounds) rounds="${2:?--rounds needs a number}" && shift ;;
  --json) form=json ;;
  -h | --help) sed -n '2,21s/^# \{0,1\}//p' "$0" && exit ;;
  -*) fail "no option is called $1 (--rounds N, --json)" ;;
  disk) wanted+=("${DISK_JOBS[@]}") ;;
  log) wanted+=("${LOG_JOBS[@]}") ;;
  access) wanted+=("${ACCESS_JOBS[@]}") ;;
  program) wanted+=("${PROGRAM_JOBS[@]}") ;;
  *) job_arguments "$1" >/dev/null && wanted+=("$1") ;;
  esac
  shift
done
[ ${#wanted[@]} -gt 0 ] || wanted=("${MEMORY_JOBS[@]}")

export PYTHONDONTWRITEBYTECODE=1
command -v python3 >/dev/null || fail "python3 works the medians out: apt-get install python3"
if [ "${BUILD:-1}" != 0 ]; then
  echo "building" >&2
  cargo build --release --quiet --locked -p banter-server -p banter-loadgen -p banter-benches
fi
prepare_host

results="$(mktemp -d)"
load=""
trap 'kill $load 2>/dev/null || true; stop_server; clean_disk_jobs; clean_access_jobs; clean_program_jobs; rm -rf "$results"' EXIT

# The counters that tell how much one submit and one send carry.
sample() {
  python3 scripts/bench-report.py counters "http://$SERVER_ADDRESS/metrics" >"$1" || rm -f "$1"
}

# run JOB FILE [LEVEL]: the figures as JSON, and the server's counters early and late in the measured time beside them.
run() {
  start_server "${3:-memory}"
  # shellcheck disable=SC2046  # words on purpose
  "$BIN/banter-loadgen" $(load_arguments "$1") --json \
    --server "$SERVER_ADDRESS" --cpu "$LOAD_CPU" --pid "$SERVER_PID" >"$2.load" &
  load=$!
  # Python beside them takes a CPU long enough to be seen at p99.
  if [[ " idle ack-light ack-latency resume-storm hostile " != *" $1 "* ]]; then
    sleep $((WARMUP_SECONDS + 2))
    sample "$2.early"
    sleep $((SECONDS_MEASURED > 3 ? SECONDS_MEASURED - 3 : 1))
    sample "$2.late"
  fi
  local code=0
  wait "$load" || code=$?
  load=""
  stop_server
  [ "$code" -le 1 ] || fail "$1 could not be run (exit code $code)"
}

# floor FILE NEAR: the least that the kernel takes for sends of NEAR's frame size: as many a submit as its turns had, and
# a whole round a submit. Which of them is cheaper differs, and the cheaper one is the floor.
floor() {
  local frame_bytes batch
  read -r frame_bytes batch < <(python3 scripts/bench-report.py floor-arguments "$2")
  local common=(--bytes "$frame_bytes" --cpu "$SERVER_CPU" --drain-cpu "$LOAD_CPU" --seconds "$SECONDS_MEASURED" --json)
  "$BIN/floor" "${common[@]}" --batch "$batch" >"$1.floor"
  "$BIN/floor" "${common[@]}" --batch 0 >"$1.floor-round"
}

# The floor takes its sizes from fanout-1, so that comes first in each round, wanted or not.
first=()
for job in "${wanted[@]}"; do
  [[ "$job" = hostile || "$job" = access-* || "$job" = program-* ]] || [ "$(level_of "$job")" = synced ] || first=(fanout-1)
done

for round in $(seq "$rounds"); do
  for job in "${first[@]}" "${wanted[@]}"; do
    file="$results/$round.$job"
    [ ! -e "$file.load" ] || continue
    echo "round $round of $rounds: $job" >&2
    if [[ "$job" = access-* ]]; then
      access_job "$job" "$file"
      continue
    fi
    if [[ "$job" = program-* ]]; then
      program_job "$job" "$file"
      continue
    fi
    if [ "$(level_of "$job")" = synced ]; then
      disk_job "$job" "$file"
      continue
    fi
    run "$job" "$file"
    case "$job" in
    fanout-1 | fanout-16) echo "round $round of $rounds: floor" >&2 && floor "$file" "$results/$round.fanout-1" ;;
    esac
  done
done

commit="$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)"
COMMIT="$commit" SERVER_COMMAND="banter $(server_arguments "$(level_of "${first[0]:-${wanted[0]}}")")" LOAD_COMMAND="banter-loadgen $(load_arguments "${first[0]:-${wanted[0]}}")" \
  DISK="$(df --output=source,fstype "$DISK_FOLDER" | tail -n 1 | tr -s ' ')" \
  python3 scripts/bench-report.py "$form" "$results"
