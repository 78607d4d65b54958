#!/bin/sh
# Prints the ten slowest tests of a run, and for each that took more than 20 s the reason in slow-tests.txt beside this file. One without a
# reason is to be made faster, or to be given one.
#
# usage: deploy/dev/slowest-tests.sh <TIMES      lines of "SECONDS PROGRAM::NAME", as time-tests.sh writes them
set -eu
reasons=$(dirname -- "$0")/slow-tests.txt
echo "The slowest tests:"
sort -rn | head -n 10 | while read -r seconds name; do
    printf '%8.1f s  %s\n' "$seconds" "$name"
    [ "${seconds%.*}" -ge 20 ] || continue
    reason=$(sed -n "s/^$name  *# *//p" "$reasons")
    printf '            %s\n' "${reason:-more than 20 s, and no reason in $reasons}"
done
