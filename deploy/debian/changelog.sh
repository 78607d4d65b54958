#!/bin/sh
# Prints a Debian changelog made from a CHANGELOG.md: one entry for each version that has a date, newest first, no line over 79 columns.
#
# usage: deploy/debian/changelog.sh "NAME <ADDRESS>" <CHANGELOG.md
set -eu

maintainer=$1
signature() { printf '\n -- %s  %s\n' "$maintainer" "$(LC_ALL=C date --utc --date="$1" --rfc-email)"; }

# Prints what was gathered of a list item, wrapped.
item=
end_item() {
    [ -z "$item" ] || printf '%s\n' "$item" | fold --spaces --width=74 | sed -e 's/ *$//' -e '1s/^/  * /' -e '2,$s/^/    /'
    item=
}

date=
while IFS= read -r line || [ -n "$line" ]; do
    case $line in
    '## ['*'] - '*)
        end_item
        [ -z "$date" ] || { signature "$date" && echo; }
        date=${line##*\] - }
        version=${line#*\[}
        printf 'defib (%s-1) unstable; urgency=medium\n' "${version%%\]*}"
        ;;
    '## '*) ;; # what is not released yet has no date
    '### '*) end_item; [ -z "$date" ] || printf '\n  [ %s ]\n' "${line#'### '}" ;;
    '- '*) end_item; [ -z "$date" ] || item=${line#- } ;;
    '') end_item ;;
    *) [ -z "$item" ] || item="$item ${line#"${line%%[! ]*}"}" ;;
    esac
done
end_item
[ -n "$date" ] || { echo "changelog.sh: no version with a date: a heading such as '## [1.2.3] - 2030-12-31' is needed" >&2; exit 1; }
signature "$date"
