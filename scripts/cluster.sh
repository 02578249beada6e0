#!/usr/bin/env bash
# A cluster on this machine, to look at: three NATS servers and two nodes of Banter, each a process. Ctrl-C ends all of it.
#
# scripts/cluster.sh           starts it, says where clients go and what to try, tells who serves, and starts again what was killed
# scripts/cluster.sh --check   starts it, posts, kills the node that serves, and sees that the other has the message and takes more
#
# The servers run by deploy/nats/, and the nodes by deploy/banter-cluster.toml, with other addresses; so these are tried too.
# One machine keeps nothing safe from its own end: this is for trying, and docs/cluster.md says how it is meant.
# BANTER=PATH takes that program instead of building one, NATS_SERVER=PATH that server instead of scripts/nats.sh's.
# Exit code: 0 all is well, 1 something is not, 3 nothing could be tried.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "cluster.sh: $*" >&2
  exit "${code:-3}"
}
case "${1:-}" in
  "") is_check= ;;
  --check) is_check=1 ;;
  *) fail "unknown argument $1: scripts/cluster.sh [--check]" ;;
esac
command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3"
nats="${NATS_SERVER:-$(scripts/nats.sh)}" || fail "there is no nats-server: name one by NATS_SERVER"
if [ -z "${BANTER:-}" ]; then cargo build --release --quiet --locked -p banter-server; fi
banter="$(realpath "${BANTER:-${CARGO_TARGET_DIR:-target}/release/banter}")"

mkdir -p target
work="$(mktemp -d "$PWD/target/cluster.XXXXXX")"
declare -A process
runs() { kill -0 "${process[$1]}" 2>/dev/null; }
stop() {
  trap - EXIT INT TERM
  # The nodes first, so that they can give up what they own.
  for name in node-1 node-2 nats-1 nats-2 nats-3; do
    [ -n "${process[$name]:-}" ] || continue
    kill "${process[$name]}" 2>/dev/null || true
    # It is no job of this shell any more, which would else say how each of them ends.
    for _ in $(seq 100); do
      runs "$name" || break
      sleep 0.1
    done
    kill -9 "${process[$name]}" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

# The usual ports of a trial, or whatever is free: port, monitoring, route of each server, and the nodes'.
mapfile -t ports < <(python3 - "$is_check" <<'PYTHON'
import socket, sys

wanted = [] if sys.argv[1] else [14222, 18222, 16222, 14223, 18223, 16223, 14224, 18224, 16224, 7878, 7879]
try:
    held = [socket.create_server(("127.0.0.1", port)) for port in wanted or [0] * 11]
except OSError:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(11)]
for listener in held:
    print(listener.getsockname()[1])
PYTHON
)
listen=("${ports[9]}" "${ports[10]}")
# What stands in deploy/ for the addresses of three machines.
here=(-e "s|/var/lib/nats|$work/STORE|" -e 's/max_file_store: .*/max_file_store: 8GB/' -e 's/CHANGE-THE-[A-Z]*-PASSWORD/demo/g')
for number in 1 2 3; do
  at=$((3 * (number - 1)))
  here+=(-e "s/10.0.0.$number:4222/127.0.0.1:${ports[$at]}/g" -e "s/10.0.0.$number:8222/127.0.0.1:${ports[$((at + 1))]}/g"
    -e "s/10.0.0.$number:6222/127.0.0.1:${ports[$((at + 2))]}/g")
done

start_server() {
  mkdir -p "$work/nats-$1"
  for file in "nats-$1.conf" banter-common.conf; do
    sed "${here[@]}" "deploy/nats/$file" | sed "s|$work/STORE|$work/nats-$1/store|" >"$work/nats-$1/$file"
  done
  "$nats" -c "$work/nats-$1/nats-$1.conf" >>"$work/nats-$1.log" 2>&1 &
  process[nats-$1]=$!
  disown
}

start_node() {
  local port="${listen[$(($1 - 1))]}" folder="$work/node-$1"
  mkdir -p "$folder"
  # No proxy, no tokens: on loopback everybody is who he says.
  sed "${here[@]}" -e "s/^listen = .*/listen = \"127.0.0.1:$port\"/" -e "s|^data = .*|data = \"$folder\"|" \
    -e '/^origins = /d' -e '/^trusted_proxies = /d' -e '/^\[auth\]/,/^$/d' -e "s/^node = .*/node = \"node-$1\"/" \
    -e "s/^addresses = .*/addresses = [\"127.0.0.1:$port\"]/" deploy/banter-cluster.toml >"$work/node-$1.toml"
  printf '\n[admin]\nsocket = "%s"\n' "node-$1/admin.sock" >>"$work/node-$1.toml"
  # A socket's path may be short only, so it is named from here.
  (cd "$work" && exec "$banter" --config "node-$1.toml" --cores 1 >>"node-$1.log" 2>&1) &
  process[node-$1]=$!
  disown
}

# What a node answers to whoever asks whether it is ready: 200 it serves, 503 it does not.
serves() {
  python3 - "${listen[$(($1 - 1))]}" <<'PYTHON'
import http.client, sys

asked = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=1)
try:
    asked.request("GET", "/readyz")
    sys.exit(0 if asked.getresponse().status == 200 else 1)
except OSError:
    sys.exit(1)
PYTHON
}

