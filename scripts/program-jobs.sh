# The jobs of bench.sh that say what programs of rooms take, beside the same without. To be sourced behind access-jobs.sh.

PROGRAM_FOLDER=""
# Rooms whose program only harms, posts a second in them (with five each all are suspended), and those of the live room beside them.
HARM_ROOMS="${HARM_ROOMS:-100}"
HARM_RATE="${HARM_RATE:-100}"
LIVE_RATE="${LIVE_RATE:-500}"

# program_job JOB FILE: one round of it. What was measured lies in FILE.PART.part, one a run; FILE.load says that all of it is there.
program_job() {
  local part
  access_setup
  program_setup
  case "$1" in
  # There and back, so that what drifts in a round is in both.
  program-fanout) for part in none.1 pass.1 pass.2 none.2; do program_run "$1" "$2" "$part"; done ;;
  program-rooms) for part in none.1 state.1; do program_run "$1" "$2" "$part"; done ;;
  program-harm) for part in none.1 hostile.1 hostile.2 none.2; do harm_run "$2" "$part"; done ;;
  program-swap) swap_run "$2" ;;
  esac
  printf '{"job":"%s"}\n' "$1" >"$2.load"
}

# The programs, and a configuration with each of them.
program_setup() {
  [ -z "$PROGRAM_FOLDER" ] || return 0
  PROGRAM_FOLDER="$(mktemp -d)"
  : >"$PROGRAM_FOLDER/none.toml"
  echo 'function post() end' >"$PROGRAM_FOLDER/pass.luau"
  # Four keys of state in each room, as slow mode has them: a name and a time.
  cat >"$PROGRAM_FOLDER/state.luau" <<'LUAU'
function join(room, who)
  for number = 1, 4 do state.set("at:user-" .. number, room.now_ms + number) end
end
LUAU
  # One way of harm a room, by its number: what ends at the units, at the memory, in a pcall, in what is charged by length.
  cat >"$PROGRAM_FOLDER/hostile.luau" <<'LUAU'
local ways = {
  function() while true do end end,
  function() while true do pcall(function() while true do end end) end end,
  function() local text = "x" while true do text = text .. text end end,
  function() local all = {} while true do table.insert(all, {}) end end,
  function() while true do string.find(string.rep("a", 5000), ".-.-.-b") end end,
  function() local function deep() return 1 + deep() end while true do pcall(deep) end end,
  function() while true do table.sort({ 3, 1, 2 }, function() error({}) end) end end,
}
function post(room, m) ways[(tonumber(string.match(room.name, "%d+$")) or 0) % #ways + 1]() end
LUAU
  local name
  for name in pass state hostile; do
    printf '[[programs]]\nmatch = "%s"\nfile = "%s/%s.luau"\non_fault = "pass"\n' \
      "$([ "$name" = hostile ] && echo 'harm-*' || echo '*')" "$PROGRAM_FOLDER" "$name" >"$PROGRAM_FOLDER/$name.toml"
  done
}

# program_run JOB FILE PART: the load of a job on a server of its own, with the program that the part names.
program_run() {
  local code=0
  SERVER_MORE=(--config "$PROGRAM_FOLDER/${3%.*}.toml")
  start_server memory
  SERVER_MORE=()
  # shellcheck disable=SC2046  # words on purpose
  "$BIN/banter-loadgen" $(load_arguments "$1") --json \
    --server "$SERVER_ADDRESS" --cpu "$LOAD_CPU" --pid "$SERVER_PID" >"$2.$3.part" || code=$?
  stop_server
  [ "$code" -le 1 ] || fail "$1 could not be run ($3, exit code $code)"
}

# harm_run FILE PART: a live room, and posts in other rooms of the same core, whose program harms where the part says so.
harm_run() {
  local code=0
  SERVER_MORE=(--config "$PROGRAM_FOLDER/${2%.*}.toml")
  start_server memory
  SERVER_MORE=()
  "$BIN/banter-loadgen" fanout --rooms "$HARM_ROOMS" --members 1 --publishers 1 --rate "$HARM_RATE" --room-prefix harm- \
    --wire native --payload 128 --warmup 0 --duration $((WARMUP_SECONDS + SECONDS_MEASURED + 2)) --json \
    --server "$SERVER_ADDRESS" --cpu "$LOAD_CPU" >"$1.$2.harm" &
  load=$!
  "$BIN/banter-loadgen" fanout --rooms 1 --members 40 --publishers 1 --rate "$LIVE_RATE" --wire json --payload 128 \
    --warmup $((WARMUP_SECONDS + 1)) --duration "$SECONDS_MEASURED" --json \
    --server "$SERVER_ADDRESS" --cpu "$LOAD_CPU" --pid "$SERVER_PID" >"$1.$2.part" || code=$?
  wait "$load" || fail "the posts beside the live room could not be run ($2)"
  load=""
  stop_server
  [ "$code" -le 1 ] || fail "program-harm could not be run ($2, exit code $code)"
}

# swap_run FILE: another text of a program of PROGRAM_ROOMS rooms that are read.
swap_run() {
  cat "$ACCESS_FOLDER/api.toml" "$PROGRAM_FOLDER/state.toml" >"$PROGRAM_FOLDER/swap.toml"
  SERVER_MORE=(--config "$PROGRAM_FOLDER/swap.toml")
  start_server memory
  SERVER_MORE=()
  # shellcheck disable=SC2046  # words on purpose
  "$BIN/banter-loadgen" $(load_arguments program-swap) --secret-file "$ACCESS_FOLDER/secret" --json \
    --server "$SERVER_ADDRESS" --cpu "$LOAD_CPU" --pid "$SERVER_PID" >"$1.held.part" &
  load=$!
  python3 scripts/reload_turns.py "$(api_address)" "$ACCESS_FOLDER/key" --program state "$PROGRAM_FOLDER/state.luau" \
    "$PROGRAM_ROOMS" >"$1.swap.part" || fail "a swap could not be measured"
  wait "$load" || fail "the connections were not held"
  load=""
  stop_server
}

clean_program_jobs() {
  rm -rf "${PROGRAM_FOLDER:-}"
}
