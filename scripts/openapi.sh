#!/usr/bin/env bash
# Whether docs/openapi.json is an OpenAPI document, by a public validator in an environment of its own under target/.
# Usage: scripts/openapi.sh [FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
VERSION=0.9.0
document="${1:-docs/openapi.json}"
environment="target/openapi-spec-validator-$VERSION"
validator="$environment/bin/openapi-spec-validator"

if ! "$validator" --help >/dev/null 2>&1; then
  rm -rf "$environment"
  # On Debian a Python has no pip of its own until this package is there.
  python3 -c 'import ensurepip, venv' 2>/dev/null ||
    { apt-get update -q && apt-get install -y -q --no-install-recommends python3 python3-venv; }
  python3 -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "openapi-spec-validator==$VERSION"
fi

# One that takes everything would say nothing of ours.
broken="$(mktemp)"
trap 'rm -f "$broken"' EXIT
sed '0,/"responses"/s//"respones"/' "$document" >"$broken"
if "$validator" "$broken" >/dev/null 2>&1; then
  echo "the validator takes a document that is broken" >&2
  exit 1
fi
"$validator" "$document"
