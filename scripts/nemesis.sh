#!/usr/bin/env bash
# Breaks a whole cluster under load for N minutes, and checks that nothing that it promised is gone:
#   scripts/nemesis.sh [MINUTES] [--seed N] [--faults LIST] [--posts-per-second N] [--nodes N] [--list] ...
# Needs root for hosts of their own (network namespaces), disks of their own (loop devices), and cuts of links; without it all
# servers are on loopback, what cannot be tried is said, and what is left is tried. Installs iptables if there is none.
# PROFILE=dev tries a build with debug assertions.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=()
case "${1:-}" in
  [0-9]*) minutes=(--minutes "$1"); shift ;;
esac
if [ "$(id -u)" -eq 0 ] && ! command -v iptables >/dev/null && command -v apt-get >/dev/null; then
  { apt-get update -q && apt-get install -y -q --no-install-recommends iptables; } >&2 ||
    echo "iptables could not be installed: links are cut by routes into a black hole instead" >&2
fi
scripts/nats.sh >/dev/null
profile="${PROFILE:-release}"
cargo build --profile "$profile" --locked --quiet -p banter-server -p banter-tests --bin banter --bin nemesis
[ "$profile" = dev ] && profile=debug
exec "target/$profile/nemesis" "${minutes[@]}" "$@"
