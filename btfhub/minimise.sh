#!/usr/bin/env bash
# From BTF of many kernels to one small archive for exactly these programs: btfhub/minimise.sh [OPTION...] SOURCE...
#
# A SOURCE is a directory laid out as ID/VERSION_ID/ARCHITECTURE/RELEASE.SUFFIX: a checkout of BTFHub's archive (.btf.tar.xz), raw BTF
# (.btf, .btf.xz), or vmlinux files with types or debug information (.vmlinux; those without types need pahole). README.md says more.
#
#   -o ARCHIVE     the archive to write (default btf.tar.xz)
#   -w DIR         where work is kept, so that a second run goes on where the first ended (default ARCHIVE.work)
#   -j N           how many at once (default: one for each processor)
#   --only NAME    only kernels whose names begin so, as in ubuntu/20.04 or debian/10/arm64; repeatable
#   --objects DIR  take the programs' objects from DIR/x86_64, DIR/arm64 (remora btf objects DIR) besides those of this program
#
# REMORA is the program, else target/release/remora, else the one on PATH; BPFTOOL and PAHOLE likewise. The exit status is 0 when every
# kernel is in the archive, 1 when some were left out (the archive holds the others), 2 on wrong usage, 3 when it was cut off (no archive is
# written; a second run goes on).
set -euo pipefail

say() { echo "minimise.sh: $*" >&2; }
die() {
	say "$*"
	exit "${status:-2}"
}

# --- one kernel: called by xargs below ------------------------------------------------------------------------------------------------

# Two BTFs of the largest kind, as the program takes at most from a tar.
unpacked_max=$((32 << 20))

# Prints one line: done, kept or failed, the name, and behind a tab why not.
one() {
	local name=${1%$'\t'*} file=${1#*$'\t'} architecture to objects folder why
	architecture=$(cut -d/ -f3 <<<"$name")
	to=$MINIMISE_WORK/btf/$name.btf
	objects=("$MINIMISE_WORK/objects/$architecture"/*.bpf.o)
	if [[ $to -nt $file && $to -nt ${objects[0]} ]]; then
		echo "kept $name"
		return
	fi
	rm -f "$to"
	folder=$(mktemp -d "$MINIMISE_WORK/one.XXXXXX")
	if why=$(take "$file" "$folder" "${name##*/}" 2>&1) &&
		why=$("$MINIMISE_BPFTOOL" gen min_core_btf "$folder/whole" "$folder/small" "${objects[@]}" 2>&1) &&
		why=$("$MINIMISE_REMORA" btf check "$folder/small" 2>&1); then
		mkdir -p "$(dirname "$to")"
		mv "$folder/small" "$to"
		echo "done $name"
	else
		echo "failed $name"$'\t'"$(tail -n 3 <<<"${why:-bpftool gave nothing}" | tr '\n' ' ')"
	fi
	rm -rf "$folder"
}

# The whole BTF of a file, as FOLDER/whole.
take() {
	local file=$1 folder=$2 release=$3 # BTFHub names the file in the tar so
	# Called in a condition, where errors do not end it by themselves.
	case $file in
	*.btf.tar.xz)
		bounded "$folder/tar" xz -dc "$file" || return
		bounded "$folder/whole" tar -xOf "$folder/tar" --wildcards "*$release.btf" || return
		;;
	*.btf.xz) bounded "$folder/whole" xz -dc "$file" || return ;;
	*.btf) ln -s "$(realpath "$file")" "$folder/whole" || return ;;
	*.vmlinux)
		if readelf --section-headers --wide "$file" | grep -q ' \.BTF '; then
			objcopy --dump-section .BTF="$folder/whole" "$file" /dev/null || return
		else
			"$MINIMISE_PAHOLE" --btf_encode_detached="$folder/whole" "$file" || return
		fi
		;;
	esac
	# bpftool says little of a damaged file.
	"$MINIMISE_REMORA" btf check "$folder/whole"
}

# What a command prints, as a file, unless it is too much: some KB of xz can become as many GB, and a tar can have holes.
bounded() {
	local file=$1 status=0
	shift
	"$@" | head -c $((unpacked_max + 1)) >"$file" || status=1
	if (($(stat -c %s "$file") > unpacked_max)); then
		echo "it unpacks to more than $((unpacked_max >> 20)) MiB"
		status=1
	fi
	return "$status"
}

if [[ ${1:-} == --one ]]; then
	one "$2"
	exit
fi

# --- all of them ------------------------------------------------------------------------------------------------------------------------

archive=btf.tar.xz work='' jobs=$(nproc) only=() sources=() objects=()
while (($#)); do
	case $1 in
	-o | -w | -j | --only | --objects) [[ $# -ge 2 ]] || die "$1 needs a value" ;;&
	-[owj]?*) set -- "${1:0:2}" "${1:2}" "${@:2}" ;;
	-o) archive=$2 && shift 2 ;;
	-w) work=$2 && shift 2 ;;
	-j) jobs=$2 && shift 2 ;;
	--only) only+=("$2") && shift 2 ;;
	--objects) objects+=("$2") && shift 2 ;;
	-h | --help) sed -n '2,/^set -/{/^#/s/^# \?//p}' "$0" && exit ;;
	-*) die "no such option: $1; see $0 --help" ;;
	*) sources+=("$1") && shift ;;
	esac
