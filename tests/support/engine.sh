#!/usr/bin/env bash
# A Docker engine of our own, beside nothing: own data, own socket, removed without a trace. Used by the tests with containers.
#
#   engine.sh up   [STATE_DIR]    start it (a second time: nothing to do); prints what `env` prints
#   engine.sh env  [STATE_DIR]    DOCKER_HOST=…, for `eval` or `env`
#   engine.sh base [STATE_DIR]    make the image debian:bookworm-slim where it is absent: no registry is asked, debootstrap makes it and its
#                                 files are kept in ${XDG_CACHE_HOME:-~/.cache}/remora
#   engine.sh down [STATE_DIR]    stop it with its containers and remove networks, firewall rules and, with --purge, images and STATE_DIR
#
# STATE_DIR is /tmp/remora-engine unless given. One such engine at a time: it uses docker0. Root; Debian; `up` installs docker.io, iptables,
# jq and iproute2 when absent, `base` installs debootstrap. Up in a second, the base image in half a minute, three seconds when cached.
set -euo pipefail
# shellcheck source=tests/support/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/debian.sh"
# shellcheck source=tests/support/firewall.sh
source "$(dirname "${BASH_SOURCE[0]}")/firewall.sh"
support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
	sed -nE '2,/^set /{/^#/s/^# ?//p}' "${BASH_SOURCE[0]}" >&2
	exit 2
}

purge=
positional=()
for argument in "$@"; do
	case $argument in
	--purge) purge=1 ;;
	-*) usage ;;
	*) positional+=("$argument") ;;
	esac
