#!/bin/sh
# SPDX-License-Identifier: MIT
#
# random operations on qcow2 images of every geometry, judged by a model in
# the process and by qemu-img afterwards
#
# usage: test_qcow2_ops.sh PROGRAM [SEED [OPERATIONS [THREADS]]]
# Skipped (77) without qemu-img. Works in a folder of its own under TMPDIR.

ops=${1:-${top_builddir:-.}/tests/qcow2/qcow2_ops}
seed=${2:-1}
count=${3:-400}
threads=${4:-2}

command -v qemu-img > /dev/null || { echo "no qemu-img: skipped"; exit 77; }
ops=$(realpath "$ops") || exit 2
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 2
fails=0

# judge NAME IMAGE: no errors, and the content is the model's
judge()
{
    qemu-img check -q "$2" > check.log 2>&1 &&
        qemu-img compare -q -f qcow2 -F raw "$2" model.raw && return 0
    echo "FAIL $1: qemu-img disagrees"
    head -5 check.log
    fails=$((fails + 1))
    return 1
}

# run NAME IMAGE ARGUMENTS...: once on a fresh, once on the used image
run()
{
    name=$1
    image=$2
    shift 2
    for turn in 1 2; do
        if ! timeout 120 "$ops" --image "$image" --model model.raw \
            --seed $((seed * 10 + turn)) --ops "$count" --jobs 8 \
            --threads "$threads" "$@" 2> ops.log; then
            echo "FAIL $name, turn $turn:"
            cat ops.log
            fails=$((fails + 1))
            return
        fi
        judge "$name, turn $turn" t.qcow2 || return
    done
}

# fresh NAME SIZE OPTIONS: t.qcow2, and a model of zeros
fresh()
{
    rm -f model.raw t.qcow2
    qemu-img create -q -f qcow2 -o "$3" t.qcow2 "$2" || exit 2
}

for cluster in 512 4k 64k 2M; do
    for version in 0.10 1.1; do
        fresh geometry 16M "compat=$version,cluster_size=$cluster"
        run "cluster $cluster, $version" t.qcow2
    done
done
for bits in 1 2 4 8 16 32 64; do
    fresh refcount 24M "refcount_bits=$bits,cluster_size=512"
    run "refcount_bits $bits" t.qcow2
done
fresh lazy 16M lazy_refcounts=on
run "lazy refcounts" t.qcow2
fresh odd 16777217 cluster_size=64k
run "odd size" t.qcow2

# Backing files: raw and shorter, qcow2 and longer.
for version in 0.10 1.1; do
    for cluster in 512 64k; do
        rm -f base.raw base.qcow2
        head -c 9000000 /dev/urandom > base.raw
        qemu-img create -q -f qcow2 -o "compat=$version,cluster_size=$cluster" \
            -b base.raw -F raw t.qcow2 16M
        qemu-img convert -O raw t.qcow2 model.raw
        run "raw backing, $version, $cluster" t.qcow2
        qemu-img create -q -f qcow2 -F raw -b base.raw base.qcow2 20M
        qemu-img create -q -f qcow2 -o "compat=$version,cluster_size=$cluster" \
            -b base.qcow2 -F qcow2 t.qcow2 16M
        qemu-img convert -O raw t.qcow2 model.raw
        run "qcow2 backing, $version, $cluster" t.qcow2
    done
done

# Compressed clusters, then written over.
for type in zlib zstd; do
    yes "compressible $type" | head -c 16M > model.raw
    qemu-img convert -c -O qcow2 -o "compression_type=$type" model.raw t.qcow2
    run "compressed, $type" t.qcow2
done

# Compressed writes among all others, packed and replaced.
for cluster in 512 4k 64k 2M; do
    for type in zlib zstd; do
        fresh packed 16M "cluster_size=$cluster,compression_type=$type"
        run "compressed writes, $cluster, $type" t.qcow2 \
            --kinds rrcccccwwzudf --max-kib 2048
    done
done
for bits in 1 2 64; do
    fresh packed 16777217 "cluster_size=4k,refcount_bits=$bits"
    run "compressed writes, refcount_bits $bits" t.qcow2 --kinds rcccwdf
done
fresh packed 16M compat=0.10
run "compressed writes, 0.10" t.qcow2 --kinds rcccwdf

# The compress filter above: whole clusters are packed, parts are not.
fresh filter 16777217 cluster_size=64k
run "compress filter" 'json:{"driver":"compress","file":{"driver":"qcow2",
    "file":{"driver":"file","filename":"t.qcow2"}}}'
qemu-img check t.qcow2 | grep -q ' 0.00% compressed' &&
    { echo "FAIL the filter compressed nothing"; fails=$((fails + 1)); }

# A snapshot keeps what it had.
for cluster in 512 64k 2M; do
    fresh snapshot 16M "cluster_size=$cluster"
    run "before the snapshot, $cluster" t.qcow2
    cp model.raw snapshot.raw
    qemu-img snapshot -c one t.qcow2
    run "after the snapshot, $cluster" t.qcow2
    qemu-img snapshot -a one t.qcow2
    qemu-img compare -q -f qcow2 -F raw t.qcow2 snapshot.raw ||
        { echo "FAIL snapshot changed, $cluster"; fails=$((fails + 1)); }
done

# Caches far too small: everything is evicted and loaded all the time.
fresh small-cache 256M cluster_size=512
run "small caches" 'json:{"driver":"qcow2","l2-cache-size":"1k",
    "refcount-cache-size":"1k","file":{"driver":"file",
    "filename":"t.qcow2"}}'

[ "$fails" -eq 0 ] && echo "all equal"
exit $((fails != 0))
