#!/usr/bin/env bash
# Records the server at work and draws it: scripts/flamegraph.sh SCENARIO [NAME]  →  flamegraphs/NAME.svg (default: SCENARIO.svg)
#
# SCENARIO is one of banter-loadgen's: fanout pingpong rooms giant storm stalled churn history soak idle resume; or a job of bench.sh
# (scripts/bench.sh --help), but for restart. Of idle, storm, stalled and resume all is recorded, of the others what is measured.
# From outside: LOAD_MORE (more arguments of the load), and what bench.sh takes. It needs perf (Debian: linux-perf) and the right to use it.
set -euo pipefail
cd "$(dirname "$0")/.."
# Frame pointers make stacks whole; so the server is built apart from the one that is measured.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/flamegraph"
# shellcheck source=scripts/jobs.sh
source scripts/jobs.sh

job="${1:-}"
[ -n "$job" ] && [ "$job" != -h ] && [ "$job" != --help ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 2; }
# What the load is started with, and whether all of the run is to be seen.
sees_all=0
case "$job" in
fanout | pingpong | rooms | giant) load="$job --warmup $WARMUP_SECONDS --duration $SECONDS_MEASURED" ;;
churn | history) load="$job --duration $((WARMUP_SECONDS + SECONDS_MEASURED + 1))" ;;
soak) load="soak --duration $((WARMUP_SECONDS + SECONDS_MEASURED + 1)) --interval 1" ;;
storm) load="storm --clients 5000" sees_all=1 ;;
stalled) load="stalled --stall $SECONDS_MEASURED" sees_all=1 ;;
resume) load="resume" sees_all=1 ;;
idle) load="$(load_arguments idle)" sees_all=1 ;;
*) load="$(load_arguments "$job")" || exit 3 ;;
esac
read -r -a load_words <<<"$load ${LOAD_MORE:-}"
name="${2:-$job}"
command -v perf >/dev/null || fail "perf is missing: apt-get install linux-perf (Debian), linux-tools-generic (Ubuntu)"
perf record -q -o /dev/null -g -- true 2>/dev/null ||
  fail "perf may not record: run as root, or sysctl kernel.perf_event_paranoid=1 kernel.kptr_restrict=0"

inferno="${CARGO_TARGET_DIR%/flamegraph}/tools"
if [ ! -x "$inferno/bin/inferno-flamegraph" ]; then
  echo "installing inferno, which draws, into $inferno" >&2
  env -u RUSTFLAGS CARGO_TARGET_DIR="$inferno/build" \
    cargo install --quiet --locked --version 0.12.8 --root "$inferno" inferno
  rm -rf "$inferno/build"
fi
echo "building with frame pointers" >&2
RUSTFLAGS="-C force-frame-pointers=yes" CFLAGS="-fno-omit-frame-pointer" \
  cargo build --release --quiet --locked -p banter-server -p banter-loadgen
prepare_host

folder="$(mktemp -d)"
load="" perf=""
trap 'kill $load $perf 2>/dev/null || true; stop_server; rm -rf "$folder"' EXIT
start_server "$(level_of "$job")"
[ "$sees_all" = 1 ] || sleep_first=$((WARMUP_SECONDS + 1))
"$BIN/banter-loadgen" "${load_words[@]}" --server "$SERVER_ADDRESS" --cpu "$LOAD_CPU" --pid "$SERVER_PID" \
  >"$folder/load" &
load=$!
sleep "${sleep_first:-0}"
# An uneven rate does not beat with timers. perf is kept off the server's CPU.
seconds="$SECONDS_MEASURED"
[ "$sees_all" = 0 ] || seconds=600
taskset -c "$LOAD_CPU" perf record -q -F 1999 -g -p "$SERVER_PID" -o "$folder/perf.data" -- sleep "$seconds" 2>"$folder/perf.log" &
perf=$!
code=0
wait "$load" || code=$?
load=""
pkill -INT -P "$perf" sleep 2>/dev/null || true
wait "$perf" || true
perf=""
[ -s "$folder/perf.data" ] || { cat "$folder/perf.log" >&2 && fail "perf record did not work"; }
cat "$folder/load"
[ "$code" = 0 ] || fail "the load ended with exit code $code: the picture would be of something else"
stop_server

mkdir -p flamegraphs
perf script -i "$folder/perf.data" 2>/dev/null >"$folder/stacks"
"$inferno/bin/inferno-collapse-perf" <"$folder/stacks" >"$folder/folded"
[ -s "$folder/folded" ] || fail "perf saw nothing of the server"
commit="$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)"
"$inferno/bin/inferno-flamegraph" --title "banter, $job" --subtitle "commit $commit, $(uname -sr)" \
  --countname nanoseconds --hash --minwidth 0.1 <"$folder/folded" >"flamegraphs/$name.svg"
echo "flamegraphs/$name.svg"
