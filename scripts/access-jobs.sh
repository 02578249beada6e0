# The jobs of bench.sh that say what tokens, rights and the interface for backends take. To be sourced behind jobs.sh.

ACCESS_FOLDER=""
# The key of the interface; the server is told its digest alone.
ACCESS_KEY="a key for measuring"

# access_job JOB FILE: one round of it. What was measured lies in FILE.PART.part, one a run; FILE.load says that all of it is there.
access_job() {
  access_setup
  case "$1" in
  access-idle) access_runs "$1" "$2" idle.open idle.token ;;
  # There and back, so that what drifts in a round is in both.
  access-fanout)
    access_runs access-fanout "$2" deliveries.open.1 deliveries.token.1 deliveries.token.2 deliveries.open.2
    access_runs access-posts "$2" posts.open.1 posts.token.1 posts.token.2 posts.open.2
    ;;
  access-storm) access_runs "$1" "$2" first.open first.token again.open again.token ;;
  access-api)
    access_run access-api "$2" native.token
    api_run "$2"
    ;;
  access-reload) reload_run "$2" ;;
  esac
  printf '{"job":"%s"}\n' "$1" >"$2.load"
}

# A secret, and the configuration of a server that asks for tokens which it signed and answers backends.
access_setup() {
  [ -z "$ACCESS_FOLDER" ] || return 0
  ACCESS_FOLDER="$(mktemp -d)"
  (umask 077 && head -c 48 /dev/urandom | base64 >"$ACCESS_FOLDER/secret" && printf %s "$ACCESS_KEY" >"$ACCESS_FOLDER/key")
  printf '[auth]\nmode = "token"\nsecret_file = "%s"\n' "$ACCESS_FOLDER/secret" >"$ACCESS_FOLDER/token.toml"
  cp "$ACCESS_FOLDER/token.toml" "$ACCESS_FOLDER/api.toml"
  cat >>"$ACCESS_FOLDER/api.toml" <<TOML
[admin]
listen = "127.0.0.1:0"
api_requests_per_second_max = 0
[[admin.keys]]
name = "bench"
sha256 = "$(sha256sum <"$ACCESS_FOLDER/key" | cut -d ' ' -f 1)"
rights = ["post", "read", "moderate", "operate"]
TOML
}

# access_runs JOB FILE PART…
access_runs() {
  local part
  for part in "${@:3}"; do access_run "$1" "$2" "$part"; done
}

# access_run JOB FILE PART: the load of a job on a server of its own, which asks for tokens where the part says so. Behind
# "again" the clients have been there once, so that the server remembers their tokens.
access_run() {
  local code=0 more=()
  SERVER_MORE=()
  if [[ "$3" = *token* ]]; then
    SERVER_MORE=(--config "$ACCESS_FOLDER/token.toml")
    more+=(--secret-file "$ACCESS_FOLDER/secret")
  fi
  [[ "$3" != again.* ]] || more+=(--rehearse)
  start_server "$(level_of "$1")"
  SERVER_MORE=()
  # shellcheck disable=SC2046  # words on purpose
  "$BIN/banter-loadgen" $(load_arguments "$1") "${more[@]}" --json \
    --server "$SERVER_ADDRESS" --cpu "$LOAD_CPU" --pid "$SERVER_PID" >"$2.$3.part" || code=$?
  stop_server
  [ "$code" -le 1 ] || fail "$1 could not be run ($3, exit code $code)"
}

# api_run FILE: posts through the interface for backends.
api_run() {
  SERVER_MORE=(--config "$ACCESS_FOLDER/api.toml")
  start_server memory
  SERVER_MORE=()
  "$BIN/api-posts" --api "$(api_address)" --key-file "$ACCESS_FOLDER/key" --pid "$SERVER_PID" --cpu "$LOAD_CPU" \
    --connections "$API_CONNECTIONS" --warmup "$WARMUP_SECONDS" --duration "$SECONDS_MEASURED" --json >"$1.api.part" ||
    fail "posts through the interface for backends could not be measured"
  stop_server
}

# reload_run FILE: a reload that gives everybody other rights, while connections are held that read rooms.
reload_run() {
  cp "$ACCESS_FOLDER/api.toml" "$ACCESS_FOLDER/reload.toml"
  SERVER_MORE=(--config "$ACCESS_FOLDER/reload.toml")
  start_server memory
  SERVER_MORE=()
  # shellcheck disable=SC2046  # words on purpose
  "$BIN/banter-loadgen" $(load_arguments access-reload) --secret-file "$ACCESS_FOLDER/secret" --json \
    --server "$SERVER_ADDRESS" --cpu "$LOAD_CPU" --pid "$SERVER_PID" >"$1.held.part" &
  load=$!
  python3 scripts/reload_turns.py "$(api_address)" "$ACCESS_FOLDER/key" "$ACCESS_FOLDER/reload.toml" "$IDLE_CONNECTIONS" \
    >"$1.reload.part" || fail "a reload could not be measured"
  wait "$load" || fail "the connections were not held"
  load=""
  stop_server
}

# Where the server that was started answers backends, as its log says it.
api_address() {
  local address
  address="$(sed -n 's|.*backends are answered on http://\([^ ]*\).*|\1|p' "$SERVER_FOLDER/log" | head -n 1)"
  [ -n "$address" ] || { cat "$SERVER_FOLDER/log" >&2 && fail "the server does not say where it answers backends"; }
  echo "$address"
}

clean_access_jobs() {
  rm -rf "${ACCESS_FOLDER:-}"
}
