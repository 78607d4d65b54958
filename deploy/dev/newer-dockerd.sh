#!/bin/sh
# Puts the Docker engine of a newer Debian, with its containerd, runc and libraries, into a directory and prints the directory's path. Nothing is
# installed: the test kit starts the engine with that directory's usr/ in place of /usr. The directory is kept in target/, so it is made once.
# Packages come from where this machine's own apt takes those of its release, and their signatures are verified.
#
# usage: deploy/dev/newer-dockerd.sh [RELEASE]      as root; RELEASE is a name of Debian, by default trixie (Debian 13)
set -eu

cd "$(dirname -- "$0")/../.."
release=${1:-trixie}
folder=${CARGO_TARGET_DIR:-$PWD/target}/newer-dockerd
root=$folder/$release

mkdir -p "$folder"
# Tests of several processes may ask at the same time. One of them makes it, and the others wait.
exec 9>"$folder/$release.lock"
flock 9

if [ ! -e "$root" ]; then
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    archive=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' | sed -n "s/^Debian $codename //p" | sort -u | head -n 1)
    [ -n "$archive" ] || {
        echo "newer-dockerd.sh: apt knows no archive of Debian $codename; run: apt-get update" >&2
        exit 1
    }
    # Proxies and the like; nothing that runs programs.
    apt-config dump | grep '^Acquire::' >"$folder/apt.conf"
    # Made under another name first, so that a directory that was not finished is never used.
    rm -rf -- "$root.new"
    mmdebstrap --quiet --variant=extract --include=docker.io --aptopt="$folder/apt.conf" "$release" "$root.new" \
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $release main" >&2
    rm -rf -- "$root.new/usr/share"
    mv -- "$root.new" "$root"
fi
echo "$root"
