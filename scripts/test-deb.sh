#!/usr/bin/env bash
# The package in a Debian of its own: lintian has no errors, the unit is right, it installs, runs, keeps changed settings at an upgrade, and
# a purge leaves the system as it was. Takes the package of this tree, or the one given. As root.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -1)
package=${1:-target/deb/remora_${version}_$(dpkg --print-architecture).deb}
[[ -f $package ]] || { echo "test-deb: $package is missing: run \`make deb\`" >&2; exit 1; }
((EUID == 0)) || { echo "test-deb: run as root: it makes a chroot" >&2; exit 1; }
work=$(mktemp -d /tmp/remora-test-deb.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
say() { echo "ok: $*"; }
fail() {
	echo "test-deb: $*" >&2
	exit 1
}

lintian --fail-on error,warning "$package" >"$work/lintian" 2>&1 || fail "lintian says: $(cat "$work/lintian")"
say "lintian: no errors, no warnings"

# Two complaints are of this place, not of the unit: the program and the manual page are not installed here.
dpkg-deb -x "$package" "$work/files"
unit=$work/files/usr/lib/systemd/system/remora.service
if systemd-analyze verify --man=no "$unit" 2>&1 | grep -v 'Command /usr/bin/remora is not executable'; then
	fail "systemd does not like the unit"
fi
systemd-analyze security --offline=true --no-pager --threshold=35 "$unit" >"$work/security" || fail "$(tail -1 "$work/security")"
say "the unit: $(tail -1 "$work/security")"

debootstrap --variant=minbase --include=libelf1 "${DEBIAN_SUITE:-bookworm}" "$root" >"$work/log" 2>&1 || fail "$(tail -3 "$work/log")"
cp "$package" "$root/remora.deb"

# Every file with its kind, rights, owner and size, but for what a package manager is for.
inventory() {
	(cd "$root" && find . \( -path ./proc -o -path ./sys -o -path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache -o -path ./tmp \) -prune \
		-o -printf '%p %y %m %u:%g %l ' \( -type d -printf '\n' -o -printf '%s\n' \)) | LC_ALL=C sort
}
# With /proc and /sys, which go with the namespace.
inside() {
	# shellcheck disable=SC2016 # the inner shell expands it
	unshare --mount --propagation private -- /bin/sh -c 'root=$1; shift
		mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" && exec chroot "$root" "$@"' sh "$root" \
		env PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"
}
enabled=$root/etc/systemd/system/multi-user.target.wants/remora.service

inventory >"$work/before"
inside dpkg -i /remora.deb >"$work/log" 2>&1 || fail "$(cat "$work/log")"
[[ -L $enabled ]] || fail "the service is not enabled"
say "it installs, and the service is enabled"

inside remora --version
inside remora config check --config /etc/remora/remora.yaml
code=0
inside remora doctor >"$work/doctor" 2>&1 || code=$?
((code == 0 || code == 3)) || fail "doctor ended with $code: $(cat "$work/doctor")"
say "the program runs: $(tail -1 "$work/doctor")"

echo 'log: debug' >>"$root/etc/remora/remora.yaml"
inside dpkg -i /remora.deb >"$work/log" 2>&1 || fail "$(cat "$work/log")"
grep -q '^log: debug' "$root/etc/remora/remora.yaml" || fail "an upgrade overwrote changed settings"
[[ -L $enabled ]] || fail "the service is not enabled after an upgrade"
say "an upgrade keeps changed settings"

rm "$enabled"
inside dpkg -i /remora.deb >"$work/log" 2>&1 || fail "$(cat "$work/log")"
[[ ! -e $enabled ]] || fail "an upgrade enabled a service that was disabled"
say "an upgrade leaves a disabled service disabled"

inside dpkg -r remora >"$work/log" 2>&1 || fail "$(cat "$work/log")"
[[ ! -e $root/usr/bin/remora && -f $root/etc/remora/remora.yaml ]] || fail "remove did not keep the settings, or kept more"
inside dpkg -P remora >"$work/log" 2>&1 || fail "$(cat "$work/log")"
inventory >"$work/after"
diff "$work/before" "$work/after" || fail "something was left behind"
say "a purge leaves nothing"
