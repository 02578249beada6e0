# The jobs of bench.sh that need a disk, and the disk's own figures beside them. To be sourced behind jobs.sh.

# Of the posts a second that the same connections reach with one post each under way.
ACK_SHARE="${ACK_SHARE:-0.2}"
RESTART_TAIL_MIB="${RESTART_TAIL_MIB:-512}"
RESTART_SEALED_MIB="${RESTART_SEALED_MIB:-10240}"
# Given: a data folder with sealed history that is kept. Else one is made for the time of the run.
RESTART_SEALED_FOLDER="${RESTART_SEALED_FOLDER:-}"
# A server that reads a long log may take its time; this is where patience ends.
RESTART_SECONDS_MAX="${RESTART_SECONDS_MAX:-300}"
# A command that starts the server, where it is to have bounds.
STARTED_WITHIN=()

# shellcheck source=scripts/log-jobs.sh
source scripts/log-jobs.sh
# shellcheck source=scripts/restore.sh
source scripts/restore.sh

# disk_job JOB FILE: one round of it.
disk_job() {
  case "$1" in
  synced-throughput) synced_throughput "$2" ;;
  ack-light) ack_latency "$1" "$2" ;;
  ack-latency)
    run ack-reach "$2.reach" synced
    ACK_RATE="$(python3 scripts/bench-report.py posts-rate "$2.reach" "$ACK_SHARE")"
    ack_latency "$1" "$2"
    ;;
  resume-storm) run resume-storm "$2" synced ;;
  restart) restart "$2" ;;
  start-rooms) start_rooms "$2" ;;
  restore) restore "$2" ;;
  log-bytes) log_bytes "$2" ;;
  page-cost) page_cost "$2" ;;
  esac
}

# disk_floor FILE: one block after another, each durable before the next.
disk_floor() {
  "$BIN/disk-floor" latency --folder "$DISK_FOLDER" --seconds "$SECONDS_MEASURED" --cpu "$SERVER_CPU" --json >"$1.disk"
}

synced_throughput() {
  [ ! -e "$1.disk" ] || return 0
  run synced-throughput "$1.memory" memory
  run synced-throughput "$1" synced
  disk_floor "$1"
}

# ack_latency JOB FILE: beside the same without a log, since an acknowledgement also crosses two sockets, and that is no
# matter of the disk.
ack_latency() {
  run "$1" "$2.memory" memory
  run "$1" "$2" synced
  disk_floor "$2"
}

# restart FILE: from exec to "listening on", with nothing, with a tail that kill -9 left, and with sealed history.
restart() {
  local folder tail_bytes empty_s tail_s sealed_s
  folder="$(mktemp -d -p "$DISK_FOLDER")"
  RESTART_FOLDER="$folder"
  time_start "$folder/empty" && empty_s="$START_S" && end_started TERM

  make_history "$folder/tail" "$RESTART_TAIL_MIB" KILL
  # An index is derived and says that its segment was sealed; without it every segment is a tail.
  find "$folder/tail" -name '*.index' -delete
  tail_bytes="$(python3 scripts/bench-report.py written-bytes "$folder/tail")"
  "$BIN/disk-floor" read --folder "$folder/tail" --seconds "$SECONDS_MEASURED" --cpu "$SERVER_CPU" --json >"$1.disk"
  "$BIN/disk-floor" forget --folder "$folder/tail"
  time_start "$folder/tail" && tail_s="$START_S" && end_started TERM
  rm -rf "$folder"

  sealed_history
  "$BIN/disk-floor" forget --folder "$RESTART_SEALED_FOLDER"
  time_start "$RESTART_SEALED_FOLDER" && sealed_s="$START_S" && end_started TERM
  printf '{"job":"restart","empty_s":%s,"tail_s":%s,"tail_bytes":%s,"sealed_s":%s,"sealed_bytes":%s}\n' \
    "$empty_s" "$tail_s" "$tail_bytes" "$sealed_s" "$(du -sb "$RESTART_SEALED_FOLDER" | cut -f 1)" >"$1.load"
}

# Makes the sealed history unless there is one already: it outlives the rounds.
sealed_history() {
  [ -z "$RESTART_SEALED_FOLDER" ] || return 0
  echo "making $RESTART_SEALED_MIB MiB of history" >&2
  MADE_FOLDER="$(mktemp -d -p "$DISK_FOLDER")"
  make_history "$MADE_FOLDER/data" "$RESTART_SEALED_MIB" TERM
  RESTART_SEALED_FOLDER="$MADE_FOLDER/data"
}

# make_history FOLDER MIB SIGNAL: a server whose log grows to that size, and then ends so.
make_history() {
  time_start "$1" written
  "$BIN/make-history" post --server "$STARTED_ADDRESS" --folder "$1" --mib "$2" --cpu "$LOAD_CPU" >&2 ||
    fail "no history of $2 MiB could be made"
  end_started "$3"
}

# time_start FOLDER [LEVEL]: starts a server on that data folder. START_S is the time from exec until it said that it
# listens; STARTED_PID and STARTED_ADDRESS say where it is. What it says is read as it comes, not looked for.
time_start() {
  local said line="" from to deadline=$((SECONDS + RESTART_SECONDS_MAX))
  mkdir -p "$1"
  mkfifo "$1.said"
  exec {said}<>"$1.said"
  rm -f "$1.said"
  STARTED_SAID="$said"
  from="${EPOCHREALTIME/[.,]/}"
  # shellcheck disable=SC2046  # words on purpose
  "${STARTED_WITHIN[@]}" "$BIN/banter" $(server_arguments "${2:-synced}") --data "$1" >&"$said" 2>"$1.complaints" </dev/null &
  STARTED_PID=$!
  while [[ "$line" != "listening on "* ]]; do
    read -r -t 1 -u "$said" line && continue
    kill -0 "$STARTED_PID" 2>/dev/null || { cat "$1.complaints" >&2 && fail "the server did not start on $1"; }
    [ "$SECONDS" -lt "$deadline" ] || fail "the server did not listen within $RESTART_SECONDS_MAX s on $1"
  done
  to="${EPOCHREALTIME/[.,]/}"
  START_S="$(awk -v us=$((to - from)) 'BEGIN { printf "%.6f", us / 1e6 }')"
  STARTED_ADDRESS="${line#listening on }"
}

# end_started SIGNAL
end_started() {
  [ -n "${STARTED_PID:-}" ] || return 0
  kill -s "$1" "$STARTED_PID" 2>/dev/null || true
  wait "$STARTED_PID" 2>/dev/null || true
  STARTED_PID=""
  exec {STARTED_SAID}>&-
}

clean_disk_jobs() {
  end_started KILL
  rm -rf "${MADE_FOLDER:-}" "${RESTART_FOLDER:-}" "${LOG_JOB_FOLDER:-}"
  leave_memory_group
}
