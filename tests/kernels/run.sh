#!/usr/bin/env bash
# `make test-kernels`: the agent on kernels of other ages, in virtual machines (QEMU; no KVM is needed). Debian's cloud kernels boot
# from an initramfs that holds the agent and a few programs of this host, so neither disk nor modules nor network are needed. In each
# the agent watches a fixed number of HTTP requests and DNS look-ups with each family of hooks; what it says must be that number, and
# nothing lost.
#
#   tests/kernels/run.sh [KERNEL...]    all of the table below, or some by their first column
#
# REMORA is the agent, else target/release/remora. Kernels are kept in ${XDG_CACHE_HOME:-~/.cache}/remora/kernels; remove one there to
# get a newer one. What the guests said is in target/kernels.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/debian.sh
source tests/support/debian.sh

# Name, Debian suite, package (its newest is taken), and what is expected: families of hooks that work, or `refused`.
KERNELS='
5.10 bullseye         linux-image-5\.10\.0-[0-9]+       refused
6.1  bookworm         linux-image-6\.1\.0-[0-9]+        syscalls
6.12 trixie           linux-image-6\.12\.[0-9]+.deb13   socket,syscalls
6.16 trixie-backports linux-image-6\.16\.[0-9]+.deb13   socket,syscalls
'
REQUESTS=20
LOOKUPS=5
# Of a boot with everything in it; software emulation on a busy machine.
BOOT_SECONDS=300
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
PROGRAMS=(nginx curl unbound)
# Nested KVM is there on many machines and works on few.
accelerator=${ACCELERATOR:-tcg}
remora=${REMORA:-target/release/remora}
kernels=$CACHE/kernels
out=target/kernels

# A private directory of apt, so that other suites do not reach this system.
prepare_apt() {
	local apt=$kernels/apt suite
	mkdir -p "$apt"/{lists,archives}/partial "$apt/parts"
	touch "$apt/status"
	for suite in "$@"; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $MIRROR $suite main"
	done >"$apt/sources.list"
	cat >"$apt/apt.conf" <<-EOF
		Dir::State "$apt"; Dir::State::status "$apt/status"; Dir::Cache "$apt";
		Dir::Etc::SourceList "$apt/sources.list"; Dir::Etc::SourceParts "$apt/parts";
		APT::Architecture "amd64"; APT::Architectures "amd64"; APT::Sandbox::User "root"; Acquire::Languages "none";
		Acquire::Check-Valid-Until "false"; Acquire::Check-Date "false";
	EOF
	export APT_CONFIG=$apt/apt.conf
	apt-get update -qq
}

