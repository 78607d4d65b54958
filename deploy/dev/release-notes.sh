#!/bin/sh
# Prints the newest section of a CHANGELOG.md, and refuses one that an operator could not upgrade by: its version must be that of the
# workspace, and its upgrade notes must say what has changed in the schema, the knobs and the metrics, even if nothing has.
#
# usage: deploy/dev/release-notes.sh VERSION <CHANGELOG.md
set -eu

version=$1
notes=$(awk '/^## \[Unreleased\]/ { next } /^## / { section++ } section == 1 { print }')
case $notes in
"## [$version] - "*) ;;
*)
    echo "release-notes.sh: the newest section of the changelog is \"$(printf '%s\n' "$notes" | head -n 1)\" and the workspace has version $version:" \
        "give the section the version and a date, as in ## [$version] - 2030-12-31" >&2
    exit 1
    ;;
esac
upgrade=$(printf '%s\n' "$notes" | awk '/^### / { within = ($0 == "### Upgrade notes") } within { print }')
for subject in Schema Knobs Metrics; do
    if ! printf '%s\n' "$upgrade" | grep --quiet "^- \*\*$subject\.\*\* ."; then
        echo "release-notes.sh: the upgrade notes of $version say nothing of $subject: add a line \"- **$subject.** …\" below ### Upgrade notes in" \
            "CHANGELOG.md, even if nothing changed" >&2
        exit 1
    fi
done
printf '%s\n' "$notes"
