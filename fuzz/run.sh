#!/bin/bash
# fuzz/run.sh SECONDS [TARGET…]: builds, fuzzes each target for so long, and keeps what reached something new, minimised, in fuzz/corpus.
# Without targets: all of them. An input that fails is left in fuzz/artifacts, and the script fails.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET…]}
shift
files_max=300 bytes_max=1000000

RUSTC_WRAPPER=$PWD/instrument.sh cargo build --release --quiet
cargo test --quiet --manifest-path ../Cargo.toml --test hostile write_the_seeds -- --ignored >/dev/null
fuzzer=$PWD/target/release/remora-fuzz
targets=("$@")
if ((!${#targets[@]})); then for folder in seeds/*; do targets+=("${folder#seeds/}"); done; fi

failed=0
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "work/$target" "artifacts/$target"
    export REMORA_FUZZ_TARGET=$target
    # Nothing is longer than what a stream keeps for a parser; what a script repeats and fills goes beyond by itself.
    if ! "$fuzzer" -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -use_value_profile=1 \
        -artifact_prefix="artifacts/$target/" "work/$target" "corpus/$target" "seeds/$target" 2>"work/$target.log"; then
        echo "$target: failed" >&2
        grep -aE -A3 'panicked|ERROR|Test unit' "work/$target.log" >&2 || true
        failed=1
    fi
    executions=$(sed -nE 's/^stat::number_of_executed_units: *//p' "work/$target.log")
    coverage=$(grep -aoE 'cov: [0-9]+ ft: [0-9]+' "work/$target.log" | tail -1)
    rm -rf "work/$target.kept"
    mkdir "work/$target.kept"
    "$fuzzer" -set_cover_merge=1 -use_counters=0 -max_len=16384 \
        "work/$target.kept" "corpus/$target" "work/$target" "seeds/$target" 2>"work/$target.merge.log"
    # The smallest first, as far as the bounds allow.
    rm -rf "corpus/$target"
    mkdir "corpus/$target"
    count=0 bytes=0
    while read -r size file; do
        if ((count >= files_max || bytes + size > bytes_max)); then break; fi
        mv "work/$target.kept/$file" "corpus/$target/"
        count=$((count + 1)) bytes=$((bytes + size))
    done < <(find "work/$target.kept" -type f -printf '%s %f\n' | sort -n)
    rm -rf "work/$target.kept"
    echo "$target: ${executions:-?} executions, ${coverage:-no coverage}, $count files of $bytes bytes kept"
done
exit $failed
