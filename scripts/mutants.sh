#!/usr/bin/env bash
# Breaks a copy of the tree on purpose, and says how many seeds of the simulated world find it:
#   scripts/mutants.sh [--seeds N] [--least PERCENT] [--apply] [NAME…]
# Each tests/mutants/NAME.patch is one mistake. Fails if fewer than PERCENT of the seeds (2) find one, or fewer than what the
# patch itself says (`# least: 0.4`), if a patch no longer applies or builds, or if the tree without any of them fails.
# --apply: says only whether each still applies.
set -uo pipefail
cd "$(dirname "$0")/.."
seeds=400 least=2 names=() apply_only=0
while [ $# -gt 0 ]; do
  case "$1" in
    --seeds) seeds="$2"; shift 2 ;;
    --least) least="$2"; shift 2 ;;
    --apply) apply_only=1; shift ;;
    -*) sed -n '2,6s/^# //p' "$0" >&2; exit 2 ;;
    *) names+=("$1"); shift ;;
  esac
done
if [ ${#names[@]} -eq 0 ]; then
  for file in tests/mutants/*.patch; do names+=("$(basename "$file" .patch)"); done
fi
for name in "${names[@]}"; do
  [ -f "tests/mutants/$name.patch" ] || { echo "there is no tests/mutants/$name.patch" >&2; exit 2; }
done

scratch="${BANTER_MUTANTS:-${TMPDIR:-/tmp}/banter-mutants}"
tree="$scratch/tree" out="$scratch/out"
export CARGO_TARGET_DIR="$scratch/target" CARGO_TERM_COLOR=never
mkdir -p "$tree" "$out"
# Only what differs is copied, so that cargo builds nothing again that is the same; once, so that the tree may change.
copy() {
  rm -rf "$scratch/mutants"
  cp -r tests/mutants "$scratch/mutants"
  git ls-files -co --exclude-standard -z | while IFS= read -r -d '' file; do
    [ -f "$file" ] || continue
    cmp -s "$file" "$tree/$file" || install -D -m 644 "$file" "$tree/$file"
  done
}
apply() {
  (cd "$tree" && patch -p1 --force --no-backup-if-mismatch --quiet --reject-file=- "${@:2}" <"$scratch/mutants/$1.patch")
}
# What is slow to build and quick to run anyway is not optimized.
plain=()
for crate in banter-server banter-client; do plain+=(--config "profile.simulation.package.$crate.opt-level=0"); done
build() {
  (cd "$tree" && nice cargo build "${plain[@]}" --quiet --profile simulation -p banter-tests --bin sim --locked) \
    >"$out/$1.build" 2>&1
}
# Seeds that failed; all of them where the program died of it.
run() {
  nice timeout 1800 "$CARGO_TARGET_DIR/simulation/sim" --seeds "$seeds" >"$out/$1.log" 2>&1
  awk -v seeds="$seeds" '/ seeds in .* failed$/ { found = $(NF - 1); seen = 1 } END { print seen ? found : seeds }' "$out/$1.log"
}
# What the oracle said most often.
said() { sed -nE 's/^[0-9]+ times: seed [0-9]+ on [0-9]+ cores: (.*)$/\1/p' "$out/$1.log" | head -1 | cut -c1-80; }
row() { printf '%-44s %6s %8s   %s\n' "$@"; }

failed=0
copy
if [ "$apply_only" = 1 ]; then
  for name in "${names[@]}"; do
    apply "$name" --dry-run >/dev/null 2>&1 || { echo "tests/mutants/$name.patch no longer applies" >&2; failed=1; }
  done
  exit "$failed"
fi
row mutant found share "what the oracle said most"
build none || { cat "$out/none.build"; exit 1; }
found="$(run none)"
row "(none)" "$found" "" "$(said none)"
[ "$found" -eq 0 ] || failed=1
for name in "${names[@]}"; do
  if ! apply "$name" --dry-run >"$out/$name.build" 2>&1 || ! apply "$name" >>"$out/$name.build" 2>&1; then
    row "$name" "-" "" "NO LONGER APPLIES"
    failed=1
  elif ! build "$name"; then
    row "$name" "-" "" "DOES NOT BUILD: $(grep -m1 '^error' "$out/$name.build")"
    failed=1
    apply "$name" --reverse >/dev/null
  else
    found="$(run "$name")"
    share="$(awk -v found="$found" -v seeds="$seeds" 'BEGIN { printf "%.1f", 100 * found / seeds }')"
    row "$name" "$found" "$share %" "$(said "$name")"
    # What takes a rare order to be seen at all says so.
    own_least="$(sed -n 's/^# least: //p' "$scratch/mutants/$name.patch")"
    awk -v share="$share" -v least="${own_least:-$least}" 'BEGIN { exit share < least }' || failed=1
    apply "$name" --reverse >/dev/null
  fi
done
exit "$failed"
