#!/usr/bin/env bash
# Writes the README's tables anew: between each pair of markers, what `defib help-docs` prints, or what the simulator wrote.
# usage: deploy/dev/readme-tables.sh path/to/defib < README.md > README.new
set -euo pipefail
defib=$1
while IFS= read -r line; do
    if [[ $line =~ ^'<!-- end '([a-z]+)' -->'$ ]]; then skipping=; fi
    [[ -n ${skipping-} ]] || printf '%s\n' "$line"
    if [[ $line =~ ^'<!-- begin '([a-z]+)' -->'$ ]]; then
        case ${BASH_REMATCH[1]} in
            simulation) cat docs/simulation/summary.md ;; # written by `defib-sim report`
            *) "$defib" help-docs "${BASH_REMATCH[1]}" ;;
        esac
        skipping=yes
    fi
done
