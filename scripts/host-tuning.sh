#!/usr/bin/env bash
# Says which kernel settings and limits stand in the way of many connections: scripts/host-tuning.sh [--connections N] [--apply]
#
# Without --apply nothing is changed, and what is printed is a file for /etc/sysctl.d: settings that are too low stand in
# it as lines, all else as comments. --apply sets those until the next boot, and needs root. Limits of a process belong to
# whoever starts it (systemd, the shell), so they are only printed. --connections is per host (default: 100000).
set -euo pipefail

connections=100000
is_applying=0
while [ $# -gt 0 ]; do
  case "$1" in
  --connections) connections="${2:?--connections needs a number}" && shift ;;
  --apply) is_applying=1 ;;
  -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit ;;
  *) echo "host-tuning.sh: no option is called $1 (--connections N, --apply)" >&2 && exit 2 ;;
  esac
  shift
done
[[ "$connections" =~ ^[1-9][0-9]{0,7}$ ]] || { echo "host-tuning.sh: --connections must be 1 to 99999999" >&2 && exit 2; }
[ "$is_applying" = 0 ] || [ "$(id -u)" = 0 ] || { echo "host-tuning.sh: --apply needs root: sudo $0 --apply" >&2 && exit 3; }

failures=0

# set_to NAME WANTED REASON: prints the setting, and sets it with --apply.
set_to() {
  printf '# %s\n' "$3"
  printf '# now: %s\n%s = %s\n' "$(sysctl -n "$1")" "$1" "$2"
  if [ "$is_applying" = 1 ] && ! sysctl -qw "$1=$2"; then
    printf '# NOT SET: the kernel refused %s\n' "$1"
    failures=$((failures + 1))
  fi
  echo
}

fine() { printf '# %s\n# %s = %s: fine\n\n' "$3" "$1" "$2"; }

# at_least NAME LEAST REASON: a number that only ever is raised.
at_least() {
  local now
  now="$(sysctl -n "$1" 2>/dev/null)" || { printf '# %s: not on this host\n\n' "$1" && return; }
  if [ "$now" -ge "$2" ]; then fine "$1" "$now" "$3"; else set_to "$1" "$2" "$3"; fi
}

printf '# For %s connections on %s, Linux %s\n\n' "$connections" "$(uname -n)" "$(uname -r)"

if io_uring="$(sysctl -n kernel.io_uring_disabled 2>/dev/null)"; then
  reason="Banter's sockets and files live on io_uring."
  if [ "$io_uring" = 0 ]; then fine kernel.io_uring_disabled 0 "$reason"; else set_to kernel.io_uring_disabled 0 "$reason"; fi
fi

at_least fs.nr_open $((connections + 1024)) "The highest hard limit of descriptors that a process may be given."
at_least fs.file-max $((connections + 65536)) "Every socket is an open file of the host, in a process's table or not."
at_least net.core.somaxconn 4096 \
  "Banter asks for a queue of 4096 connections to accept; the kernel cuts that to this. All clients come back at once after a restart."
at_least net.ipv4.tcp_max_syn_backlog 4096 "The same, for connections whose handshake is not done."
at_least net.netfilter.nf_conntrack_max $((connections + connections / 4)) \
  "A firewall that tracks connections drops those above this, silently. Better still: do not track the port of the chat."

reason="For a room's burst after a quiet hour: a connection that was idle need not begin slowly again."
if [ "$(sysctl -n net.ipv4.tcp_slow_start_after_idle)" = 0 ]; then
  fine net.ipv4.tcp_slow_start_after_idle 0 "$reason"
else
  set_to net.ipv4.tcp_slow_start_after_idle 0 "$reason"
fi

reason="Only where clients run, a load generator or a proxy: ports for connections to one address and port."
read -r first last < <(sysctl -n net.ipv4.ip_local_port_range)
if [ $((last - first)) -ge 50000 ]; then
  fine net.ipv4.ip_local_port_range "$first $last" "$reason"
else
  set_to net.ipv4.ip_local_port_range "10000 65535" "$reason"
fi

# Printed, not set: what is right depends on what else the host does.
echo "# For your judgement, not set here:"
# A container of its own network does not see this one.
if tcp_mem="$(sysctl -n net.ipv4.tcp_mem 2>/dev/null)"; then
  read -r _ pressure _ <<<"$tcp_mem"
  echo "# net.ipv4.tcp_mem: TCP saves buffers above $((pressure * 4 / 1024)) MiB, of all connections together; slow readers fill them."
fi
echo "# net.ipv4.tcp_wmem: its third number ($(sysctl -n net.ipv4.tcp_wmem | awk '{ print $3 }')) bounds what the kernel holds for one slow reader."
echo "# net.ipv4.tcp_congestion_control = $(sysctl -n net.ipv4.tcp_congestion_control): say it beside published figures, for it is part of them."
echo "#"
echo "# Limits of the process that starts banter (here: descriptors $(ulimit -Hn), locked memory $(ulimit -Hl) KiB):"
needed=$((connections + 1024))
descriptors="$(ulimit -Hn)"
if [ "$descriptors" != unlimited ] && [ "$descriptors" -lt "$needed" ]; then
  echo "# TOO LOW: a core's table of sockets is as large as the hard limit of descriptors. For all on one core:"
  echo "#   systemd: LimitNOFILE=$needed    shell, as root: ulimit -n $needed    Docker: --ulimit nofile=$needed"
else
  echo "# descriptors: fine"
fi
echo "# Locked memory: rings are charged to it on newer kernels; banter says at its start if it is too low (LimitMEMLOCK=, ulimit -l)."

[ "$failures" = 0 ] || { echo "host-tuning.sh: $failures settings were refused (in a container, set them on the host)" >&2 && exit 1; }
