#!/usr/bin/env bash
# The mutants that cargo-mutants does not make: `>=` becomes `>`, and `<=` becomes `<`, each occurrence by itself, in a copy of
# the sources. A rule that is only tested away from its bound survives this, and the bound is where such rules go wrong.
#
#   deploy/dev/bound-mutants.sh            every one of crates/policy
#   deploy/dev/bound-mutants.sh storm.rs   those of one file
#
# Ends with 1 if any survives that is not explained below and in docs/mutants.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The text before the operator, by which an explained one is known, whatever line it moves to.
explained=(
)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar --create --exclude=./target --exclude=./.git . | tar --extract --directory "$work"
cd "$work"
export CARGO_TARGET_DIR=$work/target CARGO_PROFILE_TEST_DEBUG=0
# The histories of tests/properties.rs are drawn anew each time, so what they alone would catch is not caught for sure.
build=(cargo test --quiet --locked --package defib-policy --lib --test rules)
tests=(timeout 60 "${build[@]}") # they take a second; a mutant may make one run for ever
"${build[@]}" >/dev/null

# file:line:nth of each operator between blanks outside of comments and tests.
occurrences() {
    find crates/policy/src -name "${1:-*.rs}" | sort | while read -r file; do
        awk -v file="$file" '/^#\[cfg\(test\)\]/ { exit }
            !/^ *\/\// { n = gsub(/ (>=|<=) /, "&"); for (i = 1; i <= n; i++) print file ":" NR ":" i }' "$file"
    done
}

caught=0 survived=0 known=0
while IFS=: read -r file line nth; do
    cp "$file" original
    sed -E -i "${line}s/ (>|<)= / \\1 /${nth}" "$file"
    if ! "${build[@]}" --no-run >log 2>&1; then
        echo "does not compile: $file:$line" >&2
        exit 1
    elif "${tests[@]}" >log 2>&1 </dev/null; then
        text=$(sed -n "${line}s/^ *//p" original)
        reason=
        for start in "${explained[@]}"; do [[ $text == *"$start"* ]] && reason=explained; done
        if [[ $reason ]]; then
            known=$((known + 1))
        else
            survived=$((survived + 1))
            echo "survives: $file:$line: $text"
        fi
    else
        caught=$((caught + 1))
    fi
    cp original "$file"
done < <(occurrences "${1:-}")
echo "$((caught + survived + known)) mutants at the bound: $caught caught, $known explained, $survived survive"
((survived == 0))
