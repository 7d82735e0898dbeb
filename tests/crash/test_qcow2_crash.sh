#!/bin/sh
# SPDX-License-Identifier: MIT
#
# power losses under parallel requests, on qcow2 images of many kinds; samples
# are judged by qemu-img, and internal snapshots must keep their content
#
# usage: test_qcow2_crash.sh [PROGRAM [SEED [CRASHES]]]
# Skipped (77) without qemu-img. Works in a folder of its own under TMPDIR.

crash=${1:-${top_builddir:-.}/tests/crash/qcow2_crash}
seed=${2:-1}
crashes=${3:-100}

for tool in qemu-img qemu-io; do
    command -v $tool > /dev/null || { echo "no $tool: skipped"; exit 77; }
done
crash=$(realpath "$crash") || exit 2
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 2
fails=0

fail()
{
    echo "FAIL $*"
    fails=$((fails + 1))
}

# judge NAME: the samples have no errors (leaks are fine), old content is there
judge()
{
    for sample in samples/*.qcow2; do
        qemu-img check -q "$sample" > check.log 2>&1
        case $? in
        0|3) ;;
        *) fail "$1: qemu-img finds errors in $sample"; head -3 check.log ;;
        esac
        [ "$1" = snapshots ] || continue
        for s in s1 s2; do
            qemu-img convert -O raw -l $s "$sample" out.raw &&
                cmp -s out.raw $s.raw ||
                fail "$1: snapshot $s of $sample has changed"
        done
    done
}

# run NAME ARGUMENTS...: crashes of base.qcow2
run()
{
    name=$1
    shift
    rm -rf samples
    mkdir samples
    timeout 200 "$crash" --image base.qcow2 --seed "$seed" \
        --states "$crashes" --judge samples "$@" > crash.log 2>&1 ||
        { fail "$name (--seed $seed $*)"; tail -3 crash.log; }
    judge "$name"
}

# fresh SIZE OPTIONS: base.qcow2
fresh()
{
    rm -f base.qcow2
    qemu-img create -q -f qcow2 -o "$2" base.qcow2 "$1" || exit 2
}

fresh 2M cluster_size=512,refcount_bits=1
run "1-bit counts"
run "1-bit counts, full disk" --full 600
fresh 6M cluster_size=512,refcount_bits=64
run "growing refcount table"
run "growing refcount table, full disk" --full 2500
# A refcount block that the disk has no room for must not stop every commit.
fresh 16M cluster_size=512,refcount_bits=64
run "refcount table at its limit, full disk" --ops 1500 --full 2048
fresh 3M compat=0.10,cluster_size=1k
run "version 2" --options '"l2-cache-size":"1k",'
fresh 8M cluster_size=64k
run "64k clusters"
fresh 4M cluster_size=4k,lazy_refcounts=on
run "lazy refcounts"
qemu-img bitmap --add base.qcow2 b0
run "bitmaps"

fresh 4M cluster_size=4k
qemu-io -f qcow2 -c 'write -P 7 0 1M' -c 'write -P 9 2M 512k' \
    base.qcow2 > /dev/null
qemu-img snapshot -c s1 base.qcow2
qemu-io -f qcow2 -c 'write -P 8 512k 256k' base.qcow2 > /dev/null
qemu-img snapshot -c s2 base.qcow2
for s in s1 s2; do
    qemu-img convert -O raw -l $s base.qcow2 $s.raw
done
run snapshots
run snapshots --full 2500

seq 1 600000 | head -c 4M > data.raw
qemu-img convert -c -O qcow2 -o cluster_size=16k data.raw base.qcow2
run "compressed clusters"

[ $fails = 0 ] && echo "qcow2 crashes: all sound"
[ $fails = 0 ]
