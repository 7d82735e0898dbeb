#!/bin/sh
# SPDX-License-Identifier: MIT
#
# defects that cost users of other qcow2 programs their data, each looked for
#
# Here: the functions below. Elsewhere:
#   two direct writes in flight corrupt   tests/mount/test_fio_verify.sh
#   the first 64 KiB are overwritten; the allocator hands out live L2 tables
#                                         unit/test_qcow2_refcount: uncounted
#                                         structures, and a guest's free
#                                         cluster, stop allocation (and here)
#   a late punch-hole hits a cluster in new use
#                                         unit/test_qcow2_commit: a freed
#                                         cluster is not reused before a flush,
#                                         a cluster in use by a reader is not
#                                         reused (and the race here)
#   a full disk half-way leaves a live table on the free list, or an L1 entry
#   whose count is 0                      unit/test_qcow2_commit: a full disk
#                                         leaves a sound image;
#                                         test_fault_walk.sh (ENOSPC),
#                                         crash/test_qcow2_crash.sh (--full)
#   pointers published before what they rely on
#                                         unit/test_qcow2_commit: data and
#                                         counts are durable before pointers
#   opening alone was fuzzed              test_qcow2_ops.sh, test_matrix.sh
#
# usage: test_lessons.sh   (IMGFUSE_FULL set: the race takes a minute)

ops=$(realpath "${top_builddir:-.}/tests/qcow2/qcow2_ops") || exit 2

. "$(dirname "$0")/../commands/lib.sh"

# judge: no errors for us and for qemu-img, and the content is the model's
judge() {
    check_image t.qcow2
    works check -q t.qcow2
    same_content -f qcow2 -F raw t.qcow2 model.raw
}

# fresh SIZE OPTIONS: t.qcow2, and a model of zeros
fresh() {
    rm -f t.qcow2 model.raw
    qemu-img create -q -f qcow2 -o "$2" t.qcow2 "$1" || exit 2
    truncate -s "$1" model.raw
}

# operate ARGUMENTS...: of qcow2_ops
operate() {
    timeout 150 "$ops" --image t.qcow2 --model model.raw "$@" 2> ops.log ||
        { cat ops.log >&2; fail "qcow2_ops $*"; }
}

# Few clusters, given up and taken again all the time; each that is free is
# punched out of the file, whatever freed it.
step "discard, flush and reallocation race"
punching='json:{"driver":"qcow2","pass-discard-other":true,
    "file":{"driver":"file","filename":"t.qcow2"}}'
seconds=${IMGFUSE_FULL:+20}
for options in cluster_size=4k cluster_size=64k \
    cluster_size=512,refcount_bits=64; do
    fresh 2M "$options"
    operate --image "$punching" --threads 4 --jobs 8 --seconds "${seconds:-5}" --ops 100000000 \
        --max-kib 64 --kinds rwwwdddzuff --seed "$(date +%s)"
    judge
done

# poke OFFSET BYTES: octal escapes into t.qcow2
poke() {
    # shellcheck disable=SC2059 # the format is the argument
    printf "$2" | dd of=t.qcow2 bs=1 seek="$1" conv=notrunc status=none
}

# Header, refcount table and block, L1, L2: 0 to 4. Allocation is refused.
step "clusters in use whose count is 0 are not handed out"
for cluster in 0 1 2 3 4; do
    fresh 16M cluster_size=64k
    qemu-io -c "write -q -P 1 0 64k" t.qcow2
    qemu-img convert -O raw t.qcow2 model.raw
    poke $((131072 + 2 * cluster)) '\0\0'
    timeout 60 "$ops" --image t.qcow2 --model model.raw --ops 50 --kinds w \
        --max-kib 256 2> ops.log && fail "count 0 of $cluster went unseen"
    grep -q 'Input/output error' ops.log ||
        fail "count 0 of cluster $cluster: $(cat ops.log)"
    qemu-io -r -c "read -q 0 16M" t.qcow2 > out.log 2>&1 && [ ! -s out.log ] ||
        fail "count 0 of cluster $cluster: QEMU cannot read it any more"
done

step "what is given up is used again: the file does not double"
fresh 8M cluster_size=512,refcount_bits=64
operate --ops 3000 --kinds wwwd --seed 1
first=$(stat -c %s t.qcow2)
for seed in 2 3 4 5; do
    operate --ops 1500 --kinds wwwdf --seed $seed
done
judge
last=$(stat -c %s t.qcow2)
[ "$last" -lt $((first * 3 / 2 + 1048576)) ] ||
    fail "the file has grown from $first to $last bytes"

step "the lazy refcounts bit stays"
fresh 4M lazy_refcounts=on
operate --ops 300 --seed 6
judge
qemu-img info t.qcow2 | grep -q 'lazy refcounts: true' ||
    fail "lazy refcounts are off"

step "a huge refcount table does not exhaust memory"
fresh 4M cluster_size=64k
poke 56 '\177\377\377\377'
limit=1000000 # KiB of address space; sanitizers need all there is
(ulimit -v $limit; "$IMGFUSE" --version) > version.log 2>&1 || limit=unlimited
(ulimit -v $limit; timeout 20 "$IMGFUSE" check --repair t.qcow2) \
    > out.log 2>&1 && fail "a table of 2^31 clusters was accepted"
[ $? -lt 124 ] || fail "it took forever, or crashed"

step "a partial write keeps the backing file's data around it"
head -c 4M /dev/urandom > base.raw
for cluster in 512 64k 2M; do
    rm -f t.qcow2
    qemu-img create -q -f qcow2 -o cluster_size=$cluster -b base.raw -F raw \
        t.qcow2 4M
    cp base.raw model.raw
    operate --ops 40 --kinds w --max-kib 1 --seed 7
    judge
done

echo "passed"
