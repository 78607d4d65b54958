#!/usr/bin/env bash
# The mutants that cargo-mutants does not make, each by itself, in a copy of the sources of crates/policy:
#
#   >= becomes >    <= becomes <    .min becomes .max    .max becomes .min
#
# A rule that is only tested away from its bound survives this, and the bound is where such rules go wrong.
#
#   deploy/dev/bound-mutants.sh                        every one
#   deploy/dev/bound-mutants.sh suspicion.rs storm/    those of these files and folders of crates/policy/src
#
# Ends with 1 if any survives that docs/mutants.md does not explain.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Parts of lines by which the explained mutants are recognised, wherever the lines move to.
explained=(
)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar --create --exclude=./target --exclude=./.git . | tar --extract --directory "$work"
cd "$work"
export CARGO_TARGET_DIR=$work/target CARGO_PROFILE_TEST_DEBUG=0
where=("${@/#/crates/policy/src/}")
(($# > 0)) || where=(crates/policy/src)
for place in "${where[@]}"; do
    [[ -e $place ]] || { echo "no $place: name files or folders of crates/policy/src" >&2; exit 2; }
done
build=(cargo test --quiet --locked --package defib-policy --lib --test rules --test concern)
tests=(timeout 60 "${build[@]}") # they take two seconds; a mutant may make one run for ever
"${build[@]}" >/dev/null

# file:line:nth of each in the files and folders $@, outside of comments and tests.
occurrences() {
    find "$@" -name '*.rs' ! -name tests.rs | sort | while read -r file; do
        awk -v file="$file" 'tests && /\{$/ { exit }
            { tests = /^#\[cfg\(test\)\]/ }
            !/^ *\/\// { n = gsub(/ >= | <= |\.min\(|\.max\(/, "&"); for (i = 1; i <= n; i++) print file ":" NR ":" i }' "$file"
    done
}

# The file $1 with the $3rd of line $2 turned into its mutant.
mutant() {
    awk -v line="$2" -v nth="$3" '
        BEGIN { to[" >= "] = " > "; to[" <= "] = " < "; to[".min("] = ".max("; to[".max("] = ".min(" }
        NR != line { print; next }
        {
            before = ""; after = $0
            for (i = 1; match(after, / >= | <= |\.min\(|\.max\(/); i++) {
                found = substr(after, RSTART, RLENGTH)
                before = before substr(after, 1, RSTART - 1) (i == nth ? to[found] : found)
                after = substr(after, RSTART + RLENGTH)
            }
            print before after
        }' "$1"
}

caught=0 survived=0 known=0
while IFS=: read -r file line nth; do
    cp "$file" original
    mutant original "$line" "$nth" >"$file"
    text=$(sed -n "${line}s/^ *//p" "$file")
    if ! "${build[@]}" --no-run >log 2>&1; then
        echo "does not compile: $file:$line: $text" >&2
        exit 2
    elif "${tests[@]}" >log 2>&1 </dev/null; then
        reason=
        for part in "${explained[@]}"; do [[ $text != *"$part"* ]] || reason=explained; done
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
done < <(occurrences "${where[@]}")
echo "$((caught + survived + known)) mutants at the bound: $caught caught, $known explained, $survived survive"
((survived == 0))
