#!/usr/bin/env bash
# Makes vmlinux/<architecture>/vmlinux.h again: every type of one kernel as C, from that kernel's own BTF.
#
#   vmlinux/generate.sh x86_64     from the running kernel (/sys/kernel/btf/vmlinux), so run it on the kernel you want
#   vmlinux/generate.sh aarch64    from Debian's newest arm64 cloud kernel, downloaded and unpacked, never installed
#
# Needs bpftool and clang; for aarch64 also apt, dpkg-deb and python3, on a Debian or a derivative. No root.
# Settings: SUITE (default trixie), MIRROR (default http://deb.debian.org/debian).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
architecture=${1:-$(uname -m)}
suite=${SUITE:-trixie}
mirror=${MIRROR:-http://deb.debian.org/debian}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

die() {
	echo "generate.sh: $*" >&2
	exit 1
}

# apt with its own sources, lists and cache: the system's apt never learns of the foreign architecture.
fetch_arm64_kernel() {
	mkdir -p "$work"/apt/{lists/partial,cache/archives/partial}
	: >"$work/apt/status"
	echo "deb [arch=arm64] $mirror $suite main" >"$work/apt/sources.list"
	cat >"$work/apt/apt.conf" <<-CONF
		Dir::Etc::SourceList "$work/apt/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		Dir::State::Lists "$work/apt/lists";
		Dir::State::Status "$work/apt/status";
		Dir::Cache "$work/apt/cache";
		APT::Architecture "arm64";
		APT::Architectures "arm64";
		APT::Sandbox::User "";
		Acquire::Languages "none";
	CONF
	export APT_CONFIG=$work/apt/apt.conf
	apt-get -qq update
	# The metapackage depends on the newest versioned kernel of the suite.
	package=$(apt-cache depends linux-image-cloud-arm64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p')
	[ -n "$package" ] || die "no linux-image-cloud-arm64 in $suite at $mirror"
	(cd "$work" && apt-get -qq download "$package")
	dpkg-deb -x "$work"/linux-image-*.deb "$work/root"
	echo "$package $(apt-cache show "$package" | sed -n 's/^Version: //p')" >&2
}

# The .BTF section lies unchanged in the decompressed Image. Its header (Documentation/bpf/btf.rst in the kernel tree) is
# {magic 0xeb9f, version 1, flags 0, hdr_len 24, type_off, type_len, str_off, str_len}: the strings follow the types and
# begin with an empty one. The kernel's own table is the largest that fits.
cut_btf_out() { # IMAGE BLOB
	python3 - "$1" "$2" <<-'PYTHON'
		import gzip, struct, sys

		image = open(sys.argv[1], "rb").read()
		if image[:2] == b"\x1f\x8b":
		    image = gzip.decompress(image)
		start = struct.pack("<HBBI", 0xEB9F, 1, 0, 24)
		best = b""
		at = image.find(start)
		while at >= 0:
		    type_off, type_len, str_off, str_len = struct.unpack_from("<IIII", image, at + 8)
		    strings, end = at + 24 + str_off, at + 24 + str_off + str_len
		    if type_off == 0 and str_off == type_len and str_len > 1 and end <= len(image):
		        if image[strings] == 0 and image[end - 1] == 0 and end - at > len(best):
		            best = image[at:end]
		    at = image.find(start, at + 1)
		if not best:
		    sys.exit(f"generate.sh: no BTF in {sys.argv[1]}: neither a raw nor a gzip Image, or built without CONFIG_DEBUG_INFO_BTF")
		open(sys.argv[2], "wb").write(best)
	PYTHON
}

case $architecture in
x86_64)
	[ "$(uname -m)" = x86_64 ] || die "run this on an x86-64 kernel"
	btf=/sys/kernel/btf/vmlinux
	target=x86
	uname -r >&2
	;;
aarch64)
	fetch_arm64_kernel
	btf=$work/vmlinux.btf
	cut_btf_out "$(echo "$work"/root/boot/vmlinuz-*)" "$btf"
	target=arm64
	;;
*) die "x86_64 or aarch64, not '$architecture'" ;;
esac

bpftool btf dump file "$btf" format c >"$work/vmlinux.h"

# A header that lacks what the programs read, or does not compile, never replaces the committed one.
cat >"$work/check.c" <<'C'
#include "vmlinux.h"
unsigned long sizes[] = {
	sizeof(struct tcp_sock), sizeof(struct sock), sizeof(struct task_struct), sizeof(struct pt_regs), sizeof(struct iov_iter),
};
C
clang -target bpf -D__TARGET_ARCH_$target -I"$work" -Wall -Werror -g -O2 -c "$work/check.c" -o "$work/check.o"
mkdir -p "$here/$architecture"
mv "$work/vmlinux.h" "$here/$architecture/vmlinux.h"
chmod 644 "$here/$architecture/vmlinux.h"
