# SPDX-License-Identifier: MIT
#
# for the mount tests: a folder to work in, images, mounts, and their end
#
# A test sources this file, says what it needs, and works in $work (which is
# also its current folder). Whatever happens, the trap at the end unmounts what
# mount_image mounted, detaches the loops that attach_loop attached and ends the
# daemons, known by their pid files. Every wait has a limit.
#
# Exit codes: 0 passed, 1 failed (one line says why), 77 skipped.

set -u
LC_ALL=C
export LC_ALL
PATH=$PATH:/sbin:/usr/sbin

IMGFUSE=${IMGFUSE:-./imgfuse}
case $IMGFUSE in
/*) ;;
*) IMGFUSE=$PWD/$IMGFUSE ;;
esac
test_dir=$(cd "$(dirname "$0")" && pwd)
DIFFTEST=${top_builddir:-.}/tests/mount/difftest
case $DIFFTEST in
/*) ;;
*) DIFFTEST=$PWD/$DIFFTEST ;;
esac

loops=
mount_count=0

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

need_root() {
    [ "$(id -u)" = 0 ] || skip "needs root"
}

need_loop() {
    need_root
    need losetup
    losetup -f > /dev/null 2>&1 || skip "no loop devices here"
}

[ -x "$IMGFUSE" ] || skip "no program at $IMGFUSE"
[ -c /dev/fuse ] && [ -w /dev/fuse ] || skip "no /dev/fuse"

# ---- mounts ------------------------------------------------------------------

# mount_image [OPTION...] IMAGE... POINT: mounts; the daemon's id is then in
# $daemon.
mount_image() {
    mount_count=$((mount_count + 1))
    pid_file=$work/pid.$mount_count
    timeout 20 "$IMGFUSE" --pid-file "$pid_file" "$@" ||
        fail "imgfuse $* gives $?"
    daemon=$(cat "$pid_file")
}

# unmount POINT: returns when the image is closed.
unmount() {
    timeout 60 "$IMGFUSE" umount "$1" || fail "imgfuse umount $1 gives $?"
}

# attach_loop FILE [OPTION...]: the device is then in $loop.
attach_loop() {
    loop_file=$1
    shift
    loop=$(timeout 20 losetup --show -f "$@" "$loop_file") ||
        fail "losetup $* $loop_file"
    loops="$loop $loops"
}

# detach_loop: the last attached one; waits until the kernel has let go.
detach_loop() {
    timeout 20 losetup -d "$loop"
    wait_until 50 loop_is_gone || fail "$loop stays attached"
    # another test may get this device next: it is no longer ours to clean up
    loops=" $loops "
    loops=${loops/" $loop "/" "}
}

loop_is_gone() {
    ! losetup "$loop" > /dev/null 2>&1
}

# wait_until TENTHS COMMAND...: false when it has not come true by then.
wait_until() {
    tenths=$1
    shift
    while [ "$tenths" -gt 0 ]; do
        "$@" && return 0
        sleep 0.1
        tenths=$((tenths - 1))
    done
    return 1
}

# process_is_gone ID: it has ended, whether or not init has collected it yet.
process_is_gone() {
    case $(cat "/proc/$1/stat" 2> /dev/null) in
    "" | *") Z "* | *") X "*) return 0 ;;
    esac
    return 1
}

is_mounted() {
    grep -q " $1 fuse" /proc/self/mounts
}

# unmount_all PATTERN: lazily, the newest first.
unmount_all() {
    tac /proc/self/mounts | while read -r _ point _; do
        case $point in
        $1) timeout 20 umount -l "$point" 2> /dev/null ||
                timeout 20 fusermount3 -uz "$point" ;;
        esac
    done
}

finish() {
    result=$?
    trap - EXIT INT TERM
    cd /
    # file systems on loops first, then the loops, then what they lie on
    unmount_all "$work/fs*"
    for device in $loops; do
        timeout 20 losetup -d "$device" 2> /dev/null
    done
    unmount_all "$work/*"
    for file in "$work"/pid.*; do
        [ -f "$file" ] || continue
        pid=$(cat "$file")
        # a number that the system may have given away is not ours to end
        case $(readlink "/proc/$pid/exe" 2> /dev/null) in
        */imgfuse*)
            wait_until 50 process_is_gone "$pid" || kill -9 "$pid" ;;
        esac
    done
    rm -rf --one-file-system "$work"
    exit "$result"
}

work=$(mktemp -d "${TMPDIR:-/tmp}/imgfuse-test.XXXXXX") || exit 1
trap finish EXIT
trap 'exit 1' INT TERM
cd "$work" || exit 1
mkdir mnt

# ---- images ------------------------------------------------------------------

# quiet COMMAND...: its output only when it fails.
quiet() {
    if ! "$@" > "$work/quiet.log" 2>&1; then
        cat "$work/quiet.log" >&2
        fail "$*"
    fi
}

# same FILE FILE: equal in every byte and in length.
same() {
    cmp "$1" "$2" || fail "$1 and $2 differ"
}

# check_image IMAGE: no error and no leak, says qemu-img.
check_image() {
    quiet timeout 60 qemu-img check "$1"
}

# random_file FILE BYTES SEED: the same bytes for the same seed.
random_file() {
    openssl enc -aes-128-ctr -nosalt -K "$(printf %032d "$3")" \
        -iv 00000000000000000000000000000000 < /dev/zero 2> /dev/null |
        head -c "$2" > "$1"
}

# mixed_file FILE: 24 MiB and a bit: data, text, holes; an odd sector count.
mixed_file() {
    truncate -s 25167360 "$1"
    random_file part 5000000 1
    dd if=part of="$1" conv=notrunc bs=1M seek=1 status=none
    seq 1 400000 | dd of="$1" conv=notrunc bs=1M seek=12 status=none
    dd if=part of="$1" conv=notrunc bs=1000 count=3 seek=25164 status=none
    rm part
}

# refused CODE WORD COMMAND...: it ends with that exit code, says one line on
# standard error that has WORD (a basic regular expression) in it, and leaves
# nothing mounted.
refused() {
    code=$1
    word=$2
    shift 2
    timeout 20 "$@" > out.log 2> err.log
    result=$?
    [ "$result" = "$code" ] || {
        cat err.log >&2
        fail "$*: exit code $result, not $code"
    }
    [ "$(wc -l < err.log)" = 1 ] || {
        cat err.log >&2
        fail "$*: not one line on standard error"
    }
    grep -q "$word" err.log || {
        cat err.log >&2
        fail "$*: '$word' is not in the message"
    }
    ! grep -q " $work/" /proc/self/mounts || fail "$*: something is mounted"
    echo "    $(cat err.log)"
}