done
command=${positional[0]:-}
state=${positional[1]:-/tmp/remora-engine}
[[ $state == /* ]] || state=$PWD/$state
socket=$state/docker.sock
export DOCKER_HOST=unix://$socket

answers() { [[ -S $socket ]] && docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# The engine that STATE_DIR belongs to: its pid, and still that program.
engine_pid() {
	local pid
	pid=$(cat "$state/dockerd.pid" 2>/dev/null) || return 1
	# Empty once it has ended, even while nobody has taken note of its end.
	cat "/proc/$pid/cmdline" 2>/dev/null | tr '\0' ' ' | grep -qF "$state/" && echo "$pid"
}

has_sys_resource() {
	local effective
	effective=$(sed -n 's/^CapEff:\t*//p' /proc/self/status)
	((0x$effective >> 24 & 1))
}

up() {
	install_packages docker.io iptables jq iproute2
	if engine_pid >/dev/null && answers; then
		return
	fi
	local others
	others=$(pgrep -x dockerd | tr '\n' ' ') || true
	[[ -z $others ]] || die "another Docker engine runs (pid ${others% }); set DOCKER_HOST to use that one, or stop it"
	mkdir -p "$state"
	# What `down` puts back: the engine turns on forwarding and closes the FORWARD chain.
	[[ -e $state/before ]] || {
		echo "ip_forward=$(cat /proc/sys/net/ipv4/ip_forward)"
		echo "forward_policy=$(iptables -S FORWARD | sed -n 's/^-P FORWARD //p')"
	} >"$state/before"
	local runtime=()
	if ! has_sys_resource; then
		# A copy: the engine outlives the checkout that it was started from.
		cp "$support/bounded-runc" "$state/bounded-runc"
		runtime=(--add-runtime "bounded=$state/bounded-runc" --default-runtime bounded)
	fi
	# cgroupfs, because no systemd need be there to ask and the kubelet of the cluster tests must use the same.
	setsid dockerd --data-root "$state/data" --exec-root "$state/exec" --pidfile "$state/dockerd.pid" --host "$DOCKER_HOST" \
		--exec-opt native.cgroupdriver=cgroupfs "${runtime[@]}" </dev/null >>"$state/dockerd.log" 2>&1 &
	local child=$! deadline=$((SECONDS + 30))
	until answers; do
		if ! kill -0 "$child" 2>/dev/null || ((SECONDS > deadline)); then
			kill "$child" 2>/dev/null || true
			tail -n 20 "$state/dockerd.log" >&2
			die "dockerd did not come up; all of its output: $state/dockerd.log"
		fi
		sleep 0.1
	done
	say "up: $DOCKER_HOST"
}

base() {
	local archive
	archive=$CACHE/debian-bookworm-slim-$(dpkg --print-architecture).tar
	docker image inspect debian:bookworm-slim >/dev/null 2>&1 && return
	if [[ ! -e $archive ]]; then
		install_packages debootstrap
		say "making the base image: half a minute"
		mkdir -p "$CACHE"
		local work
		work=$(mktemp -d "$CACHE/base.XXXXXX")
		# shellcheck disable=SC2064
		trap "rm -rf '$work'" EXIT
		debootstrap --variant=minbase bookworm "$work/root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/log" 2>&1 || {
			tail -n 20 "$work/log" >&2
			die "debootstrap failed"
		}
		printf 'deb http://deb.debian.org/debian %s main\n' bookworm bookworm-updates >"$work/root/etc/apt/sources.list"
		echo 'deb http://deb.debian.org/debian-security bookworm-security main' >>"$work/root/etc/apt/sources.list"
		# As in the official slim image: no manuals, no package files, servers are not started by their installation.
		printf 'path-exclude /usr/share/%s/*\n' doc man info locale groff lintian linda >"$work/root/etc/dpkg/dpkg.cfg.d/docker"
		printf '#!/bin/sh\nexit 101\n' >"$work/root/usr/sbin/policy-rc.d"
		chmod +x "$work/root/usr/sbin/policy-rc.d"
		rm -rf "$work"/root/{var/lib/apt/lists,var/cache/apt,usr/share/doc,usr/share/man,usr/share/info,usr/share/locale}/*
		rm -rf "$work"/root/var/log/*.log "$work/root/etc/resolv.conf" "$work/root/etc/hostname"
		tar --numeric-owner --exclude=./dev/* -C "$work/root" -c . -f "$work/base.tar"
		mv "$work/base.tar" "$archive"
		rm -rf "$work"
		trap - EXIT
	fi
	docker import --change 'CMD ["bash"]' "$archive" debian:bookworm-slim >/dev/null
}

down() {
	local pid mount
	if pid=$(engine_pid); then
		if answers; then
			docker ps -aq | xargs -r docker rm -f >/dev/null
			docker network prune -f >/dev/null
		fi
		kill "$pid" 2>/dev/null || true
		local deadline=$((SECONDS + 30))
		while engine_pid >/dev/null; do
			((SECONDS < deadline)) || die "dockerd (pid $pid) does not end"
			sleep 0.1
		done
	fi
	if [[ -e $state/before ]]; then
		ip link delete docker0 2>/dev/null || true
		# Docker's own chains, and what in others jumps there or names one of its bridges.
		remove_rules 'DOCKER|docker0|br-[0-9a-f]{12}' 'DOCKER[A-Z0-9-]*'
		local ip_forward=0 forward_policy=ACCEPT
		# shellcheck disable=SC1091
		source "$state/before"
		iptables -P FORWARD "$forward_policy"
		echo "$ip_forward" >/proc/sys/net/ipv4/ip_forward
		rm -f "$state/before"
	fi
	# shellcheck disable=SC2013 # state directories with spaces in their names are not supported
	for mount in $(cut -d' ' -f2 /proc/self/mounts | grep "^$state/" | sort -r); do umount "$mount"; done
	# The engine leaves its parent groups behind, empty by now.
	find /sys/fs/cgroup -maxdepth 3 -depth -type d -name docker -exec rmdir {} + 2>/dev/null || true
	rm -rf --one-file-system "$state"/{docker.sock,dockerd.pid,dockerd.log,bounded-runc,exec}
	if [[ -n $purge && -d $state/data ]]; then rm -rf --one-file-system "$state"; fi
	say "down"
}

case $command in
up)
	((EUID == 0)) || die "as root"
	up
	echo "DOCKER_HOST=$DOCKER_HOST"
	;;
env) echo "DOCKER_HOST=$DOCKER_HOST" ;;
base)
	answers || die "no engine at $socket: engine.sh up $state"
	base
	;;
down)
	((EUID == 0)) || die "as root"
	down
	;;
*) usage ;;
esac
