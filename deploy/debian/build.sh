#!/bin/sh
# Builds the Debian package and prints its path: target/debian/defib_VERSION-1_ARCHITECTURE.deb.
#
# usage: deploy/debian/build.sh [--debug]     --debug packs the program in target/debug, which must be there, and compresses less: for tests
#
# cargo-deb is installed below target/ if it is missing. What the package contains is said in crates/daemon/Cargo.toml
# (package.metadata.deb); this script makes the files that are not in the repository, in target/debian/files:
#   man/ completions/   what `defib help-files` writes
#   defib.service       deploy/systemd/defib.service with the program's and the user's place in a package
#   changelog           CHANGELOG.md in Debian's format
set -eu

cd "$(dirname -- "$0")/../.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
cargo=${CARGO:-cargo}
version_of_cargo_deb=3.8.0
tools=$CARGO_TARGET_DIR/tools
files=target/debian/files # where crates/daemon/Cargo.toml names them

if [ ! -x "$tools/bin/cargo-deb" ] || [ "$("$tools/bin/cargo-deb" --version)" != "cargo-deb $version_of_cargo_deb" ]; then
    # Unoptimised, because it runs for seconds. The lock is its own, so the same version is the same program.
    CARGO_TARGET_DIR="$tools/build" "$cargo" install --quiet --locked --debug --root "$tools" --version "$version_of_cargo_deb" cargo-deb >&2
    rm -rf "$tools/build"
fi

if [ "${1:-}" = --debug ]; then
    program=$CARGO_TARGET_DIR/debug/defib
    options='--profile dev --fast'
    [ -x "$program" ] || { echo "build.sh: no $program: run cargo build --workspace --bins" >&2; exit 1; }
else
    program=$CARGO_TARGET_DIR/release/defib
    options='--profile release'
    "$cargo" build --release --locked --package defib --bin defib >&2
fi

rm -rf "$files"
mkdir -p "$files"
"$program" help-files "$files"
deploy/debian/unit.sh <deploy/systemd/defib.service >"$files/defib.service"
maintainer=$(sed -n 's/^maintainer = "\(.*\)"$/\1/p' crates/daemon/Cargo.toml)
deploy/debian/changelog.sh "$maintainer" <CHANGELOG.md >"$files/changelog"

# shellcheck disable=SC2086 # a list of options, meant to be split
"$tools/bin/cargo-deb" deb --quiet --locked --no-build --strip $options --package defib --output "$CARGO_TARGET_DIR/debian" | tail -n 1
