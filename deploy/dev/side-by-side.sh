#!/usr/bin/env bash
# Runs two commands at the same time, and fails if one of them fails. What the first prints is seen at once. What the second prints is seen when
# the first has ended, so that their lines do not mix; meanwhile it is in the file LOG.
#
# usage: deploy/dev/side-by-side.sh LOG FIRST SECOND
set -uo pipefail
log=$1
set -m # the second gets a process group of its own, which can be stopped as a whole
bash -c "$3" >"$log" 2>&1 &
second=$!
set +m
trap 'kill -TERM -- "-$second" 2>/dev/null; exit 130' INT TERM
bash -c "$2"
status=$?
if kill -0 "$second" 2>/dev/null; then
    echo "the other half of the tests goes on; what it prints so far is in $log"
fi
wait "$second"
other=$?
cat "$log"
[ "$status" = 0 ] || echo "side-by-side.sh: this failed, see above: $2" >&2
[ "$other" = 0 ] || echo "side-by-side.sh: this failed, see above: $3" >&2
[ "$status" = 0 ] && [ "$other" = 0 ]
