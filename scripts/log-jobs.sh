# The jobs of bench.sh that say what the log takes of memory, disk and readings. To be sourced behind disk-jobs.sh.

START_ROOMS="${START_ROOMS:-1000000 100000}"
START_SEGMENTS="${START_SEGMENTS:-1000}"
# What was only needed to start goes back to the kernel first.
START_REST_SECONDS=2
# Of a busy room in one, and of rooms that have few messages in the other.
PAGE_COST_MIB="${PAGE_COST_MIB:-64}"
# At least 100, of which 100 are read.
PAGE_COST_ROOMS="${PAGE_COST_ROOMS:-5000}"

# started_kib FIELD: of the server's process, as /proc tells it.
started_kib() {
  awk -v name="$1:" '$1 == name { print $2 }' "/proc/$STARTED_PID/status"
}

# written_history FOLDER ARGUMENT…: a data folder that no server wrote, cold.
written_history() {
  "$BIN/make-history" write --folder "$1" "${@:2}" >&2 || fail "no history could be written to $1"
  "$BIN/disk-floor" forget --folder "$1"
}

# start_rooms FILE: a start on so many rooms, each in one segment: how long it takes, and what a room that rests takes of
# memory, beyond what a server without any does.
start_rooms() {
  local rooms empty_kib rss_kib log_s start_s runs=()
  LOG_JOB_FOLDER="$(mktemp -d -p "$DISK_FOLDER")"
  time_start "$LOG_JOB_FOLDER/empty" && sleep "$START_REST_SECONDS"
  empty_kib="$(started_kib VmRSS)" && end_started TERM
  for rooms in $START_ROOMS; do
    written_history "$LOG_JOB_FOLDER/$rooms" --rooms "$rooms" --segments "$START_SEGMENTS"
    time_start "$LOG_JOB_FOLDER/$rooms"
    sleep "$START_REST_SECONDS"
    rss_kib="$(started_kib VmRSS)"
    log_s="$(log_said "$LOG_JOB_FOLDER/$rooms" "the log holds $rooms rooms")"
    start_s="$START_S"
    # The same once more, with the checkpoint that the server makes at rest.
    await_checkpoint "$LOG_JOB_FOLDER/$rooms"
    end_started TERM
    time_start "$LOG_JOB_FOLDER/$rooms"
    end_started TERM
    runs+=("$(printf '{"rooms":%s,"segments":%s,"start_s":%s,"log_s":%s,"checkpoint_start_s":%s,"rss_kib":%s,"rss_bytes_per_room":%s}' \
      "$rooms" "$START_SEGMENTS" "$start_s" "$log_s" "$START_S" "$rss_kib" $(((rss_kib - empty_kib) * 1024 / rooms)))")
    rm -rf "${LOG_JOB_FOLDER:?}/$rooms"
  done
  rm -rf "$LOG_JOB_FOLDER"
  printf '{"job":"start-rooms","empty_rss_kib":%s,"runs":[%s]}\n' "$empty_kib" "$(IFS=, && echo "${runs[*]}")" >"$1.load"
}

# await_checkpoint FOLDER: waits until the server has made one.
await_checkpoint() {
  local waited=0
  until [ -e "$1/log/checkpoint" ]; do
    [ "$waited" -lt "$RESTART_SECONDS_MAX" ] || fail "the server made no checkpoint of $1 within $RESTART_SECONDS_MAX seconds"
    sleep 1
    waited=$((waited + 1))
  done
}

# log_said FOLDER BEGINNING: the seconds that the line of the server's log that says this ends with.
log_said() {
  local line
  line="$(grep -F "$2 " "$1.complaints")" || { cat "$1.complaints" >&2 && fail "the server did not say: $2"; }
  sed -n 's/.* in \([0-9.]*\) s$/\1/p' <<<"$line"
}

# log_bytes FILE: what keyed messages take of segments and indexes, counted from the files that a run left.
log_bytes() {
  local code=0 records blocks bytes index_bytes
  LOG_JOB_FOLDER="$(mktemp -d -p "$DISK_FOLDER")"
  time_start "$LOG_JOB_FOLDER/data"
  # shellcheck disable=SC2046  # words on purpose
  "$BIN/banter-loadgen" $(load_arguments log-bytes) --json \
    --server "$STARTED_ADDRESS" --cpu "$LOAD_CPU" --pid "$STARTED_PID" >"$1.posts.load" || code=$?
  [ "$code" -le 1 ] || fail "log-bytes could not be run (exit code $code)"
  # The last segment is sealed, so that every one has its index.
  end_started TERM
  # "3 segments, 765 blocks, 24480 records, 6279168 bytes: all right"
  read -r blocks records bytes < <("$BIN/banter" log check "$LOG_JOB_FOLDER/data" |
    sed -n 's/^[0-9]* segments\{0,1\}, \([0-9]*\) blocks, \([0-9]*\) records, \([0-9]*\) bytes: .*/\1 \2 \3/p') ||
    fail "the log that was written does not check"
  index_bytes="$(find "$LOG_JOB_FOLDER/data/log" -name '*.index' -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }')"
  rm -rf "$LOG_JOB_FOLDER"
  printf '{"job":"log-bytes","records":%s,"blocks":%s,"bytes":%s,"index_bytes":%s}\n' \
    "$records" "$blocks" "$bytes" "$index_bytes" >"$1.load"
}

# page_cost FILE: what is read of the log for a byte of a page: of one busy room with keys, and of rooms whose messages lie
# far apart.
page_cost() {
  local segment_mib=$((PAGE_COST_MIB < 16 ? 1 : PAGE_COST_MIB / 16))
  LOG_JOB_FOLDER="$(mktemp -d -p "$DISK_FOLDER")"
  # 220 bytes and more a message, so these are there.
  written_history "$LOG_JOB_FOLDER/busy" --rooms 1 --segments 16 --every --keyed --segment-mib "$segment_mib"
  read_back "$LOG_JOB_FOLDER/busy" --messages $((segment_mib * 16 * 3000)) >"$1.busy"
  written_history "$LOG_JOB_FOLDER/sparse" --rooms "$PAGE_COST_ROOMS" --segments 16 --every --keyed --messages 4
  read_back "$LOG_JOB_FOLDER/sparse" --messages 64 --rooms 100 --step $((PAGE_COST_ROOMS / 100)) >"$1.sparse"
  rm -rf "$LOG_JOB_FOLDER"
  printf '{"job":"page-cost","busy":%s,"sparse":%s}\n' "$(cat "$1.busy")" "$(cat "$1.sparse")" >"$1.load"
}

# read_back FOLDER ARGUMENT…: what it cost the server to read them, as JSON.
read_back() {
  time_start "$1"
  "$BIN/read-history" --server "$STARTED_ADDRESS" --pid "$STARTED_PID" "${@:2}" --json ||
    fail "the history of $1 could not be read back"
  end_started TERM
}
