#!/usr/bin/env bash
# What each family of hooks adds to a call, on kernels in virtual machines: boots each with benches/family_cost and prints its Markdown.
# The machines are emulated, so figures can be compared with each other, but not with those of a real machine. From 6.12 on their clock
# counts instructions, one a nanosecond, which other work on this machine does not change; older kernels wait in vain for their second
# processor then. What is right or wrong about the figures are the counts of runs, and a kernel where these are wrong fails.
#
#   tests/kernels/cost.sh [KERNEL...]    by the first column of the table in guests.sh, for x86-64; 5.10, 6.1 and 6.12 when none is named
#
# FAMILY_COST is the bench, else cargo builds it as `cargo bench` does. COST_OPTIONS are options for it. Reports and consoles stay in
# target/kernels/cost.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/kernels/guests.sh
source tests/kernels/guests.sh

# Several loads of each family over each transport, under emulation, and on a machine that may have other work.
# shellcheck disable=SC2034
BOOT_SECONDS=3600
out=target/kernels/cost
options=${COST_OPTIONS:---rounds 3 --samples 300}

build_bench() {
	cargo bench --no-run --bench family_cost --message-format json | python3 -c '
import json, sys
found = [line["executable"] for line in map(json.loads, sys.stdin) if line.get("executable") and line["target"]["name"] == "family_cost"]
print(found[-1])'
}

# Sets `boot_options` for a kernel, and says what the bench shall call what its clock counts.
choose_clock() {
	boot_options=()
	unit=nanoseconds
	case $1 in
	5.* | 6.1 | 6.1-*) ;;
	*)
		[[ $accelerator == tcg ]] || return 0
		# shellcheck disable=SC2034
		boot_options=(-icount "shift=0,sleep=off")
		unit=instructions
		;;
	esac
}

[[ $(uname -m) == x86_64 ]] || die "only from x86-64"
(($#)) || set -- 5.10 6.1 6.12
table=$(choose_kernels "$@")
! grep -qE -- '-arm64|-without-btf' <<<"$table" || die "only kernels of x86-64 with BTF of their own"
install_packages qemu-system-x86 busybox-static binutils procps debian-archive-keyring python3
mkdir -p "$kernels" "$out"
work=$(mktemp -d /tmp/remora-cost.XXXXXX)
trap 'end_jobs; rm -rf "$work"' EXIT
fetch_kernels <<<"$table"
bench=${FAMILY_COST:-$(build_bench)}
root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp,guest}
install -m 755 "$(command -v busybox)" "$root/bin/busybox"
for name in sh date; do ln -s busybox "$root/bin/$name"; done
copy_program "$root" family_cost "$bench"
strip "$root/bin/family_cost"
install -m 755 tests/kernels/guest/cost "$root/init"

failed=()
# One by one: beside another the figures would say nothing.
while read -r name _; do
	SECONDS=0
	rm -f "$out/$name".*
	choose_clock "$name"
	printf '%s --unit %s\n' "$options" "$unit" >"$root/guest/options"
	pack "$root" "$work/initrd"
	boot "$name" "$work/initrd"
	touch "$out/$name.report"
	printf '\n### %s\n\n' "$name"
	tr -d '\r' <"$out/$name.report" | grep -v '^status ' || true
	grep -q '^status 0' "$out/$name.report" || failed+=("$name")
	say "$name: $SECONDS s"
done <<<"$table"
((${#failed[@]} == 0)) || die "not as it should be: ${failed[*]}; consoles are in $out"
