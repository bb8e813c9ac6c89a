# Sourced after tests/support/debian.sh: packages of other Debian suites and architectures, which never reach this system.
# shellcheck shell=bash

# Where this system's own Debian packages come from.
own_mirror() {
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' | awk '$2 == "Debian" && $3 == "Debian" {print $1; exit}'
}

# Makes a private directory of apt for some architectures (with commas) and suites, has every apt of this shell use it, and asks for the
# lists: use_suites DIRECTORY ARCHITECTURES SUITE...
use_suites() {
	local apt=$1 architectures=$2 suite mirror
	shift 2
	mirror=${DEBIAN_MIRROR:-$(own_mirror)}
	[[ $mirror ]] || die "this system has no Debian mirror in its package lists: apt-get update, or DEBIAN_MIRROR=URL"
	mirror=${mirror%/}
	mkdir -p "$apt"/{lists,archives}/partial "$apt/parts"
	touch "$apt/status"
	for suite in "$@"; do
		[[ $suite == *-security ]] && suite="$mirror-security $suite" || suite="$mirror $suite"
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $suite main"
	done >"$apt/sources.list"
	cat >"$apt/apt.conf" <<-EOF
		Dir::State "$apt"; Dir::State::status "$apt/status"; Dir::Cache "$apt";
		Dir::Etc::SourceList "$apt/sources.list"; Dir::Etc::SourceParts "$apt/parts";
		APT::Architecture "${architectures%%,*}"; APT::Architectures "$architectures"; APT::Sandbox::User "root";
		Acquire::Languages "none"; Acquire::Check-Valid-Until "false"; Acquire::Check-Date "false";
	EOF
	export APT_CONFIG=$apt/apt.conf
	apt-get update -qq || say "package lists of $* not refreshed"
}

# The newest package whose name matches.
newest_package() {
	apt-cache search --names-only "$1" | cut -d' ' -f1 | sort -V | tail -n1
}

# Fetches a package into a file: fetch_package PACKAGE[:ARCHITECTURE] FILE
fetch_package() {
	local work
	work=$(mktemp -d "$2.XXXXXX")
	(cd "$work" && apt-get download -qq "$1") || {
		rm -rf "$work"
		die "apt-get download $1 failed"
	}
	mv "$work"/*.deb "$2"
	rmdir "$work"
}