# The kernels that are not kept yet. Of each only the image stays.
fetch_kernels() {
	local name suite pattern hooks package work wanted=() suites=()
	while read -r name suite pattern hooks; do
		[[ -e $kernels/vmlinuz-$name ]] && continue
		wanted+=("$name $pattern")
		suites+=("$suite")
	done
	((${#wanted[@]})) || return 0
	mapfile -t suites < <(printf '%s\n' "${suites[@]}" | sort -u)
	(
		prepare_apt "${suites[@]}"
		work=$(mktemp -d "$kernels/fetch.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		for line in "${wanted[@]}"; do
			read -r name pattern <<<"$line"
			package=$(apt-cache search --names-only "^$pattern-cloud-amd64\$" | cut -d' ' -f1 | sort -V | tail -n1)
			[[ $package ]] || die "Debian has no $pattern any more; see the table in this script"
			say "fetching $package"
			rm -rf "${work:?}"/*
			(cd "$work" && apt-get download -qq "$package") || die "apt-get download $package failed"
			dpkg-deb --fsys-tarfile "$work"/*.deb | tar -xO --wildcards '*/vmlinuz*' >"$work/vmlinuz"
			mv "$work/vmlinuz" "$kernels/vmlinuz-$name"
		done
	)
}

# A program under a name, and the libraries that it needs at their places of this host.
copy_program() {
	local root=$1 name=$2 program=$3 library
	rm -f "$root/bin/$name"
	install -D -m 755 "$program" "$root/bin/$name"
	ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
		[[ -e $root$library ]] || install -D -m 755 "$library" "$root$library"
	done
}

# One initramfs for all kernels.
make_guest() {
	local root=$1/root program
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,etc,guest,files,var/log/nginx,var/lib/nginx}
	cp tests/kernels/guest/*.conf "$root/guest/"
	install -m 755 tests/kernels/guest/init "$root/init"
	install -m 755 "$(command -v busybox)" "$root/bin/busybox"
	for program in $("$root/bin/busybox" --list); do
		[[ -e $root/bin/$program ]] || ln -s busybox "$root/bin/$program"
	done
	for program in "${PROGRAMS[@]}"; do
		copy_program "$root" "$program" "$(PATH=$PATH:/usr/sbin command -v "$program")"
	done
	copy_program "$root" remora "$remora"
	strip "$root/bin/remora"
	printf 'root:x:0:0:root:/:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\n' >"$root/etc/group"
	printf 'nameserver 127.0.0.1\n' >"$root/etc/resolv.conf"
	printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
	printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
	head -c 20000 /dev/zero | tr '\0' x >"$root/files/large"
	(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$1/initramfs"
}

# The families of hooks that a kernel is tried with.
families() {
	if [[ $1 == refused ]]; then echo auto; else echo "$1"; fi
}

# Without cmpxchg16b, which QEMU 7.2 emulates wrongly: Linux 6.12 falls over it.
boot() {
	local name=$1 hooks=$2 work=$3 line
	rm -f "$out/$name".*
	line="console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"
	line+=" HOOKS=$(families "$hooks") REQUESTS=$REQUESTS LOOKUPS=$LOOKUPS"
	timeout --foreground "$BOOT_SECONDS" qemu-system-x86_64 -accel "$accelerator" -cpu max,cx16=off -smp 2 -m 1024 \
		-nodefaults -display none -no-reboot -serial "file:$out/$name.console" -serial "file:$out/$name.report" \
		-kernel "$kernels/vmlinuz-$name" -initrd "$work/initramfs" -append "$line" \
		</dev/null >"$out/$name.qemu" 2>&1 || say "$name: QEMU ended with $?: $(tail -n1 "$out/$name.qemu")"
}

# What the agent said with one family, as one line that is the same wherever all is well.
judge() {
	jq -rs '
		def tally(f): map(f) | group_by(.) | map("\(length) \(.[0])") | join(", ");
		map(select(.type == "exchange")) as $exchanges |
		(map(select(.type == "summary")) | last) as $summary |
		($exchanges | tally(([.protocol, .side, .server.address, .status] + (.flags // [])) | join(" "))) + "; lost " +
			(if $summary then ($summary.lost | [.[]] | add // 0 | tostring) else "?" end)' "$1"
}

# The lines of one family out of a report, and the agent's exit status.
lines_of() {
	awk -v hooks="$2" '/^== /{on = $2 == hooks; next} on' "$1" | tr -d '\r'
}

status_of() {
	awk -v hooks="$2" '$1 == "==" && $2 == hooks {print $3 + 0}' "$1"
}

# What it is where all is well. The name is looked up twice each time and leads to 127.0.0.1; a file was fetched from each address.
good=""
for entry in "$((2 * LOOKUPS)) dns client 127.0.0.1 NOERROR" "$LOOKUPS dns client ::1 NOERROR" \
	"$((2 * LOOKUPS)) dns server 127.0.0.1 NOERROR" "$LOOKUPS dns server ::1 NOERROR" \
	"$((REQUESTS + 1 + LOOKUPS)) http client 127.0.0.1 200" "$((REQUESTS + 1)) http client ::1 200" \
	"$((REQUESTS + 1 + LOOKUPS)) http server 127.0.0.1 200" "$((REQUESTS + 1)) http server ::1 200"; do
	good+=${good:+, }$entry
done
good+="; lost 0"

failed=0
row() {
	printf '%-6s %-10s %-8s %s\n' "$@"
}

check() {
	local name=$1 expected=$2 hooks lines status result
	local report=$out/$name.report
	touch "$report"
	if [[ $expected == refused ]]; then
		status=$(status_of "$report" auto)
		result=$(grep -aE '^remora: |cannot|lacks' "$out/$name.console" | tail -n1 | tr -d '\r' || true)
		if [[ $status == 3 ]]; then row "$name" auto refused "$result"; else row "$name" auto FAILED "exit ${status:-none}: $result"; failed=1; fi
		return
	fi
	for hooks in ${expected//,/ }; do
		lines=$out/$name.$hooks.jsonl
		lines_of "$report" "$hooks" >"$lines"
		status=$(status_of "$report" "$hooks")
		result=$(judge "$lines" 2>&1)
		if [[ $status == 0 && $result == "$good" ]]; then
			row "$name" "$hooks" ok "$result"
		else
			row "$name" "$hooks" FAILED "exit ${status:-none}: $result"
			failed=1
		fi
	done
}

[[ -x $remora ]] || die "no $remora: make build, or REMORA=FILE"
[[ $(uname -m) == x86_64 ]] || die "only from x86-64"
install_packages qemu-system-x86 busybox-static binutils jq nginx-light curl unbound debian-archive-keyring
mkdir -p "$kernels" "$out"
table=$(grep . <<<"$KERNELS")
if (($#)); then
	table=$(for name in "$@"; do awk -v name="$name" '$1 == name' <<<"$table" | grep . || die "no kernel $name in the table"; done)
fi
fetch_kernels <<<"$table"
work=$(mktemp -d /tmp/remora-kernels.XXXXXX)
trap 'rm -rf "$work"' EXIT
make_guest "$work"

row kernel hooks result seen
while read -r name suite pattern hooks; do
	boot "$name" "$hooks" "$work"
	check "$name" "$hooks"
done <<<"$table"
((!failed)) || die "not as it should be; the expected line is: $good; consoles and lines are in $out"
