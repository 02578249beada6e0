# The job of bench.sh that starts a server on a restored copy, in little memory. To be sourced behind disk-jobs.sh.

# 200 segments of 64 MiB are what a restore is thought of; fewer where the disk has no room.
RESTORE_MIB="${RESTORE_MIB:-10240}"
RESTORE_SEGMENT_MIB="${RESTORE_SEGMENT_MIB:-64}"
RESTORE_MEMORY_MIB="${RESTORE_MEMORY_MIB:-512}"
RESTORE_PAYLOAD="${RESTORE_PAYLOAD:-128}"
# What stays free on the disk beside the copy and its indexes.
RESTORE_SPARE_MIB=3072

# restore FILE: a start on segments without indexes, which it reads through and seals, with so much memory at most, page
# cache included: how long that takes, and what it takes of memory.
restore() {
  local segments peak_kib group_bytes lines
  segments="$(restore_segments)"
  LOG_JOB_FOLDER="$(mktemp -d -p "$DISK_FOLDER")"
  written_history "$LOG_JOB_FOLDER/data" --rooms 1000 --segments "$segments" --segment-mib "$RESTORE_SEGMENT_MIB" --every \
    --unsealed --keyed --payload "$RESTORE_PAYLOAD"
  enter_memory_group "$RESTORE_MEMORY_MIB"
  time_start "$LOG_JOB_FOLDER/data"
  peak_kib="$(started_kib VmHWM)"
  group_bytes="$(memory_group_peak)"
  end_started TERM
  leave_memory_group
  lines="$(grep -c "segments are read through and sealed" "$LOG_JOB_FOLDER/data.complaints" || true)"
  rm -rf "$LOG_JOB_FOLDER"
  printf '{"job":"restore","segments":%s,"segment_mib":%s,"memory_limit_mib":%s,"start_s":%s,"peak_rss_kib":%s,"group_peak_bytes":%s,"progress_lines":%s}\n' \
    "$segments" "$RESTORE_SEGMENT_MIB" "$MEMORY_LIMIT_MIB" "$START_S" "$peak_kib" "$group_bytes" "$lines" >"$1.load"
}

# As many segments as are wanted, or as fit.
restore_segments() {
  local free_mib wanted_mib="$RESTORE_MIB"
  free_mib=$(($(df --output=avail -B 1048576 "$DISK_FOLDER" | tail -n 1) - RESTORE_SPARE_MIB))
  # An index takes up to an eighth of its segment.
  if [ "$wanted_mib" -gt $((free_mib * 8 / 9)) ]; then
    wanted_mib=$((free_mib * 8 / 9))
    echo "${0##*/}: the disk has room for a restore of $wanted_mib MiB, and not of $RESTORE_MIB" >&2
  fi
  [ "$wanted_mib" -ge "$RESTORE_SEGMENT_MIB" ] || fail "the disk of $DISK_FOLDER has no room for a restore"
  echo $((wanted_mib / RESTORE_SEGMENT_MIB))
}

# enter_memory_group MIB: servers are started with so much memory at most, in a child of this shell's own group, or in a
# scope of systemd's. Where neither can be made that is said, and MEMORY_LIMIT_MIB is 0.
enter_memory_group() {
  local limit=$(($1 * 1048576)) version
  MEMORY_LIMIT_MIB=0 MEMORY_GROUP=""
  [ "$1" != 0 ] || return 0
  for version in 1 2; do
    MEMORY_GROUP="$(memory_group_of "$version")" || continue
    if mkdir "$MEMORY_GROUP" 2>/dev/null && { echo "$limit" >"$MEMORY_GROUP/$(limit_file "$version")"; } 2>/dev/null; then
      MEMORY_LIMIT_MIB="$1"
      # The kernel counts a process's memory, and the pages of files that it reads, where the process is.
      # shellcheck disable=SC2016  # for the shell that is started
      STARTED_WITHIN=(bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$MEMORY_GROUP")
      return 0
    fi
    rmdir "$MEMORY_GROUP" 2>/dev/null || true
  done
  MEMORY_GROUP=""
  if [ -d /run/systemd/system ] && systemd-run --scope --quiet true 2>/dev/null; then
    MEMORY_LIMIT_MIB="$1"
    STARTED_WITHIN=(systemd-run --scope --quiet -p "MemoryMax=$limit" -p MemorySwapMax=0)
    return 0
  fi
  echo "${0##*/}: no memory group can be made here (be root, with a writable cgroup): the restore has no limit" >&2
}

# memory_group_of VERSION: where such a group would be.
memory_group_of() {
  local root=/sys/fs/cgroup own
  if [ "$1" = 1 ]; then
    own="$(sed -n 's/^[0-9]*:[^:]*\bmemory\b[^:]*://p' /proc/self/cgroup)"
    [ -d "$root/memory" ] && [ -n "$own" ] && echo "$root/memory${own%/}/banter-bench-$$"
  else
    own="$(sed -n 's/^0:://p' /proc/self/cgroup)"
    grep -qw memory "$root${own%/}/cgroup.subtree_control" 2>/dev/null && echo "$root${own%/}/banter-bench-$$"
  fi
}

limit_file() {
  if [ "$1" = 1 ]; then echo memory.limit_in_bytes; else echo memory.max; fi
}

# The most that the server's group had in use, page cache included; 0 where that is not known.
memory_group_peak() {
  local file scope
  scope="$(sed -n 's/^0:://p' "/proc/$STARTED_PID/cgroup")"
  [ "$MEMORY_LIMIT_MIB" != 0 ] || { echo 0 && return 0; }
  for file in "${MEMORY_GROUP:-/sys/fs/cgroup$scope}"/memory.{max_usage_in_bytes,peak}; do
    [ ! -r "$file" ] || { cat "$file" && return 0; }
  done
  echo 0
}

leave_memory_group() {
  STARTED_WITHIN=()
  [ -n "${MEMORY_GROUP:-}" ] || return 0
  rmdir "$MEMORY_GROUP" 2>/dev/null || true
  MEMORY_GROUP=""
}
