#!/usr/bin/env bash
# What a cluster costs, beside what it is made of, in one run: three NATS servers and one node on this machine, against bare appends to
# the same engine and against the same server with a log of its own.
#
#   scripts/bench-cluster.sh [ROUNDS]
#   scripts/bench-cluster.sh takeover [PARTITIONS [ROOMS [TIMES]]]     what a node takes to have the partitions of another
#
# The server's core is CPU 0, the load is on CPU 1, and the NATS servers are on both: on two CPUs figures of time are upper bounds, and
# only ratios mean something.
set -euo pipefail
cd "$(dirname "$0")/.."
JOB=costs PARTITIONS=16
if [ "${1:-}" = takeover ]; then
  JOB=takeover PARTITIONS="${2:-64}" ROOMS="${3:-10000}" TIMES="${4:-5}"
  shift "$#"
fi
ROUNDS="${1:-3}"
SECONDS_MEASURED="${SECONDS_MEASURED:-8}"
BIN=target/release
[ "${BUILD:-1}" = 0 ] || cargo build --release --quiet -p banter-server -p banter-loadgen -p banter-benches --bin banter --bin banter-loadgen --bin cluster-appends
NATS="$(scripts/nats.sh)"
WORK="$(mktemp -d)"
PIDS=()
trap 'kill ${SERVER:-} "${PIDS[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$WORK"' EXIT

ENGINE=()
MONITORING=()
for number in 1 2 3; do
  cat >"$WORK/nats-$number.conf" <<CONF
server_name: bench-$number
listen: 127.0.0.1:1${number}422
http: 127.0.0.1:1${number}822
jetstream { store_dir: "$WORK/nats-$number", sync_interval: always, max_file_store: 48G }
cluster { name: bench, listen: 127.0.0.1:1${number}622
  routes: [nats://127.0.0.1:11622, nats://127.0.0.1:12622, nats://127.0.0.1:13622] }
CONF
  "$NATS" -c "$WORK/nats-$number.conf" >"$WORK/nats-$number.log" 2>&1 &
  PIDS+=($!)
  ENGINE+=("nats://127.0.0.1:1${number}422")
  MONITORING+=("http://127.0.0.1:1${number}822")
done

cat >"$WORK/common.toml" <<CONF
[limits]
posts_per_second_max = 0
[cluster]
name = "chat"
engine = [$(printf '"%s", ' "${ENGINE[@]}")]
engine_monitoring = [$(printf '"%s", ' "${MONITORING[@]}")]
CONF
printf 'listen = "127.0.0.1:17878"\ndata = "%s"\ncores = [0]\n' "$WORK/data" | cat - "$WORK/common.toml" >"$WORK/cluster.toml"
for _ in $(seq 60); do
  "$BIN/banter" cluster init --config "$WORK/cluster.toml" --partitions "$PARTITIONS" --stream-bytes-max $((16 / (PARTITIONS / 16 > 1 ? PARTITIONS / 16 : 1) * 64))MiB >"$WORK/init.log" 2>&1 && break
  sleep 1
done

if [ "$JOB" = takeover ]; then
  echo "$PARTITIONS partitions"
  python3 scripts/bench_takeover.py "$BIN/banter" "$WORK" "$WORK/common.toml" "$ROOMS" "$TIMES"
  exit
fi

start() { # start FLAGS…: a server on CPU 0, ready
  "$BIN/banter" "$@" >"$WORK/banter.log" 2>&1 &
  SERVER=$!
  for _ in $(seq 300); do
    [ "$(curl -s -m 1 http://127.0.0.1:17878/readyz || true)" = ready ] && return
    sleep 0.1
  done
  cat "$WORK/banter.log" >&2
  return 1
}

stop() { kill "$SERVER" && wait "$SERVER" 2>/dev/null || true; }

core_ticks() { # CPU time of the server's core, in clock ticks
  local task
  for task in /proc/"$SERVER"/task/*; do
    if [[ "$(cat "$task/comm")" == core-0* ]]; then awk '{print $14 + $15}' "$task/stat"; fi
  done | awk '{sum += $1} END {print sum + 0}'
}

log_totals() { # what the core's log has taken so far: bytes, posts
  curl -s http://127.0.0.1:17878/metrics |
    awk '/^banter_committed_bytes_total/ {bytes += $2} /^banter_posts_total/ {posts += $2} END {print bytes + 0, posts + 0}'
}

load() { # load NAME ARGS…: the load's JSON, and beside it the core's CPU time and the log's bytes a post
  local name="$1" before totals
  shift
  before="$(core_ticks)" totals="$(log_totals)"
  "$BIN/banter-loadgen" "$@" --server 127.0.0.1:17878 --cpu 1 --json >"$name.json"
  echo "$totals $(log_totals)" | awk '{print ($3 - $1) / ($4 - $2)}' >"$name.bytes"
  echo $(($(core_ticks) - before)) >"$name.ticks"
}

for round in $(seq "$ROUNDS"); do
  out="$WORK/round-$round"
  for shape in "4096 1" "65536 1" "65536 4"; do
    read -r bytes depth <<<"$shape"
    # Streams that were made a moment ago may still choose who leads them.
    for _ in 1 2 3; do
      taskset -c 1 "$BIN/cluster-appends" --engine "${ENGINE[@]}" --bytes "$bytes" --depth "$depth" --seconds "$SECONDS_MEASURED" --json \
        >"$out.append-$bytes-$depth.json" && break
      sleep 2
    done
  done
  start --config "$WORK/cluster.toml"
  load "$out.cluster-lone" pingpong --duration "$SECONDS_MEASURED"
  load "$out.cluster-one-room" fanout --rooms 1 --members 16 --publishers 16 --outstanding 500 --complete ack --duration "$SECONDS_MEASURED"
  load "$out.cluster-rooms" fanout --rooms 64 --members 2 --outstanding 4 --complete ack --duration "$SECONDS_MEASURED"
  stop
  rm -rf "$WORK/local"
  start --listen 127.0.0.1:17878 --data "$WORK/local" --cores 0, --posts-per-second-max 0
  load "$out.local-lone" pingpong --duration "$SECONDS_MEASURED"
  load "$out.local-rooms" fanout --rooms 64 --members 2 --outstanding 4 --complete ack --duration "$SECONDS_MEASURED"
  stop
  echo "round $round of $ROUNDS is done" >&2
done
[ -z "${KEPT:-}" ] || cp "$WORK"/round-* "$KEPT"/
python3 scripts/bench_cluster.py "$WORK" "$ROUNDS"
