#!/bin/sh
# Prints a Debian changelog made from a CHANGELOG.md: one entry for each version that has a date, newest first.
#
# usage: deploy/debian/changelog.sh <CHANGELOG.md "NAME <ADDRESS>"
set -eu

maintainer=$1
number=0
while read -r line; do
    case $line in
    '## ['*'] - '*)
        [ "$number" = 0 ] || printf '\n -- %s  %s\n\n' "$maintainer" "$date"
        version=${line#*\[} version=${version%%\]*}
        date=$(LC_ALL=C date --utc --date="${line##*\] - }" --rfc-email)
        printf 'defib (%s-1) unstable; urgency=medium\n' "$version"
        number=$((number + 1))
        ;;
    '## '*) # Unreleased
        ;;
    '### '*) [ "$number" = 0 ] || printf '\n  [ %s ]\n' "${line#'### '}" ;;
    '- '*) [ "$number" = 0 ] || printf '  * %s\n' "${line#- }" ;;
    '') ;;
    *) [ "$number" = 0 ] || printf '    %s\n' "$line" ;;
    esac
done
[ "$number" != 0 ] || { echo "changelog.sh: no version with a date: a heading such as '## [1.2.3] - 2030-12-31' is needed" >&2; exit 1; }
printf '\n -- %s  %s\n' "$maintainer" "$date"