done
((${#sources[@]})) || die "which source? see $0 --help"
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "-j takes a number, not $jobs"
for source in "${sources[@]}"; do
	[[ -d $source ]] || die "$source is no directory"
done
here=$(cd "$(dirname "$0")" && pwd)
built=$here/../target/release/remora
remora=${REMORA:-$([[ -x $built ]] && echo "$built" || command -v remora || true)}
unset REMORA # the program takes variables that begin with REMORA_ for settings, and this one is none
bpftool=${BPFTOOL:-$(PATH=$PATH:/usr/sbin command -v bpftool || true)}
[[ -x $remora ]] || die "no program: build it (make build), or REMORA=FILE"
[[ -x $bpftool ]] || die "no bpftool: apt-get install bpftool, or BPFTOOL=FILE"
work=${work:-$archive.work}
mkdir -p "$work/btf"
work=$(cd "$work" && pwd)
rm -rf "$work"/one.*

# The objects are taken anew only where they changed: results that are older than they are made again.
"$remora" btf objects "$work/objects.new" >/dev/null
for folder in "${objects[@]}"; do
	cp -r "$folder"/. "$work/objects.new/"
done
if [[ -d $work/objects ]] && diff -rq "$work/objects" "$work/objects.new" >/dev/null; then
	rm -rf "$work/objects.new"
else
	rm -rf "$work/objects"
	mv "$work/objects.new" "$work/objects"
	find "$work/objects" -type f -exec touch {} +
fi

# NAME <tab> FILE of every kernel, and the architectures for which there are no objects.
: >"$work/entries"
: >"$work/failed"
for source in "${sources[@]}"; do
	find -L "$source" -mindepth 4 -maxdepth 4 -type f \( -name '*.btf' -o -name '*.btf.xz' -o -name '*.btf.tar.xz' -o -name '*.vmlinux' \) -printf '%P\t%p\n'
done | sed -E 's/\.(btf|btf\.xz|btf\.tar\.xz|vmlinux)\t/\t/' | LC_ALL=C sort -u -t $'\t' -k 1,1 |
	while IFS=$'\t' read -r name file; do
		[[ $name != .* ]] || continue
		wanted=$((!${#only[@]}))
		for prefix in "${only[@]}"; do
			[[ $name != "$prefix"* ]] || wanted=1
		done
		((wanted)) || continue
		architecture=$(cut -d/ -f3 <<<"$name")
		if [[ -d $work/objects/$architecture ]]; then
			printf '%s\t%s\n' "$name" "$file" >>"$work/entries"
		else
			echo "failed $name"$'\t'"no objects for $architecture: run 'remora btf objects DIR' of its program, and give --objects DIR" >>"$work/failed"
		fi
	done
total=$(wc -l <"$work/entries")
((total + $(wc -l <"$work/failed"))) || die "no kernels in ${sources[*]}${only[*]:+ of those names}"

# What is no longer wanted must not be packed.
(cd "$work/btf" && find . -type f -name '*.btf' -printf '%P\n') | sed 's/\.btf$//' | LC_ALL=C sort |
	LC_ALL=C comm -23 - <(cut -f1 "$work/entries") | while read -r name; do
	rm -f "$work/btf/$name.btf"
done

say "$total kernels, $jobs at once"
export MINIMISE_WORK=$work MINIMISE_REMORA=$remora MINIMISE_BPFTOOL=$bpftool MINIMISE_PAHOLE=${PAHOLE:-pahole}
tr '\n' '\0' <"$work/entries" | xargs -0 -r -n 1 -P "$jobs" "$here/${0##*/}" --one >"$work/log" || true
# One that was killed says nothing, and xargs may then start no more.
missing=$(cut -f1 "$work/entries" | LC_ALL=C comm -23 - <(sed -nE 's/^(done|kept|failed) ([^\t]*).*/\2/p' "$work/log" | LC_ALL=C sort))
if [[ $missing ]]; then
	status=3 die "cut off: nothing was said of $(wc -l <<<"$missing") of $total kernels, $(head -n 3 <<<"$missing" | paste -sd ' ')" \
		"among them; $archive is as it was, run it again to go on"
fi
grep '^failed' "$work/log" >>"$work/failed" || true
say "$(grep -c '^done' "$work/log" || true) minimised, $(grep -c '^kept' "$work/log" || true) as before, $(wc -l <"$work/failed") left out"
LC_ALL=C sort "$work/failed" | sed 's/^failed //; s/\t/: /' | while read -r line; do
	say "left out: $line"
done
find "$work/btf" -name '*.btf' -print -quit | grep -q . || status=1 die "nothing to pack"
"$remora" btf pack "$work/btf" "$archive"
[[ ! -s $work/failed ]]
