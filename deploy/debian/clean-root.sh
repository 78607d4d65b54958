#!/bin/sh
# Makes a small Debian of this machine's release, with what the package and its test need, and prints the path of the
# archive. The archive is kept in target/, so it is made once. Packages come from where this machine's own apt takes them.
#
# usage: deploy/debian/clean-root.sh      as root
set -eu

cd "$(dirname -- "$0")/../.."
folder=${CARGO_TARGET_DIR:-$PWD/target}/clean-root
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$release" ] || { echo "clean-root.sh: /etc/os-release names no release of Debian" >&2; exit 1; }
archive=$folder/$release.tar

if [ ! -e "$archive" ]; then
    mkdir -p "$folder"
    sources=
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
        [ ! -s "$file" ] || sources="$sources $file"
    done
    [ -n "$sources" ] || { echo "clean-root.sh: no /etc/apt/sources.list and no debian.sources: where does this machine get packages from?" >&2; exit 1; }
    # The settings of proxies and the like. Settings that run programs are left out.
    apt-config dump | grep '^Acquire::' >"$folder/apt.conf"
    # Written to another name first, so that an archive that was not finished is never used. Not the variant minbase: it is larger.
    # shellcheck disable=SC2086 # a list of files, meant to be split
    mmdebstrap --quiet --variant=essential --include=systemd,man-db --aptopt="$folder/apt.conf" "$release" "$archive.new.tar" $sources >&2
    mv "$archive.new.tar" "$archive"
fi
echo "$archive"
