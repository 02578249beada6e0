#!/usr/bin/env bash
# Tries deploy/ with the real Caddy, nginx and HAProxy: scripts/proxies.sh [caddy] [nginx] [haproxy]
#
# In a network namespace of its own: the proxy on port 443, Banter on 127.0.0.1:7878, and visitors at 192.0.2.1 and 192.0.2.2.
# Of each proxy it is tried that the limit by address meets the visitor and not the proxy, that a visitor's own X-Forwarded-For
# changes nothing, that questions for the operator are not passed on (HAProxy passes all on), and that nothing the proxy says
# is believed where it is not trusted. Needs root, iproute2, openssl, python3 and the proxies (all from Debian).
# BANTER=PATH tries that program instead of building one.
# Exit code: 0 all is well, 1 something is not, 3 nothing could be tried.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "proxies.sh: $*" >&2
  exit 3
}

[ "$(id -u)" = 0 ] || fail "network namespaces need root"
for tool in ip openssl python3; do
  command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install iproute2 openssl python3"
done
if [ -z "${BANTER:-}" ]; then cargo build --release --quiet --locked -p banter-server; fi
banter="$(realpath "${BANTER:-${CARGO_TARGET_DIR:-target}/release/banter}")"

space="banter-proxies-$$"
work="$(mktemp -d)"
started=()
stop() {
  for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
  for process in "${started[@]}"; do wait "$process" 2>/dev/null || true; done
  started=()
}
trap 'stop; ip netns del "$space" 2>/dev/null || true; rm -rf "$work"' EXIT
ip netns add "$space"
# What runs in the background is called without it, so that its process is the program itself, and can be ended.
inside() { ip netns exec "$space" "$@"; }
inside ip link set lo up
for address in 192.0.2.1 192.0.2.2 192.0.2.10; do inside ip address add "$address/32" dev lo; done

openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=chat.example.com -addext subjectAltName=DNS:chat.example.com \
  -keyout "$work/privkey.pem" -out "$work/fullchain.pem" 2>/dev/null
cat "$work/fullchain.pem" "$work/privkey.pem" >"$work/chat.example.com.pem"

# Starts Banter by deploy/banter.toml, with what these sed expressions change in it; three connections an address.
start_banter() {
  local changes=(-e 's/^connections_per_ip_max = .*/connections_per_ip_max = 3/' -e 's/^connects_per_second.*//'
    -e '/^\[auth\]/,/^$/d' -e "s|^data = .*|data = \"$work/data\"|")
  for change in "$@"; do changes+=(-e "$change"); done
  sed "${changes[@]}" deploy/banter.toml >"$work/banter.toml"
  ip netns exec "$space" "$banter" --config "$work/banter.toml" --cores 1 --durability memory >"$work/banter.out" 2>"$work/banter.log" &
  started+=($!)
  wait_for 127.0.0.1 7878
}

wait_for() {
  for _ in $(seq 200); do
    if inside python3 -c "import socket; socket.create_connection(('$1', $2), 1)" 2>/dev/null; then return; fi
    sleep 0.05
  done
  cat "$work"/*.log >&2
  fail "nothing listens at $1:$2"
}

# Each starts its proxy by the shipped file, in which only paths of certificates are others.
start_caddy() {
  sed -e '/^chat.example.com {/a tls internal' -e '1i {\n admin off\n skip_install_trust\n auto_https disable_redirects\n}' \
    deploy/Caddyfile >"$work/Caddyfile"
  HOME="$work" XDG_DATA_HOME="$work" XDG_CONFIG_HOME="$work" \
    ip netns exec "$space" caddy run --adapter caddyfile --config "$work/Caddyfile" >"$work/proxy.log" 2>&1 &
  started+=($!)
}
start_nginx() {
  { echo "daemon off; pid $work/nginx.pid; error_log $work/proxy.log; events {} http { access_log off;"
    sed "s|/etc/ssl/chat.example.com/|$work/|" deploy/nginx.conf
    echo "}"; } >"$work/nginx.conf"
  ip netns exec "$space" nginx -e "$work/proxy.log" -c "$work/nginx.conf" >"$work/nginx.log" 2>&1 &
  started+=($!)
}
start_haproxy() {
  sed "s|/etc/haproxy/chat|$work/chat|" deploy/haproxy.cfg >"$work/haproxy.cfg"
  ip netns exec "$space" haproxy -db -f "$work/haproxy.cfg" >"$work/proxy.log" 2>&1 &
  started+=($!)
}

try_proxy() {
  local proxy="$1" trusts=() distrusts=('s/^trusted_proxies = .*/trusted_proxies = []/')
  # A header that no trusted proxy may say cannot be asked for.
  if [ "$proxy" = haproxy ]; then trusts+=('s/^proxy_protocol = .*/proxy_protocol = true/'); fi
  start_banter "${trusts[@]}"
  "start_$proxy"
  wait_for 192.0.2.10 443
  inside python3 scripts/proxies_visits.py "$proxy" trusted || return 1
  stop
  start_banter "${distrusts[@]}"
  "start_$proxy"
  wait_for 192.0.2.10 443
  inside python3 scripts/proxies_visits.py "$proxy" untrusted || return 1
  stop
}

tried=0 failed=0
for proxy in ${*:-caddy nginx haproxy}; do
  if ! command -v "$proxy" >/dev/null; then
    echo "SKIPPED $proxy: apt-get install $proxy"
    continue
  fi
  tried=$((tried + 1))
  if ! try_proxy "$proxy"; then
    failed=$((failed + 1))
    tail -n 20 "$work/proxy.log" "$work/banter.log" >&2
    stop
  fi
done
[ "$tried" -gt 0 ] || fail "no proxy is here to be tried"
echo "$((tried - failed)) passed, $failed failed"
[ "$failed" = 0 ]
