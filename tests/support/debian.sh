# Sourced by the scripts of the test beds: Debian's packages, and the directory where what took long to make is kept.
# shellcheck shell=bash disable=SC2034

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/remora

say() { echo "${0##*/}: $*" >&2; }

die() {
	say "$*"
	exit 1
}

# Installs the packages that are absent and says which. Debian starts a server when its package is installed, unless
# policy-rc.d forbids it: the test beds start their own, in their own directories.
install_packages() {
	local absent=() package
	for package in "$@"; do
		dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || absent+=("$package")
	done
	((${#absent[@]})) || return 0
	command -v apt-get >/dev/null || die "not a Debian system; install what corresponds to: ${absent[*]}"
	((EUID == 0)) || die "as root: apt-get install ${absent[*]}"
	say "installing ${absent[*]}"
	(
		policy=/usr/sbin/policy-rc.d
		if [[ ! -e $policy ]]; then
			trap 'rm -f "$policy"' EXIT
			printf '#!/bin/sh\nexit 101\n' >"$policy"
			chmod +x "$policy"
		fi
		export DEBIAN_FRONTEND=noninteractive
		# Old lists are good enough most of the time, and another apt may be holding them.
		apt-get update -qq || say "package lists not refreshed"
		apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${absent[@]}" >/dev/null
	) || die "apt-get install ${absent[*]} failed"
}
