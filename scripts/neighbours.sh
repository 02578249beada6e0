# The servers that compare.sh puts beside Banter: how each is had, started, and asked for its version. To be sourced behind jobs.sh.
#
# Each has one CPU, listens on loopback, keeps nothing on a disk, and never drops or cuts off a reader that is slow, as far as it
# can be told to: a run whose messages are lost proves nothing. All else is as it comes.

NEIGHBOURS=(bun node redis nats mosquitto)
NEIGHBOURS_FOLDER="${NEIGHBOURS_FOLDER:-$TARGET/neighbours}"
# Ports are taken from here on, one for each start.
PORT_NEXT="${PORT_FIRST:-22100}"

# What a Debian package is needed for, if it is not there.
install_package() { # PROGRAM PACKAGE…
  command -v "$1" >/dev/null && return
  local program="$1"
  shift
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "$program is missing: apt-get install $*, or leave it out with --servers"
  echo "installing $*" >&2
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; } >&2 ||
    fail "$* could not be installed: leave it out with --servers"
  # Debian starts a server that it installs; here each run has one of its own.
  if command -v systemctl >/dev/null; then systemctl disable --now "$program" >/dev/null 2>&1 || true; fi
}

# A folder of benches/neighbours with what its lock file names.
install_modules() { # NAME
  install_package npm npm nodejs
  local folder="$NEIGHBOURS_FOLDER/$1"
  mkdir -p "$folder"
  cp "benches/neighbours/$1/"{package.json,package-lock.json,server.js} "$folder/"
  echo "installing what benches/neighbours/$1/package-lock.json names" >&2
  (cd "$folder" && npm ci --no-audit --no-fund --loglevel=error) >&2 || fail "npm ci failed in $folder: leave $1 out with --servers"
}

install_neighbour() {
  case "$1" in
  bun) install_modules bun ;;
  node) install_modules node ;;
  redis) install_package redis-server redis-server ;;
  nats) NATS="${NATS:-$(scripts/nats.sh)}" || fail "no NATS server: leave it out with --servers" ;;
  # Debian has it where only root looks.
  mosquitto) PATH="$PATH:/usr/sbin" && install_package mosquitto mosquitto ;;
  esac
}

neighbour_version() {
  case "$1" in
  bun) echo "Bun $("$NEIGHBOURS_FOLDER/bun/node_modules/.bin/bun" --version)" ;;
  node) echo "Node $(node --version), ws $(sed -n 's/.*"ws": "\(.*\)".*/\1/p' benches/neighbours/node/package.json)" ;;
  redis) redis-server --version | sed 's/.* v=\([^ ]*\).*/Redis \1/' ;;
  nats) "$NATS" --version | sed 's/.*: v/NATS /' ;;
  # It ends with 3 where it is asked for help.
  mosquitto) { mosquitto -h || true; } | sed -n '1s/mosquitto version /mosquitto /p' ;;
  esac
}

# The --wire that the load speaks with it.
wire_of() {
  case "$1" in
  banter*) echo json ;;
  bun | node) echo plain ;;
  mosquitto) echo mqtt ;;
  *) echo "$1" ;;
  esac
}

# The words that start it on $PORT, but for taskset; in its folder lies what neighbour_configuration says.
neighbour_command() { # NAME FOLDER
  case "$1" in
  bun) echo "env PORT=$PORT $NEIGHBOURS_FOLDER/bun/node_modules/.bin/bun $NEIGHBOURS_FOLDER/bun/server.js" ;;
  node) echo "env PORT=$PORT node $NEIGHBOURS_FOLDER/node/server.js" ;;
  redis) echo "redis-server $2/configuration" ;;
  nats) echo "env GOMAXPROCS=1 $NATS --addr 127.0.0.1 --port $PORT" ;;
  mosquitto) echo "mosquitto -c $2/configuration" ;;
  esac
}

# Nagle's algorithm is off by itself in all but mosquitto.
neighbour_configuration() { # NAME
  case "$1" in
  redis)
    printf '%s\n' "port $PORT" "bind 127.0.0.1" 'save ""' "appendonly no" "io-threads 1" "tcp-backlog 4096" \
      "maxclients $(($(ulimit -n) - 64))" "client-output-buffer-limit pubsub 0 0 0"
    ;;
  mosquitto)
    printf '%s\n' "listener $PORT 127.0.0.1" "user $(id -un)" "allow_anonymous true" "persistence false" \
      "set_tcp_nodelay true" "max_queued_messages 0"
    ;;
  esac
}

# start_neighbour NAME: SERVER_PID, SERVER_ADDRESS and SERVER_FOLDER say where it is; stop_server of jobs.sh ends it.
start_neighbour() {
  PORT=$PORT_NEXT
  PORT_NEXT=$((PORT_NEXT + 1))
  SERVER_FOLDER="$(mktemp -d)"
  SERVER_ADDRESS="127.0.0.1:$PORT"
  neighbour_configuration "$1" >"$SERVER_FOLDER/configuration"
  # shellcheck disable=SC2046  # words on purpose
  taskset -c "$SERVER_CPU" $(neighbour_command "$1" "$SERVER_FOLDER") >"$SERVER_FOLDER/log" 2>&1 </dev/null &
  SERVER_PID=$!
  local tries
  for tries in $(seq 200); do
    if (: </dev/tcp/127.0.0.1/"$PORT") 2>/dev/null; then return 0; fi
    kill -0 "$SERVER_PID" 2>/dev/null || break
    sleep 0.05
  done
  cat "$SERVER_FOLDER/log" >&2
  fail "$1 did not start on port $PORT (after $tries looks); PORT_FIRST chooses others"
}
