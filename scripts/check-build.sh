#!/usr/bin/env bash
# What a build must not do twice: a second one does nothing, a Rust edit does not run clang, an edit of a BPF header does.
# Edits are touches: times change, contents do not.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
work=$(mktemp -d /tmp/remora-check-build.XXXXXX)
trap 'rm -rf "$work"' EXIT

# clang with a note of each run: build.rs finds it by PATH.
clang=$(command -v clang)
printf '#!/bin/sh\necho "$*" >>"%s/runs"\nexec "%s" "$@"\n' "$work" "$clang" >"$work/clang"
chmod +x "$work/clang"

# The number of times that clang ran, and whether anything was compiled.
build() {
	: >"$work/runs"
	PATH=$work:$PATH "$cargo" build --lib 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
	compiled=$(grep -c 'Compiling remora' "$work/log" || true)
	runs=$(wc -l <"$work/runs")
}

expect() {
	local what=$1 wanted=$2 found=$3
	if ((found $wanted)); then
		echo "ok: $what"
	else
		echo "check-build: $what: found $found, which is not $wanted" >&2
		cat "$work/log" "$work/runs" >&2
		exit 1
	fi
}

build
build
expect "a second build compiles nothing" "== 0" "$compiled"
touch src/lib.rs
build
expect "a Rust edit compiles Rust" "== 1" "$compiled"
expect "a Rust edit does not run clang" "== 0" "$runs"
touch src/bpf/compat.h
build
expect "a header edit runs clang" "> 0" "$runs"
build
expect "and only once" "== 0" "$compiled"
