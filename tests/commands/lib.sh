# SPDX-License-Identifier: MIT
#
# for the tests of image commands: a folder to work in, images, comparisons
#
# A test sources this file and works in $work, which is its current folder and
# is removed at the end. Images are made by qemu-img, so that nothing is tested
# against itself. Exit codes: 0 passed, 1 failed (one line says why), 77 skipped.

set -u
LC_ALL=C
export LC_ALL

IMGFUSE=${IMGFUSE:-./imgfuse}
case $IMGFUSE in
/*) ;;
*) IMGFUSE=$PWD/$IMGFUSE ;;
esac

skip() {
    echo "skipped: $*"
    exit 77
}

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# step WHAT: one line, so that a log tells how far a test came.
step() {
    echo "--- $*"
}

# need TOOL...: skip unless all are installed.
need() {
    for tool; do
        command -v "$tool" > /dev/null || skip "$tool is not installed"
    done
}

[ -x "$IMGFUSE" ] || skip "no program at $IMGFUSE"
need qemu-img qemu-io

small_disk=

finish() {
    result=$?
    trap - EXIT INT TERM
    cd /
    [ -z "$small_disk" ] || timeout 20 umount "$small_disk"
    rm -rf --one-file-system "$work"
    exit "$result"
}

work=$(mktemp -d "${TMPDIR:-/tmp}/imgfuse-test.XXXXXX") || exit 1
trap finish EXIT
trap 'exit 1' INT TERM
cd "$work" || exit 1

# patiently COMMAND...: again while it says that the processor time it used
# cannot be measured: QEMU's tools do so now and then when they make keys.
# What it says on standard error is in err.log.
patiently() {
    for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        timeout 20 "$@" 2> err.log && return 0
        grep -q 'CPU usage' err.log || return 1
    done
    return 1
}

# run COMMAND...: imgfuse with a limit; its exit code is in $code, its output
# in out.log and err.log.
run() {
    timeout 60 "$IMGFUSE" "$@" > out.log 2> err.log
    code=$?
}

# works COMMAND...: it must, and says nothing on standard error.
works() {
    run "$@"
    [ "$code" = 0 ] && [ ! -s err.log ] || {
        cat err.log >&2
        fail "imgfuse $*: exit code $code"
    }
}

# refused CODE WORD COMMAND...: it ends with that exit code and says one line
# on standard error that has WORD (a basic regular expression) in it.
refused() {
    wanted=$1
    word=$2
    shift 2
    run "$@"
    [ "$code" = "$wanted" ] || {
        cat err.log >&2
        fail "imgfuse $*: exit code $code, not $wanted"
    }
    [ "$(wc -l < err.log)" = 1 ] && grep -q -e "$word" err.log || {
        cat err.log >&2
        fail "imgfuse $*: not one line with '$word'"
    }
    echo "    $(cat err.log)"
}

# wrong_usage COMMAND...: told so, with the usage.
wrong_usage() {
    run "$@"
    [ "$code" = 2 ] || fail "imgfuse $*: exit code $code, not 2"
    grep -q '^usage: ' err.log || fail "imgfuse $*: no usage"
}

# same_as_qemu COMMAND...: exit code and output are those of qemu-img.
same_as_qemu() {
    run "$@"
    timeout 60 qemu-img "$@" > qemu.log 2> qemu-err.log
    qemu_code=$?
    [ "$code" = "$qemu_code" ] ||
        fail "$*: exit code $code, qemu-img's is $qemu_code"
    diff qemu.log out.log || fail "$*: output is not that of qemu-img"
}

# members FILE: one line for each scalar of a flat JSON object, in order of
# name, but for the member names in $not_ours (an extended regular expression).
members() {
    tr -d ' ",{}' < "$1" | grep ':' | grep -Ev "^(${not_ours:-none}):" | sort
}

# same_members COMMAND...: the JSON objects have the same members.
same_members() {
    works "$@"
    timeout 60 qemu-img "$@" > qemu.log || fail "qemu-img $*"
    members out.log > ours.members
    members qemu.log > qemu.members
    diff qemu.members ours.members || fail "$*: members differ"
}

# same FILE FILE: equal in every byte and in length.
same() {
    cmp "$1" "$2" || fail "$1 and $2 differ"
}

# same_content IMAGE IMAGE: says qemu-img.
same_content() {
    timeout 60 qemu-img compare -q "$@" || fail "$*: content differs"
}

# check_image IMAGE: no error and no leak, says qemu-img.
check_image() {
    timeout 60 qemu-img check -q "$1" || fail "qemu-img check $1"
}

# make_chain: base.qcow2 <- top.qcow2, with data and zeros in both; the upper
# one is longer.
make_chain() {
    qemu-img create -q -f qcow2 base.qcow2 64M
    qemu-io -c "write -q -P 1 0 3M" -c "write -q -P 2 10M 100k" \
        -c "write -q -z 20M 1M" -c "write -q -P 5 50M 64k" base.qcow2
    qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 70M
    qemu-io -c "write -q -P 7 1M 200k" -c "write -q -z 10M 64k" \
        -c "write -q -z 30M 1M" -c "write -q -P 9 66M 1M" top.qcow2
}

# make_raw FILE: 20 MiB and 100 bytes: a hole, text, written zeros; data at the end.
make_raw() {
    truncate -s 20971620 "$1"
    seq 1 500000 | dd of="$1" conv=notrunc bs=64k seek=48 status=none
    dd if=/dev/zero of="$1" conv=notrunc bs=1M seek=10 count=2 status=none
    printf end | dd of="$1" conv=notrunc bs=1 seek=20971617 status=none
}

# make_small_disk BYTES: $small_disk is a folder where no more fits.
make_small_disk() {
    [ "$(id -u)" = 0 ] || skip "needs root for a file system that gets full"
    mkdir full
    timeout 20 mount -t tmpfs -o "size=$1" none full 2> /dev/null ||
        skip "no tmpfs can be mounted here"
    small_disk=$work/full
}

# use_image IMAGE: from here to leave_image another program writes to it. It
# answers a command only when the image is open: then this returns.
use_image() {
    rm -f commands
    mkfifo commands
    timeout 300 qemu-io "$1" < commands > user.log 2>&1 &
    user=$!
    exec 9> commands
    echo length >&9
    for _ in $(seq 300); do
        ! grep -q MiB user.log || return 0
        sleep 0.1
    done
    fail "$1 is not in use: $(cat user.log)"
}

leave_image() {
    exec 9>&-
    wait $user
}
