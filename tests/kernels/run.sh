#!/usr/bin/env bash
# `make test-kernels`: the agent on kernels of other ages and kinds, in virtual machines (QEMU; no KVM is needed): kernel × family of
# hooks × transport. A guest boots once from an initramfs that holds the agent and a few programs of this host, so neither disk nor
# modules nor network are needed; in it the agent watches a fixed amount of traffic with each family over each transport (guest/init).
# What it says must be exactly that traffic, with nothing lost, and what does not work must be what `remora doctor` says (judge.py).
#
#   tests/kernels/run.sh [-jN] [--markdown | --check | --write] [KERNEL...]   all of the table in guests.sh, or some by their first column
#
# -jN boots so many guests at a time. --markdown prints the table as Markdown; --write puts that into docs/kernels.md, and --check
# fails where it is another one. --write also makes the baseline of what the verifier has to do (verifier.py) anew; else it is held
# against that.
# REMORA is the agent, else target/release/remora; GUEST_OPTIONS are more options for it, as -vv, which shows the verifier's words.
# Kernels are kept in ${XDG_CACHE_HOME:-~/.cache}/remora/kernels; remove one there to get a newer one. What the guests said is in
# target/kernels/NAME, the consoles are NAME.console, the doctor's words NAME.doctor.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/kernels/guests.sh
source tests/kernels/guests.sh

# Every family that there is, and the traffic of one run: requests over a connection that is kept, requests with one each, look-ups;
# small and large requests of the pair by each of its means; attempts to a closed port; processes that wait in a send all the while. For
# the guest and for judge.py.
PLAN='
HOOKS="socket fentry kprobe syscalls packet"
REQUESTS=20
CLOSED=5
LOOKUPS=3
MEANS="call msg vector file splice uring uring-msg uring-fixed uring-thread"
ASKED=2
BODY_BYTES=5000
REFUSED=3
STUCK=12
'
PROGRAMS=(nginx curl unbound)
DOCUMENT=docs/kernels.md
remora=${REMORA:-target/release/remora}
out=target/kernels

# The root folder of the guests of this host's architecture.
make_root() {
	local root=$1 program
	mkdir -p "$root/bin"
	install -m 755 "$(command -v busybox)" "$root/bin/busybox"
	for program in "${PROGRAMS[@]}"; do
		copy_program "$root" "$program" "$(PATH=$PATH:/usr/sbin command -v "$program")"
	done
	gcc -O2 -static -o "$root/bin/pair" tests/kernels/guest/pair.c
	copy_program "$root" remora "$remora"
	strip "$root/bin/remora"
}

# What all guests of an architecture have, over its programs.
make_initramfs() {
	local root=$1 file=$2 program
	mkdir -p "$root"/{dev,proc,sys,tmp,etc,guest,files,var/log/nginx,var/lib/nginx}
	cp tests/kernels/guest/*.conf "$plan" "$root/guest/"
	install -m 755 tests/kernels/guest/init "$root/init"
	# the host's busybox, which is of the same version, says what is in it
	for program in $(busybox --list); do
		[[ -e $root/bin/$program ]] || ln -s busybox "$root/bin/$program"
	done
	printf 'root:x:0:0:root:/:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\n' >"$root/etc/group"
	printf 'nameserver 127.0.0.1\n' >"$root/etc/resolv.conf"
	printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
	printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
	head -c 20000 /dev/zero | tr '\0' x >"$root/files/large"
	pack "$root" "$file"
}

# The way of a fleet: types of one kernel, minimised, under the name by which the agent looks for them.
make_btf_archive() {
	local name=$1 archive=$2 release folder=$work/btf/debian/11/x86_64
	release=$(file -b "$kernels/vmlinuz-$name" | sed -nE 's/.* version ([^ ]+) .*/\1/p')
	mkdir -p "$folder"
	cp "$kernels/$name.btf" "$folder/$release.btf"
	REMORA=$remora btfhub/minimise.sh -o "$archive" -w "$work/btf.work" "$work/btf" >"$out/$name.btf.log" 2>&1 ||
		die "$name: $(tail -n1 "$out/$name.btf.log")"
}

# What one kernel has beside: a second archive behind the first.
make_guest() {
	local name=$1 root=$2 channel=/dev/ttyS1 programs=${PROGRAMS[*]} options=${GUEST_OPTIONS-}
	mkdir -p "$root/guest"
	case $name in
	*-arm64) channel=/dev/ttyS0 programs="" ;;
	*-without-btf)
		make_btf_archive "$name" "$root/guest/btf.tar.xz"
		mkdir -p "$root/etc"
		printf 'ID=debian\nVERSION_ID=11\n' >"$root/etc/os-release"
		options+=" --btf-archive /guest/btf.tar.xz"
		;;
	esac
	printf 'CHANNEL=%s\nPROGRAMS="%s"\nOPTIONS="%s"\n' "$channel" "$programs" "$options" >"$root/guest/kernel"
	cp "$root/guest/kernel" "$out/$name/"
}

