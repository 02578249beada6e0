# What bench.sh and flamegraph.sh share: the jobs, and a server to run them against. To be sourced.

# The server has one CPU for itself, and the load another. Both can be set from outside.
SERVER_CPU="${SERVER_CPU:-0}"
LOAD_CPU="${LOAD_CPU:-1}"
WARMUP_SECONDS="${WARMUP_SECONDS:-2}"
SECONDS_MEASURED="${SECONDS_MEASURED:-5}"
IDLE_CONNECTIONS="${IDLE_CONNECTIONS:-19000}"
TARGET="${CARGO_TARGET_DIR:-target}"
BIN="${BIN:-$TARGET/release}"
BANTER_BIN="${BANTER_BIN:-$BIN/banter}"
# On the disk that is to be measured; what is made there goes again.
DISK_FOLDER="${DISK_FOLDER:-$TARGET/disk}"
# With fewer members a room the disk weighs more, and sends to members less.
SYNCED_ROOMS="${SYNCED_ROOMS:-10}"
SYNCED_MEMBERS="${SYNCED_MEMBERS:-100}"
# All members post, each at most one at a time where it is to be seen what they reach.
ACK_ROOMS="${ACK_ROOMS:-100}"
ACK_MEMBERS="${ACK_MEMBERS:-2}"
ACK_LIGHT_RATE="${ACK_LIGHT_RATE:-2000}"
RESUME_CLIENTS="${RESUME_CLIENTS:-10000}"
RESUME_MESSAGES="${RESUME_MESSAGES:-1000}"
# 1: posts have keys, as those of clients do that may have to repeat them.
RESUME_KEYED="${RESUME_KEYED:-1}"
HOSTILE_ATTACKERS="${HOSTILE_ATTACKERS:-100}"
HOSTILE_MEMORY="${HOSTILE_MEMORY:-1000}"
# With few messages to be told, who comes in weighs more, and so do tokens.
STORM_CLIENTS="${STORM_CLIENTS:-10000}"
STORM_MESSAGES="${STORM_MESSAGES:-10}"
API_CONNECTIONS="${API_CONNECTIONS:-64}"
PROGRAM_ROOMS="${PROGRAM_ROOMS:-10000}"
# Flags of the server beside those of every job, and its data folder where it is not to have one of its own.
SERVER_MORE=()
SERVER_DATA=""

MEMORY_JOBS=(fanout-1 fanout-16 fanout-256 fanout-1024 fanout-10x100 rooms-1000 idle)
DISK_JOBS=(synced-throughput ack-light ack-latency resume-storm restart)
LOG_JOBS=(start-rooms restore log-bytes page-cost)
ACCESS_JOBS=(access-idle access-fanout access-storm access-api access-reload)
PROGRAM_JOBS=(program-fanout program-rooms program-harm program-swap)
JOBS=("${MEMORY_JOBS[@]}" "${DISK_JOBS[@]}" "${LOG_JOBS[@]}" "${ACCESS_JOBS[@]}" "${PROGRAM_JOBS[@]}" hostile)

fail() {
  echo "${0##*/}: $*" >&2
  exit 3
}

# The load generator's arguments for a job: bodies of 128 bytes, JSON over WebSocket.
job_arguments() {
  local rooms_10="fanout --rooms 10 --members 100" rooms_synced="fanout --rooms $SYNCED_ROOMS --members $SYNCED_MEMBERS"
  local rooms_ack="fanout --rooms $ACK_ROOMS --members $ACK_MEMBERS --publishers $ACK_MEMBERS"
  case "$1" in
  fanout-1) echo "$rooms_10 --publishers 1 --outstanding 1" ;;
  fanout-16 | access-fanout) echo "$rooms_10 --publishers 1 --outstanding 16" ;;
  # Nobody but the publisher reads, so that a post is nearly all of it.
  access-posts) echo "fanout --rooms 100 --members 1 --publishers 1 --outstanding 16 --complete ack" ;;
  # As many native clients as connections of a backend, each with one post under way.
  access-api) echo "fanout --rooms $API_CONNECTIONS --members 1 --publishers 1 --outstanding 1 --complete ack" ;;
  access-storm) echo "resume --clients $STORM_CLIENTS --rooms 100 --messages $STORM_MESSAGES" ;;
  fanout-256) echo "$rooms_10 --publishers 1 --outstanding 256" ;;
  fanout-1024) echo "$rooms_10 --publishers 1 --outstanding 1024" ;;
  fanout-10x100 | program-fanout) echo "$rooms_10 --publishers 10 --outstanding 100" ;;
  # A room for each connection.
  program-rooms) echo "idle --connections $PROGRAM_ROOMS --rooms $PROGRAM_ROOMS" ;;
  program-swap) echo "idle --connections $PROGRAM_ROOMS --rooms $PROGRAM_ROOMS --hold 15" ;;
  synced-throughput) echo "$rooms_synced --publishers 10 --outstanding 100" ;;
  ack-light) echo "$rooms_ack --rate $ACK_LIGHT_RATE" ;;
  # A share of what ack-reach reached, which bench.sh works out.
  ack-latency) echo "$rooms_ack --rate ${ACK_RATE:-20000}" ;;
  ack-reach) echo "$rooms_ack --outstanding 1 --complete ack" ;;
  resume-storm)
    local keyed=""
    [ "$RESUME_KEYED" = 0 ] || keyed=" --keyed"
    echo "resume --clients $RESUME_CLIENTS --rooms 100 --messages $RESUME_MESSAGES$keyed"
    ;;
  # Posts share commits, so that blocks are full; and nobody else reads them.
  log-bytes) echo "fanout --rooms 100 --members 1 --publishers 1 --outstanding 100 --complete ack --keyed" ;;
  rooms-1000) echo "fanout --rooms 1000 --members 5 --publishers 5 --outstanding 1" ;;
  hostile) echo "hostile --attackers $HOSTILE_ATTACKERS --memory $HOSTILE_MEMORY" ;;
  idle | access-idle) echo "idle --connections $IDLE_CONNECTIONS --rooms 190" ;;
  # Held until the reload was measured.
  access-reload) echo "idle --connections $IDLE_CONNECTIONS --rooms 190 --hold 15" ;;
  # Their history is made by make-history.
  restart | start-rooms | restore | page-cost) echo "" ;;
  # Two loads beside each other, which harm_run has.
  program-harm) echo "" ;;
  *) fail "no job is called $1; there are: ${JOBS[*]}" ;;
  esac
}

