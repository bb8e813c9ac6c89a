#!/usr/bin/env bash
# A Linux 5.10 without BTF for the matrix, since no suite of Debian has a kernel without: Debian's source of 5.10 with without-btf.config.
# Builds once, for ten minutes of one processor, and keeps vmlinuz-5.10-without-btf and its BTF, 5.10-without-btf.btf, made from the debug
# information, in ${XDG_CACHE_HOME:-~/.cache}/remora/kernels. Builds again when the configuration changes, not when Debian's source does:
# remove the files for that.
#
#   tests/kernels/without-btf.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/debian.sh
source tests/support/debian.sh
# shellcheck source=tests/kernels/suites.sh
source tests/kernels/suites.sh

SUITE=bullseye
SOURCE=linux-source-5.10
name=5.10-without-btf
fragment=$PWD/tests/kernels/without-btf.config
kernels=$CACHE/kernels
kernel=$kernels/vmlinuz-$name btf=$kernels/$name.btf made_of=$kernels/$name.made-of

is_current() {
	[[ -s $kernel && -s $btf && $(head -n1 "$made_of" 2>/dev/null) == "$key" ]]
}

# An option may be absent because another one is; the kernel's make says nothing of it.
check_config() {
	local line absent=()
	while read -r line; do
		grep -qxF "$line" .config || absent+=("$line")
	done < <(grep -E '^CONFIG_' "$fragment")
	((!${#absent[@]})) || die "this source does not take: ${absent[*]}"
	! grep -qx 'CONFIG_DEBUG_INFO_BTF=y' .config || die "this configuration has BTF"
}

build() {
	local work=$1
	(
		use_suites "$kernels/apt-$SUITE" amd64 "$SUITE"
		say "fetching $SOURCE of $SUITE"
		fetch_package "$SOURCE" "$work/source.deb"
	)
	dpkg-deb --field "$work/source.deb" Version >"$work/version"
	say "unpacking $SOURCE $(<"$work/version")"
	mkdir "$work/linux"
	dpkg-deb --fsys-tarfile "$work/source.deb" | tar -xO "./usr/src/$SOURCE.tar.xz" | tar -xJ --strip-components=1 -C "$work/linux"
	rm "$work/source.deb"
	cd "$work/linux"
	export KBUILD_BUILD_USER=remora KBUILD_BUILD_HOST=tests KBUILD_BUILD_TIMESTAMP=@0
	make -s KCONFIG_ALLCONFIG="$fragment" allnoconfig
	check_config
	say "building on $(nproc) processors; $work.log"
	nice -n 5 make -s -j"$(nproc)" bzImage >"$work.log" 2>&1 || { tail -n 20 "$work.log" >&2; die "make bzImage failed: $work.log"; }
	pahole --btf_encode_detached="$work/btf" vmlinux
	bpftool btf dump file "$work/btf" format raw >"$work/types"
	grep -q "STRUCT 'sock' " "$work/types" || die "no struct sock in what pahole made"
	# The key last: without it there is nothing.
	rm -f "$made_of"
	mv arch/x86/boot/bzImage "$kernel"
	mv "$work/btf" "$btf"
	printf '%s\n%s %s\n' "$key" "$SOURCE" "$(<"$work/version")" >"$made_of"
	rm "$work.log"
}

[[ $(uname -m) == x86_64 ]] || die "only from x86-64"
key=$(echo "$SOURCE" | cat - "$fragment" | sha256sum | cut -d' ' -f1)
mkdir -p "$kernels"
exec 9>"$kernels/$name.lock"
flock -n 9 || { say "another one is building; waiting"; flock 9; }
if is_current; then
	say "there: $kernel of $(sed -n 2p "$made_of")"
	exit
fi
install_packages make gcc libc6-dev flex bison bc xz-utils perl cpio rsync pahole bpftool debian-archive-keyring
work=$(mktemp -d "$kernels/$name.XXXXXX")
trap 'rm -rf "$work"' EXIT
SECONDS=0
(build "$work")
say "built in $SECONDS s: $(stat -c '%n, %s bytes' "$kernel"); $(stat -c '%n, %s bytes' "$btf")"
