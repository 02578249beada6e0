#!/usr/bin/env bash
# Counts the instructions of the hot machines, scenario by scenario, and writes them to benches/instructions.txt:
#   scripts/instructions.sh                # all, some minutes
#   scripts/instructions.sh --check        # compares with that file and writes nothing; fails where a figure is off by more than 1 %
#   scripts/instructions.sh --top NAME     # in which functions those of one scenario are
# A count is the same again on the same machine, whatever else it does meanwhile. Another compiler, C library or CPU counts
# otherwise, since memory is copied and sums are made by what the CPU has: compare figures of one machine.
set -euo pipefail
cd "$(dirname "$0")/.."
table=benches/instructions.txt
tolerance=0.01
case "${1:-}" in
  "" | --check) [ $# -le 1 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; } ;;
  --top) [ $# = 2 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; } ;;
  *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac
command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind" >&2; exit 1; }

cargo build --release --quiet --locked -p banter-benches --bin instructions
program="${CARGO_TARGET_DIR:-target}/release/instructions"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# Nothing of the surroundings counts: no address is chosen by chance, no variable of the caller lies on the stack, and the
# allocator gives nothing back to the kernel by the clock.
counted() {
  env -i MIMALLOC_PURGE_DELAY=-1 setarch -R valgrind --tool=callgrind --toggle-collect='*counted_calls*' \
    --callgrind-out-file="$folder/$1" "$program" "$1" 2>"$folder/said" || { cat "$folder/said" >&2; exit 1; }
}

if [ "${1:-}" = --top ]; then
  counted "$2"
  operations="$("$program" | awk -F '\t' -v name="$2" '$1 == name { print $3 }')"
  echo "instructions of one operation by the function that they are in, with what was inlined there"
  callgrind_annotate --auto=no --threshold=100 "$folder/$2" | awk -v operations="$operations" '
    !/^ *[0-9,]+ \(.*%\)  [^:]*:/ || /PROGRAM TOTALS/ { next }
    {
      gsub(/,/, "", $1)
      count = $1
      sub(/^[^:]*:/, "")
      sub(/ \[[^\]]*\]$/, "")
      counts[$0] += count
      sum += count
    }
    END { for (name in counts) printf "%12.1f  %5.1f %%  %s\n", counts[name] / operations, 100 * counts[name] / sum, name }' |
    sort -rn | sed -n 1,30p
  exit
fi

{
  echo "# Instructions of one operation, by callgrind: scripts/instructions.sh writes them."
  echo "# $(rustc --version), $(rustc -vV | sed -n 's/^host: //p'), $(getconf GNU_LIBC_VERSION), $(valgrind --version); a CPU with$(
    for flag in sse4_2 avx2; do grep -qw "$flag" /proc/cpuinfo && printf ' %s' "$flag"; done)"
  "$program" | while IFS=$'\t' read -r name _ operations operation; do
    counted "$name"
    awk -v name="$name" -v operations="$operations" -v operation="$operation" \
      '/^(totals|summary):/ { printf "%-18s %12.1f  %s\n", name, $2 / operations, operation; exit }' "$folder/$name"
  done
} >"$folder/table"

if [ "${1:-}" != --check ]; then
  cp "$folder/table" "$table"
  cat "$table"
  exit
fi
if ! diff <(sed -n 2p "$table") <(sed -n 2p "$folder/table") >"$folder/other"; then
  echo "the table is of other surroundings, and some figures differ for that:" >&2
  cat "$folder/other" >&2
fi
awk -v tolerance="$tolerance" '
  /^#/ { next }
  FNR == NR { before[$1] = $2; next }
  !($1 in before) { printf "%-18s %12s → %12.1f  it is not in the table\n", $1, "-", $2; off = 1; next }
  {
    change = before[$1] > 0 ? $2 / before[$1] - 1 : 1
    is_off = change > tolerance || change < -tolerance
    printf "%-18s %12.1f → %12.1f  %+.2f %%%s\n", $1, before[$1], $2, 100 * change, is_off ? "  ←" : ""
    off = off || is_off
    delete before[$1]
  }
  END {
    for (name in before) { printf "%-18s %12.1f → %12s  it is in the table only\n", name, before[name], "-"; off = 1 }
    exit off
  }' "$table" "$folder/table" ||
  { echo "figures are off by more than 1 %: mend it, or write the table anew with scripts/instructions.sh and say why" >&2; exit 1; }
