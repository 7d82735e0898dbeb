#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# commands that change an image, killed in the middle: afterwards it opens, is
# sound, shows what it showed, and the command can be repeated
#
# Each command is timed first, then killed at moments spread over that time.
# Where exactly it dies does not matter: every moment must do.
#
# usage: test_killed_commands.sh   (IMGFUSE_FULL set: many more moments)

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../commands/lib.sh"

moments=${IMGFUSE_FULL:+60}
moments=${moments:-8}
size=$((48 << 20))

# base.qcow2 <- top.qcow2, other.qcow2 beside base, and what top shows
make_images() {
    seq 1 3000000 | head -c 12M > text
    head -c 6M /dev/urandom > noise
    truncate -s $size raw
    dd if=text of=raw conv=notrunc bs=1M status=none
    qemu-img convert -f raw -O qcow2 raw base0.qcow2
    cp base0.qcow2 base.qcow2
    dd if=noise of=raw conv=notrunc bs=1M seek=3 status=none
    qemu-img convert -f raw -O qcow2 -o cluster_size=4k raw other0.qcow2
    qemu-img create -q -f qcow2 -o cluster_size=16k -b base.qcow2 -F qcow2 \
        top0.qcow2 $size
    for at in 1 5 9 13 17 21 25 29 33 37 41 45; do
        qemu-io -c "write -q -s text ${at}M 1M" \
            -c "write -q -s noise $((at + 2))M 777k" top0.qcow2
    done
    qemu-img snapshot -c old top0.qcow2
    qemu-img convert -O raw top0.qcow2 old.raw
    qemu-io -c "write -q -s noise 2M 5M" top0.qcow2
    qemu-img convert -O raw top0.qcow2 now.raw || fail "cannot make images"
}

# fresh: as they were
fresh() {
    cp base0.qcow2 base.qcow2
    cp other0.qcow2 other.qcow2
    cp top0.qcow2 top.qcow2
}

# sound IMAGE: no error but leaks, and COPIED flags that a repair sets right:
# a snapshot changes refcounts and flags, and no order of writes changes both
# at once
sound() {
    timeout 60 qemu-img check "$1" > check.log 2>&1
    case $? in
    0|3)
        return ;;
    2)
        ! grep -v OFLAG_COPIED check.log | grep -q ERROR ||
            fail "$1 is damaged: $(grep -m 3 ERROR check.log)" ;;
    *)
        fail "$1: $(head -3 check.log)" ;;
    esac
    run check --repair "$1"
    [ "$code" = 0 ] || fail "$1 cannot be repaired: $(cat out.log err.log)"
    check_image "$1"
}

# shows MODEL...: top.qcow2 reads as one of them
shows() {
    for model; do
        timeout 60 qemu-img compare -q -f qcow2 -F raw top.qcow2 $model \
            > /dev/null 2>&1 && return 0
    done
    return 1
}

# kill_after NANOSECONDS COMMAND...: its exit code is in $code; when this
# returns the process has gone, and its locks with it
kill_after() {
    local seconds pid
    seconds=$(printf '%d.%09d' $(($1 / 1000000000)) $(($1 % 1000000000)))
    shift
    "$IMGFUSE" "$@" > out.log 2>&1 &
    pid=$!
    sleep "$seconds"
    {
        kill -KILL $pid
        wait $pid
        code=$?
    } 2> /dev/null
}

# walk MODELS COMMAND...: killed at $moments moments
walk() {
    local models=$1 start taken i delay killed=0
    shift
    step "$*"
    fresh
    start=$(date +%s%N)
    works "$@"
    taken=$(($(date +%s%N) - start))
    for ((i = 0; i < moments; i++)); do
        fresh
        delay=$((taken * (2 * i + 1) / (2 * moments)))
        kill_after $delay "$@"
        [ $code = 0 ] || killed=$((killed + 1))
        sound top.qcow2
        sound base.qcow2
        shows $models || fail "$*: the content is another, killed after $delay ns"
        if [ $i = $((moments / 2)) ]; then
            run "$@" # it may have been done, and be refused now
            sound top.qcow2
            shows $models || fail "$* again: the content is another"
        fi
    done
    echo "    killed $killed of $moments times"
}

make_images
walk now.raw rebase -b other.qcow2 -F qcow2 top.qcow2
walk now.raw rebase -b '' top.qcow2
walk now.raw commit -f qcow2 top.qcow2
walk now.raw commit -d -f qcow2 top.qcow2
walk now.raw snapshot -c new top.qcow2
walk now.raw snapshot -d old top.qcow2
walk "now.raw old.raw" snapshot -a old top.qcow2
walk now.raw amend -f qcow2 -o refcount_bits=64 top.qcow2
walk now.raw resize -f qcow2 --preallocation=metadata top.qcow2 +64M
walk now.raw bitmap --add top.qcow2 b
walk now.raw check --repair top.qcow2

echo "killed commands: all as it should be"