# Who serves: 1, 2, or nothing.
active() {
  for number in 1 2; do
    if runs "node-$number" && serves "$number"; then
      echo "$number"
      return
    fi
  done
}

cluster() { "$banter" cluster "$@" --config "$work/node-1.toml"; }

for number in 1 2 3; do start_server "$number"; done
for number in 1 2; do start_node "$number"; done
# A server that has just been started needs a while until it knows the others.
for _ in $(seq 60); do
  if cluster init >"$work/init.out" 2>&1; then break; fi
  for number in 1 2 3; do
    runs "nats-$number" || { cat "$work/nats-$number.log" >&2; code=1 fail "NATS server $number has ended"; }
  done
  sleep 0.5
done
head -2 "$work/init.out"
# The nodes wait for the engine, and for its streams.
if ! cluster status --wait --timeout 60s >"$work/status.out" 2>&1; then
  cat "$work/status.out" "$work"/node-*.log >&2
  code=1 fail "the cluster did not come up"
fi

# Asks a node's interface for backends: METHOD PATH [JSON].
ask() {
  (cd "$work" && python3 - "node-$1/admin.sock" "${@:2}" <<'PYTHON'
import http.client, socket, sys

path, method, target, *body = sys.argv[1:]
asked = http.client.HTTPConnection("banter", timeout=5)
try:
    asked.sock = socket.socket(socket.AF_UNIX)
    asked.sock.settimeout(5)
    asked.sock.connect(path)
    asked.request(method, target, *body, {"Content-Type": "application/json"} if body else {})
    answer = asked.getresponse()
    print(answer.read().decode())
    sys.exit(0 if answer.status == 200 else 1)
except OSError as fault:
    print(fault)
    sys.exit(1)
PYTHON
  )
}

if [ -n "$is_check" ]; then
  first="$(active)"
  [ -n "$first" ] || { code=1 fail "no node serves, though status says that all is well"; }
  other=$((3 - first))
  ask "$first" POST /v1/rooms/lobby/messages '{"user":"ops","body":"before"}' >"$work/before.out" ||
    { cat "$work/before.out" >&2; code=1 fail "node-$first does not take a post"; }
  if serves "$other"; then code=1 fail "both nodes say that they serve"; fi
  killed_ms="$(date +%s%3N)"
  kill -9 "${process[node-$first]}"
  until ask "$other" POST /v1/rooms/lobby/messages '{"user":"ops","body":"after"}' >"$work/after.out"; do
    [ $(($(date +%s%3N) - killed_ms)) -lt 30000 ] || { cat "$work/after.out" "$work"/*.log >&2; code=1 fail "nobody took over"; }
    sleep 0.1
  done
  took_ms=$(($(date +%s%3N) - killed_ms))
  ask "$other" GET '/v1/rooms/lobby/messages?after=0&limit=10' >"$work/page.out" || true
  python3 - "$work/page.out" <<'PYTHON' || { cat "$work/page.out" >&2; code=1 fail "the history is not what it should be"; }
import json, sys

page = json.load(open(sys.argv[1]))
found = [(message["sequence"], message["body"]) for message in page["messages"]]
# A post whose answer did not come may have been stored, and was posted again.
sys.exit(0 if found[0] == (1, "before") and found[1:] and all(body == "after" for _, body in found[1:]) else 1)
PYTHON
  # One node is left, and that needs a person.
  if cluster status >"$work/status.out"; then code=1 fail "status says that one node is enough"; fi
  grep -q "node-$other is the only node" "$work/status.out" || { cat "$work/status.out" >&2; code=1 fail "status does not say what is wrong"; }
  echo "node-$first was killed, node-$other took the next post $took_ms ms later, and has what node-$first acknowledged"
  exit 0
fi

cat <<TEXT

Open both pages, and write in one room:
  http://127.0.0.1:${listen[0]}/     node-1, process ${process[node-1]}
  http://127.0.0.1:${listen[1]}/     node-2, process ${process[node-2]}

Try, in another terminal:
  $banter cluster status --config $work/node-1.toml
  kill -9 PROCESS        of the node that serves: the other one goes on; the killed one is started again here
  kill -9 ${process[nats-1]}       of a NATS server (nats-1): posts of some rooms pause for seconds, and nothing is lost

The logs are in $work. Ctrl-C ends all of it.

TEXT
told=
declare -A again_at
while true; do
  now="$(active)"
  if [ "$now" != "$told" ]; then
    if [ -n "$now" ]; then
      echo "$(date +%T) node-$now serves: http://127.0.0.1:${listen[$((now - 1))]}/, process ${process[node-$now]}"
    else
      echo "$(date +%T) no node serves"
    fi
    told="$now"
  fi
  for name in node-1 node-2 nats-1 nats-2 nats-3; do
    if runs "$name"; then continue; fi
    if [ -z "${again_at[$name]:-}" ]; then
      echo "$(date +%T) $name has ended, and starts again in 10 s"
      again_at[$name]=$((SECONDS + 10))
    elif [ "$SECONDS" -ge "${again_at[$name]}" ]; then
      case "$name" in
        node-*) start_node "${name##*-}" ;;
        *) start_server "${name##*-}" ;;
      esac
      echo "$(date +%T) $name is process ${process[$name]} now"
      unset "again_at[$name]"
    fi
  done
  sleep 0.3
done
