#!/bin/sh
# Stands between cargo and rustc (RUSTC_WRAPPER): coverage, and a count of every load from memory, in Remora's own code and the targets
# alone. Instrumented dependencies would be found out about, too, and slow everything down. Works with a stable compiler.
for argument in "$@"; do
    if [ "$previous" = --crate-name ]; then crate=$argument; fi
    previous=$argument
done
case $crate in
remora | remora_fuzz)
    exec "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-sanitizer-coverage-trace-loads
    ;;
*) exec "$@" ;;
esac
