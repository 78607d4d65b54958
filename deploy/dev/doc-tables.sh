#!/usr/bin/env bash
# Writes the generated tables of Markdown pages anew: what stands between a pair of markers is replaced by what `defib help-docs` prints for
# the name in the markers, or by what the simulator wrote.
# usage: deploy/dev/doc-tables.sh path/to/defib PAGE…
set -euo pipefail
defib=$1
shift
for page; do
    skipping=
    while IFS= read -r line; do
        if [[ $line =~ ^'<!-- end '([a-z]+)' -->'$ ]]; then skipping=; fi
        [[ -n $skipping ]] || printf '%s\n' "$line"
        if [[ $line =~ ^'<!-- begin '([a-z]+)' -->'$ ]]; then
            case ${BASH_REMATCH[1]} in
                simulation) cat docs/simulation/summary.md ;; # written by `defib-sim report`
                backtest) echo '```text'; cat docs/backtest/example.txt; echo; echo '```' ;; # written by `make backtest-example`
                *) "$defib" help-docs "${BASH_REMATCH[1]}" ;;
            esac
            skipping=yes
        fi
    done <"$page" >"$page.new"
    mv "$page.new" "$page"
done
