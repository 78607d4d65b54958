# Waits for its owner to die or to be done, then ends and removes everything that the owner started.
#
# usage: sh -c "$(cat guardian.sh)" guardian DIRECTORY CGROUP
#
# Standard input is a pipe whose other end only the owner holds: it closes when the owner closes it, and also when
# the owner is killed with SIGKILL. What belongs to the owner is found by three marks that a child keeps without
# knowing: a working directory inside DIRECTORY (Postgres overwrites its environment), TESTKIT_GUARDIAN=DIRECTORY in its
# environment (shims work elsewhere), membership of CGROUP (containers). A shell that you left in DIRECTORY goes as well.
set -u
trap '' HUP INT QUIT TERM PIPE
directory=$1
group=$2
case $directory in
/*/defib-*) ;;
*) exit 2 ;;
esac

while read -r _; do :; done

groups() {
    for root in /sys/fs/cgroup "/sys/fs/cgroup"/*; do
        [ -d "$root/$group" ] && printf '%s\n' "$root/$group"
    done
}

ours() {
    find /proc/[0-9]*/cwd -maxdepth 0 \( -lname "$directory" -o -lname "$directory/*" -o -lname "$directory (deleted)" \) \
        2>/dev/null | cut -d/ -f3
    grep -lsFxz "TESTKIT_GUARDIAN=$directory" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
    groups | while read -r path; do
        find "$path" -name cgroup.procs -exec cat {} + 2>/dev/null
    done
}

# A process in a frozen group (docker pause, cgroup v1) does not even die of SIGKILL until it is thawed.
thaw() {
    groups | while read -r path; do
        find "$path" -name freezer.state 2>/dev/null | while read -r file; do echo THAWED 2>/dev/null >"$file"; done
        find "$path" -name cgroup.freeze 2>/dev/null | while read -r file; do echo 0 2>/dev/null >"$file"; done
    done
}

# Two empty looks in a row, because one look can miss a process that is being forked by one already seen.
empty_looks=0
looks=0
while [ "$empty_looks" -lt 2 ] && [ "$looks" -lt 500 ]; do
    looks=$((looks + 1))
    pids=$(ours)
    if [ -z "$pids" ]; then
        empty_looks=$((empty_looks + 1))
    else
        empty_looks=0
        thaw
        # shellcheck disable=SC2086 # a list of numbers, meant to be split
        kill -KILL $pids 2>/dev/null
    fi
    [ "$empty_looks" -lt 2 ] && sleep 0.02
done

tries=0
while [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    groups | while read -r path; do
        find "$path" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    rm -rf -- "$directory" 2>/dev/null
    [ ! -e "$directory" ] && [ -z "$(groups)" ] && exit 0
    sleep 0.05
done
exit 1
