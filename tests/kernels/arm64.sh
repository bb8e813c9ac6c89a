#!/usr/bin/env bash
# The programs of an arm64 guest, and its kernel: arm64.sh FOLDER
#
# Fills FOLDER with bin/remora, bin/busybox and bin/pair, all static, and puts vmlinuz-6.1-arm64 of Debian 12 into
# ${XDG_CACHE_HOME:-~/.cache}/remora/kernels. The agent is cross-built with the profile `guest`: it is to be correct there, not fast.
#
# Debian 12 on x86-64. Nothing of arm64 is installed: its libraries, and where this machine's rustc has no standard library for arm64 a
# rustc of Debian's that has, are unpacked under the cache. They serve this build alone; cargo is the machine's own.
set -euo pipefail
folder=$(realpath -m "${1:?usage: arm64.sh FOLDER}")
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/debian.sh
source tests/support/debian.sh
# shellcheck source=tests/kernels/suites.sh
source tests/kernels/suites.sh

target=aarch64-unknown-linux-gnu
kernels=$CACHE/kernels
kernel=$kernels/vmlinuz-6.1-arm64
root=$CACHE/arm64

# Unpacks packages into a directory, all or nothing: unpack DIRECTORY PACKAGE...
unpack() {
	local directory=$1 package work
	shift
	[[ ! -e $directory ]] || return 0
	work=$(mktemp -d "$directory.XXXXXX")
	for package in "$@"; do
		say "fetching $package"
		fetch_package "$package" "$work/package.deb"
		dpkg-deb --extract "$work/package.deb" "$work/root"
	done
	mv "$work/root" "$directory"
	rm -r "$work"
}

has_own_std() {
	local libraries
	libraries=$(rustc --print target-libdir --target "$target") && compgen -G "$libraries/libstd-*.rlib" >/dev/null
}

fetch() {
	local image
	has_own_std && [[ -e $root/libraries && -e $kernel ]] && return
	[[ -e $root/rust && -e $root/libraries && -e $kernel ]] && return
	use_suites "$root/apt" amd64,arm64 bookworm bookworm-security
	unpack "$root/libraries" busybox-static:arm64 libelf-dev:arm64 zlib1g-dev:arm64
	has_own_std || unpack "$root/rust" rustc-web "$(newest_package '^libstd-rust-web-[0-9.]+$')" libstd-rust-web-dev libstd-rust-web-dev:arm64 \
		"$(apt-cache depends "$(newest_package '^libstd-rust-web-[0-9.]+$')" | awk '$2 ~ /^libllvm/ {print $2}')"
	if [[ ! -e $kernel ]]; then
		image=$(newest_package '^linux-image-6\.1\.0-[0-9]+-cloud-arm64$')
		say "fetching $image"
		fetch_package "$image:arm64" "$kernel.deb"
		dpkg-deb --fsys-tarfile "$kernel.deb" | tar -xO --wildcards '*/vmlinuz*' >"$kernel.part"
		mv "$kernel.part" "$kernel"
		rm "$kernel.deb"
	fi
}

# Debian's rustc from where it was unpacked: it looks for itself where it would have been installed.
write_rustc() {
	cat >"$root/rustc" <<-EOF
		#!/bin/sh
		LD_LIBRARY_PATH=$root/rust/usr/lib/x86_64-linux-gnu exec $root/rust/usr/bin/rustc --sysroot $root/rust/usr "\$@"
	EOF
	chmod +x "$root/rustc"
}

[[ $(uname -m) == x86_64 ]] || die "only from x86-64"
install_packages clang llvm libelf-dev zlib1g-dev pkg-config make gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-system-arm \
	debian-archive-keyring
mkdir -p "$root" "$kernels" "$folder/bin"
(
	flock 9
	fetch
) 9>"$root/lock"
if ! has_own_std; then
	write_rustc
	export RUSTC=$root/rustc
fi

SECONDS=0
export LIBBPF_SYS_LIBRARY_PATH_aarch64_unknown_linux_gnu=$root/libraries/usr/lib/aarch64-linux-gnu
CARGO_TARGET_DIR=target/arm64 PROFILE=guest scripts/build-static.sh arm64 "$folder/bin/remora"
say "the agent was built in $SECONDS s"
install -m 755 "$root/libraries/bin/busybox" "$folder/bin/busybox"
aarch64-linux-gnu-gcc -O2 -static -Wall -Wextra -Werror -o "$folder/bin/pair" tests/kernels/guest/pair.c
