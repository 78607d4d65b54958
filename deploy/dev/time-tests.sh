#!/usr/bin/env bash
# Runs one test program for `cargo test`, and appends to the file $TEST_TIMES how long each of its tests took, as "SECONDS PROGRAM::NAME" lines.
# `make test` sets it as cargo's runner, and slowest-tests.sh reads the file.
#
# The harness of Rust's tests reports times only with unstable options. RUSTC_BOOTSTRAP allows them to the test program alone: nothing is
# compiled with it, so it changes no build.
set -euo pipefail
case $1 in
    */deps/*) ;;
    *) exec "$@" ;; # an example of the documentation, which knows no options
esac
program=$(basename -- "$1")
said=$TEST_TIMES.$program
RUSTC_BOOTSTRAP=1 "$@" -Z unstable-options --report-time | tee "$said"
sed -n "s/^test \(.*\) \.\.\. ok <\([0-9.]*\)s>\$/\2 ${program%-*}::\1/p" "$said" >>"$TEST_TIMES"
rm -f "$said"