# The same, with how long and in what form.
load_arguments() {
  local job
  job="$(job_arguments "$1")" || exit 3
  case "$1" in
  idle | access-idle | access-reload | program-rooms | program-swap) echo "$job --wire json" ;;
  access-api) echo "$job --wire native --payload 128 --warmup $WARMUP_SECONDS --duration $SECONDS_MEASURED" ;;
  hostile) echo "$job --wire json --duration $SECONDS_MEASURED" ;;
  resume-storm | access-storm) echo "$job --wire json --payload 128 --warmup $WARMUP_SECONDS --before $SECONDS_MEASURED" ;;
  *) echo "$job --wire json --payload 128 --warmup $WARMUP_SECONDS --duration $SECONDS_MEASURED" ;;
  esac
}

# The durability that a job is measured at.
level_of() {
  if [[ " ${DISK_JOBS[*]} ${LOG_JOBS[*]} " == *" $1 "* ]]; then echo synced; else echo memory; fi
}

# What the server is started with at a durability, but for its data folder. "N," is CPU N alone, where N would be a count.
server_arguments() {
  echo "--listen 127.0.0.1:0 --cores $SERVER_CPU, --durability ${1:-memory} --posts-per-second-max 0 --connections-max 0"
}

prepare_host() {
  local cpu
  for cpu in "$SERVER_CPU" "$LOAD_CPU"; do
    taskset -c "$cpu" true 2>/dev/null ||
      fail "CPU $cpu cannot be used; two CPUs are needed, one for the server and one for the load: set SERVER_CPU and LOAD_CPU"
  done
  [ "$SERVER_CPU" != "$LOAD_CPU" ] || fail "the server and the load need a CPU each: set SERVER_CPU and LOAD_CPU"
  ulimit -n "$(ulimit -Hn)"
  mkdir -p "$DISK_FOLDER"
  local descriptors
  descriptors="$(ulimit -n)"
  if [ "$descriptors" != unlimited ] && [ "$IDLE_CONNECTIONS" -gt $((descriptors - 100)) ]; then
    IDLE_CONNECTIONS=$((descriptors - 100))
    echo "${0##*/}: $descriptors descriptors are allowed, so idle has $IDLE_CONNECTIONS connections;" \
      "for more raise the hard limit (ulimit -Hn, LimitNOFILE=)" >&2
  fi
}

# start_server [LEVEL]: a server of its own; SERVER_PID, SERVER_ADDRESS and SERVER_FOLDER say where it is. A log is on
# the disk that is to be measured.
start_server() {
  local level="${1:-memory}"
  if [ "$level" = memory ]; then SERVER_FOLDER="$(mktemp -d)"; else SERVER_FOLDER="$(mktemp -d -p "$DISK_FOLDER")"; fi
  # The server's own process opens it, which may be after the first look.
  : >"$SERVER_FOLDER/out"
  # shellcheck disable=SC2046  # words on purpose
  "$BANTER_BIN" $(server_arguments "$level") "${SERVER_MORE[@]}" --data "${SERVER_DATA:-$SERVER_FOLDER/data}" \
    >"$SERVER_FOLDER/out" 2>"$SERVER_FOLDER/log" </dev/null &
  SERVER_PID=$!
  local tries
  for tries in $(seq 100); do
    SERVER_ADDRESS="$(sed -n 's/^listening on //p' "$SERVER_FOLDER/out")"
    [ -z "$SERVER_ADDRESS" ] || return 0
    kill -0 "$SERVER_PID" 2>/dev/null || break
    sleep 0.05
  done
  cat "$SERVER_FOLDER/log" >&2
  fail "the server did not start (after $tries looks)"
}

stop_server() {
  [ -n "${SERVER_PID:-}" ] || return 0
  kill "$SERVER_PID" 2>/dev/null || true
  wait "$SERVER_PID" 2>/dev/null || true
  SERVER_PID=""
  rm -rf "$SERVER_FOLDER"
}
