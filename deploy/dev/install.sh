#!/bin/sh
# Installs what building and testing defib needs on Debian 12: the packages of packages.txt that are missing.
# Safe to run again: with nothing missing it does nothing and needs no root. Starts no service, makes no database cluster.
#
# usage: deploy/dev/install.sh [--check]      --check only says what is missing (exit 1)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
command -v dpkg-query >/dev/null || { echo "install.sh: no dpkg-query: this is for Debian; packages.txt says what is needed" >&2; exit 1; }

missing=
for package in $(sed 's/#.*//' "$here/packages.txt"); do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done

if [ -z "$missing" ]; then
    exit 0
fi
if [ "${1:-}" = --check ]; then
    echo "missing:$missing"
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "install.sh: not root, and these packages are missing:$missing; run: sudo $0" >&2
    exit 1
fi

# Each of the two files below is there only while packages are being configured, and only if the machine has no own.
made=
clean_up() {
    for file in $made; do rm -f -- "$file"; done
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# Debian's packages ask this program whether they may start their service; 101 means that they may not.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    made="$made $policy"
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

# Without this the package postgresql would make a database cluster when it is installed.
cluster=/etc/postgresql-common/createcluster.d/defib.conf
if [ ! -e "$cluster" ]; then
    made="$made $cluster"
    mkdir -p "$(dirname "$cluster")"
    echo 'create_main_cluster = false' >"$cluster"
fi

export DEBIAN_FRONTEND=noninteractive
echo "installing:$missing"
apt-get update --quiet --quiet
# shellcheck disable=SC2086 # a list of names, meant to be split
apt-get install --quiet --quiet --yes --no-install-recommends $missing