# One kernel from its boot to its rows.
try_kernel() {
	local name=$1 families=$2 programs=x86_64
	local initrd=$work/$name.initrd
	[[ $name != *-arm64 ]] || programs=arm64.sh
	rm -rf "${out:?}/$name" "$out/$name".*
	mkdir -p "$out/$name"
	printf '%s\t?\tdoctor\t\tFAILED\tthe guest was not started\n' "$name" >"$out/$name.rows"
	make_guest "$name" "$work/$name"
	pack "$work/$name" "$work/$name.own"
	cat "$work/$programs.initramfs" "$work/$name.own" >"$initrd"
	boot "$name" "$initrd"
	rm -f "$initrd"
	# archives one after the other; of the last one a part is missing where the guest broke down
	touch "$out/$name.report"
	gzip -dcq <"$out/$name.report" 2>/dev/null | tar -xi -C "$out/$name" 2>/dev/null || true
	cp "$out/$name/doctor.json" "$out/$name.doctor.json" 2>/dev/null || true
	cp "$out/$name/doctor.perf.json" "$out/$name.doctor.perf.json" 2>/dev/null || true
	python3 -B tests/kernels/judge.py judge "$name" "$out/$name" "$plan" "$families" >"$out/$name.rows" || true
	say "$name: $(cut -f5 "$out/$name.rows" | sort | uniq -c | xargs), $SECONDS s"
}

# Between the markers of the document.
published() {
	sed -n '/<!-- matrix -->/,/<!-- end of matrix -->/p' "$DOCUMENT" | sed '1d;$d'
}

publish() {
	local new
	new=$(mktemp)
	{
		sed '/<!-- matrix -->/q' "$DOCUMENT"
		cat "$1"
		sed -n '/<!-- end of matrix -->/,$p' "$DOCUMENT"
	} >"$new"
	cat "$new" >"$DOCUMENT"
	rm -f "$new"
}

jobs=1 form=text
while [[ ${1-} == -* ]]; do
	case $1 in
	-j[0-9]*) jobs=${1#-j} ;;
	--markdown | --check | --write) form=${1#--} ;;
	*) die "no option $1; see the head of this script" ;;
	esac
	shift
done
[[ -x $remora ]] || die "no $remora: make build, or REMORA=FILE"
[[ $(uname -m) == x86_64 ]] || die "only from x86-64"
(($# == 0)) || [[ $form != check && $form != write ]] || die "--$form is for the whole table"
table=$(choose_kernels "$@")
packages=(qemu-system-x86 busybox-static binutils procps gcc libc6-dev file python3 nginx-light curl unbound debian-archive-keyring)
! grep -q -- '-arm64' <<<"$table" || packages+=(qemu-system-arm)
! grep -q -- '-without-btf' <<<"$table" || packages+=(bpftool xz-utils)
install_packages "${packages[@]}"
mkdir -p "$kernels" "$out"
tested=$(python3 -B tests/kernels/judge_tests.py 2>&1) || die "the judge does not judge: $tested"
tested=$(python3 -B tests/kernels/verifier_tests.py 2>&1) || die "what costs more would not be found: $tested"
work=$(mktemp -d /tmp/remora-kernels.XXXXXX)
trap 'end_jobs; rm -rf "$work"' EXIT
fetch_kernels <<<"$table"
plan=$work/plan
transports=any
! "$remora" run --help | grep -q -- --transport || transports="ring perf"
printf '%sTRANSPORTS="%s"\n' "$PLAN" "$transports" >"$plan"
make_root "$work/x86_64.root"
for root in "$work"/*.root; do make_initramfs "$root" "${root%.root}.initramfs"; done

names=()
while read -r name suites pattern families; do
	names+=("$name")
	while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
	SECONDS=0
	try_kernel "$name" "$families" &
done <<<"$table"
wait
# A guest of a busy machine can stand still for longer than anything in it waits: who did not do its own part, or did not get to its end, is
# started once more, by itself. What the agent said of a guest that did its part is judged once. The first trial stays as NAME.first.
while read -r name suites pattern families; do
	if [[ -e $out/$name/seconds ]] && ! grep -E '^guest: .* cannot: ' "$out/$name.console" >&2; then continue; fi
	say "$name did not do its part, and is started once more: $(tail -n1 "$out/$name.console" | cut -c1-300)"
	rm -rf "${out:?}/$name.first"
	cp -r "$out/$name" "$out/$name.first"
	cp "$out/$name.console" "$out/$name.first.console"
	SECONDS=0
	try_kernel "$name" "$families"
done <<<"$table"
rows=("${names[@]/#/$out/}")
rows=("${rows[@]/%/.rows}")
python3 -B tests/kernels/judge.py table --markdown "${rows[@]}" >"$out/table.md"
if [[ $form == markdown ]]; then cat "$out/table.md"; else python3 -B tests/kernels/judge.py table "${rows[@]}"; fi
! cut -f5 "${rows[@]}" | grep -qx FAILED || die "not as it should be; consoles and lines are in $out"
# What the verifier had to do. The doctor's words of each kernel, over each transport.
costs=()
for name in "${names[@]}"; do costs+=("$out/$name".doctor*.json); done
if [[ $form == write ]]; then
	publish "$out/table.md"
	python3 -B tests/kernels/verifier.py write "${costs[@]}" || die "the baseline of the verifier is not written"
else
	python3 -B tests/kernels/verifier.py check "${costs[@]}" >&2 || die "the verifier has more to do; if that is meant: tests/kernels/run.sh --write"
fi
[[ $form != check ]] || diff <(published) "$out/table.md" || die "$DOCUMENT has another table: tests/kernels/run.sh --write"
