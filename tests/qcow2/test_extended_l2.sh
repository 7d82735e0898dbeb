#!/bin/sh
# SPDX-License-Identifier: MIT
#
# extended L2 entries (subclusters): what we write QEMU reads, and the reverse
#
# Random operations on images of all kinds, by us and by qemu-io in turn. After
# each turn qemu-img check and ours find nothing, the content is the model's
# for both, and both print the same map, subcluster by subcluster.
#
# usage: test_extended_l2.sh PROGRAM [SEED [OPERATIONS [THREADS [TURNS]]]]
# Skipped (77) without qemu-img and qemu-io, or when they lack the feature.
# Works in a folder of its own under TMPDIR.

top=$(realpath "${top_builddir:-.}")
ops=${1:-$top/tests/qcow2/qcow2_ops}
seed=${2:-1}
count=${3:-150}
threads=${4:-2}
rounds=${5:-1}
imgfuse="timeout 60 ${IMGFUSE:-$top/imgfuse}"

command -v qemu-img > /dev/null && command -v qemu-io > /dev/null ||
    { echo "no qemu-img or qemu-io: skipped"; exit 77; }
ops=$(realpath "$ops") || exit 2
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 2
qemu-img create -q -f qcow2 -o extended_l2=on t.qcow2 1M 2> /dev/null ||
    { echo "qemu-img knows no extended_l2: skipped"; exit 77; }
fails=0

fail()
{
    echo "FAIL $*"
    fails=$((fails + 1))
    return 1
}

# judge NAME: t.qcow2 is sound and reads as model.raw, say both
judge()
{
    qemu-img check -q t.qcow2 > check.log 2>&1 ||
        { fail "$1: qemu-img check"; head -5 check.log; return 1; }
    $imgfuse check -q t.qcow2 > check.log 2>&1 ||
        { fail "$1: our check"; head -5 check.log; return 1; }
    qemu-img compare -q -f qcow2 -F raw t.qcow2 model.raw ||
        { fail "$1: content, says QEMU"; return 1; }
    $imgfuse compare -q -f qcow2 -F raw t.qcow2 model.raw ||
        { fail "$1: content, say we"; return 1; }
    # Without holes in the file, which both look for when they think it pays.
    cp --sparse=never t.qcow2 full.qcow2
    qemu-img map -f qcow2 --output=json full.qcow2 > theirs.map
    $imgfuse map -f qcow2 --output=json full.qcow2 > ours.map
    diff theirs.map ours.map > diff.log ||
        { fail "$1: the maps differ"; head -5 diff.log; return 1; }
}

# by_us NAME ARGUMENTS...: random operations
by_us()
{
    name=$1
    shift
    if ! timeout 120 "$ops" --image t.qcow2 --model model.raw \
        --seed "$seed" --ops "$count" --jobs 8 --threads "$threads" "$@" \
        2> ops.log; then
        fail "$name, by us"
        cat ops.log
        return 1
    fi
    judge "$name, by us"
}

# by_qemu NAME: random writes, zeroes and discards, the same to the model
by_qemu()
{
    awk -v seed="$seed" 'BEGIN {
        srand(seed)
        for (i = 0; i < 60; i++) {
            bytes = 512 * (1 + int(2 ^ (rand() * 10)))
            at = 512 * int(rand() * (16777216 - bytes) / 512)
            kind = rand()
            if (kind < 0.6)
                print "write -q -P " int(rand() * 255) + 1, at, bytes
            else if (kind < 0.8)
                print "write -q -z", at, bytes
            else
                print "write -q -z -u", at, bytes
        }
    }' > commands
    qemu-io -d unmap -f qcow2 t.qcow2 < commands > qemu.log 2>&1 ||
        fail "$1: qemu-io"
    qemu-io -f raw model.raw < commands > /dev/null 2>&1
    judge "$1, by QEMU"
}

# turns NAME ARGUMENTS...: one after the other
turns()
{
    for turn in $(seq "$rounds"); do
        seed=$((seed + 1))
        by_us "$@" && by_qemu "$1" || return
    done
}

# fresh OPTIONS: t.qcow2 by QEMU, and a model of zeros
fresh()
{
    rm -f model.raw t.qcow2
    qemu-img create -q -f qcow2 -o "extended_l2=on,$1" t.qcow2 16M || exit 2
}

# ours OPTIONS: the same by us
ours()
{
    rm -f model.raw t.qcow2
    $imgfuse create -q -f qcow2 -o "extended_l2=on,$1" t.qcow2 16M ||
        fail "create $1"
}

for cluster in 16k 64k 2M; do
    fresh "cluster_size=$cluster"
    turns "cluster $cluster"
done
for bits in 1 64; do
    ours "cluster_size=16k,refcount_bits=$bits"
    turns "refcount_bits $bits"
done
ours "cluster_size=2M"
turns "cluster 2M, made by us"
ours "preallocation=metadata"
truncate -s 16M model.raw
judge "preallocated"
turns "preallocated"

for cluster in 16k 64k 2M; do
    head -c 9000448 /dev/urandom > base.raw
    ours "cluster_size=$cluster,backing_file=base.raw,backing_fmt=raw"
    qemu-img convert -O raw t.qcow2 model.raw
    judge "backing file, $cluster, empty"
    turns "backing file, $cluster"
done
ours "preallocation=metadata,backing_file=base.raw,backing_fmt=raw"
qemu-img convert -O raw t.qcow2 model.raw
judge "preallocated over a backing file"
turns "preallocated over a backing file"

# Compressed clusters; parts of them are zeroed and written over.
for type in zlib zstd; do
    for cluster in 16k 2M; do
        yes "compressible $type" | head -c 16M > model.raw
        qemu-img convert -c -O qcow2 \
            -o "extended_l2=on,compression_type=$type,cluster_size=$cluster" \
            model.raw t.qcow2
        turns "compressed, $type, $cluster" --kinds rcccwwzudf --max-kib 2048
    done
done

# A snapshot keeps what it had, whoever made it.
for cluster in 16k 64k 2M; do
    for maker in qemu-img "$imgfuse"; do
        fresh "cluster_size=$cluster"
        by_us "before the snapshot, $cluster"
        cp model.raw snapshot.raw
        $maker snapshot -c one t.qcow2
        turns "after the snapshot, $cluster"
        $maker snapshot -a one t.qcow2
        cp snapshot.raw model.raw
        judge "back at the snapshot, $cluster"
        $maker snapshot -d one t.qcow2
        judge "without the snapshot, $cluster"
    done
done

# Shorter and longer again: zeros come back, in parts of a cluster as well.
ours "cluster_size=64k"
by_us "before the resize"
$imgfuse resize -q --shrink t.qcow2 9000448 || fail "shrinking"
truncate -s 9000448 model.raw
judge "shrunk"
$imgfuse resize -q t.qcow2 16M || fail "growing"
truncate -s 16M model.raw
judge "grown again"

$imgfuse info --output=json t.qcow2 | grep -q '"extended-l2" *: true' ||
    fail "info does not tell"
for options in compat=0.10 cluster_size=8k; do
    $imgfuse create -q -f qcow2 -o "extended_l2=on,$options" no.qcow2 1M \
        2> /dev/null && fail "$options was accepted"
done

[ "$fails" -eq 0 ] && echo "all equal"
exit $((fails != 0))
