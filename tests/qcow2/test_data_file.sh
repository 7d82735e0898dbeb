#!/bin/sh
# SPDX-License-Identifier: MIT
#
# qcow2 images whose guest data is in an external data file: judged by a model
# in the process and by qemu-img, in both directions
#
# usage: test_data_file.sh [--full]

ops=$(realpath "${top_builddir:-.}/tests/qcow2/qcow2_ops") || exit 2
count=150
[ "${1:-}" != --full ] || count=1500

. "$(dirname "$0")/../commands/lib.sh"

# judge WHAT: no errors for us and for qemu-img, and the content is the model's
judge() {
    check_image t.qcow2
    works check -q t.qcow2
    same_content -f qcow2 -F raw t.qcow2 model.raw
    works compare -q -f qcow2 -F raw t.qcow2 model.raw
}

# work SEED IMAGE: random operations on it
work() {
    timeout 100 "$ops" --image "$2" --model model.raw --seed "$1" \
        --ops "$count" --jobs 8 --threads 2 2> ops.log ||
        { cat ops.log >&2; fail "operations with seed $1 on $2"; }
}

step "random operations on images of qemu-img"
for raw in off on; do
    for cluster in 512 64k 2M; do
        rm -f t.qcow2 data.raw model.raw
        qemu-img create -q -f qcow2 -o \
            "data_file=data.raw,data_file_raw=$raw,cluster_size=$cluster" \
            t.qcow2 16777216 || exit 2
        for seed in 1 2; do
            work $seed t.qcow2
            judge
            [ $raw = off ] || same data.raw model.raw
        done
        # qemu goes on where we stopped, and we where it stopped
        qemu-io -c "write -q -P 77 1M 3M" -c "discard -q 5M 1M" \
            -c "write -q -z 9M 200k" t.qcow2
        qemu-img convert -O raw t.qcow2 model.raw
        judge
        [ $raw = off ] || same data.raw model.raw
        work 3 t.qcow2
        judge
    done
done

step "over a backing file"
head -c 9000448 /dev/urandom > base.raw
rm -f t.qcow2 data.raw
qemu-img create -q -f qcow2 -o data_file=data.raw -b base.raw -F raw \
    t.qcow2 16M
qemu-img convert -O raw t.qcow2 model.raw
work 4 t.qcow2
judge

step "map and info say what qemu-img says"
same_as_qemu map --output=json t.qcow2
same_as_qemu map t.qcow2
not_ours=children
qemu-img info --output=json t.qcow2 | tr -d ' ,' | grep '"data-file' |
    sort > theirs
works info --output=json t.qcow2
tr -d ' ,' < out.log | grep '"data-file' | sort > ours
diff theirs ours || fail "info: data file members differ"

step "discards that keep their clusters"
rm -f t.qcow2 data.raw
qemu-img create -q -f qcow2 -o data_file=data.raw t.qcow2 16M
truncate -s 0 model.raw
truncate -s 16M model.raw
work 5 'json:{"driver":"qcow2","discard-no-unref":true,"file.filename":"t.qcow2"}'
judge

step "check counts zeros of the first cluster as qemu-img does"
for extended in off on; do
    rm -f z.qcow2 z.data
    qemu-img create -q -f qcow2 \
        -o "data_file=z.data,extended_l2=$extended" z.qcow2 4M
    qemu-io -c "write -q -P 1 0 256k" -c "write -q -z 0 64k" \
        -c "write -q -z 128k 64k" z.qcow2
    same_members check --output=json z.qcow2
done

step "an entry for another place is damage, for both"
rm -f t.qcow2 data.raw
qemu-img create -q -f qcow2 -o data_file=data.raw t.qcow2 16M
qemu-io -c "write -q -P 1 64k 64k" t.qcow2
l2=$(od -An -tx8 --endian=big -j $((0x30000)) -N 8 t.qcow2 | tr -d ' ')
l2=$((0x${l2#8}))
printf '\200\0\0\0\0\5\0\0' |
    dd of=t.qcow2 bs=1 seek=$((l2 + 8)) conv=notrunc status=none
run check t.qcow2
[ "$code" = 1 ] || [ "$code" = 2 ] || fail "check: exit code $code"
grep -q 'another place' out.log err.log || fail "check does not say so"
run convert -O raw t.qcow2 out.raw
[ "$code" = 1 ] || fail "reads it all the same"

step "no snapshots, no compression"
rm -f t.qcow2 data.raw
qemu-img create -q -f qcow2 -o data_file=data.raw t.qcow2 16M
refused 1 'data file' snapshot -c one t.qcow2

step "names that an image may not name"
# name FILE NAME: as qemu-img amend writes it
name() {
    qemu-img create -q -f qcow2 -o data_file=data.raw t.qcow2 1M
    qemu-img amend -o "data_file=$1" t.qcow2 || exit 2
}
mkdir -p elsewhere
cp data.raw elsewhere/
for hostile in nbd://localhost/x 'json:{"driver":"null-co"}' /etc/passwd \
    ../../../../../../etc/passwd "$work/../other.raw" /dev/zero \
    nbd:unix:/run/x.sock t.qcow2; do
    name "$hostile"
    refused 1 t.qcow2 map t.qcow2
done
name missing.raw
refused 1 "'missing.raw'.*not found" map t.qcow2
works info t.qcow2
grep -q 'data file: missing.raw' out.log || fail "info needs the data file"
name "$work/elsewhere/data.raw"
works map t.qcow2
mkdir -p own
mv t.qcow2 own/
refused 1 'allow-path' map own/t.qcow2
works map --allow-path="$work/elsewhere" own/t.qcow2
works map --image-opts \
    "driver=qcow2,file.filename=own/t.qcow2,data-file.filename=data.raw"

step "new images, and what they cannot have"
mkdir new
cd new || exit 1
for options in data_file=d.raw data_file=d.raw,data_file_raw=on \
    data_file=d.raw,preallocation=metadata,cluster_size=512 \
    data_file=d.raw,extended_l2=on,data_file_raw=on \
    data_file=d.raw,extended_l2=on,cluster_size=16k \
    data_file=d.raw,preallocation=full,data_file_raw=on; do
    rm -f t.qcow2 d.raw
    works create -q -f qcow2 -o "$options" t.qcow2 10000001
    check_image t.qcow2
    works check -q t.qcow2
    truncate -s 0 model.raw
    truncate -s "$(stat -c %s d.raw)" model.raw
    [ "$(stat -c %s d.raw)" = 10000384 ] || fail "$options: length of d.raw"
    timeout 100 "$ops" --image t.qcow2 --model model.raw --seed 6 \
        --ops "$count" --jobs 8 --threads 2 2> ops.log ||
        { cat ops.log >&2; fail "operations on $options"; }
    judge
    case $options in
    *raw=on*) same d.raw model.raw ;;
    esac
done
works create -q --force -f qcow2 -o data_file=f.raw,preallocation=full \
    f.qcow2 10M
[ "$(stat -c %b f.raw)" -ge 20480 ] || fail "full: not allocated"
refused 1 'exists' create -q -f qcow2 -o data_file=d.raw u.qcow2 1M
[ ! -e u.qcow2 ] || fail "the image is there without its data file"
refused 1 'data_file' create -q -f qcow2 -o data_file_raw=on u.qcow2 1M
refused 1 'compat' create -q -f qcow2 -o data_file=e.raw,compat=0.10 u.qcow2 1M
refused 1 'plain' create -q -f qcow2 -o data_file=nbd://host/x u.qcow2 1M
refused 1 'backing' create -q -f qcow2 -o data_file=e.raw,data_file_raw=on \
    -b t.qcow2 -F qcow2 u.qcow2
[ ! -e e.raw ] || fail "a data file is left behind"

step "convert into, and out of"
for raw in off on; do
    works convert -O qcow2 -o "data_file=c.raw,data_file_raw=$raw" \
        t.qcow2 c.qcow2
    check_image c.qcow2
    same_content c.qcow2 t.qcow2
done
same c.raw model.raw
works convert -O raw c.qcow2 back.raw
same back.raw model.raw
refused 1 . convert -c -O qcow2 -o data_file=z.raw t.qcow2 z.qcow2
[ ! -e z.raw ] || fail "a data file is left behind"
same_as_qemu measure -O qcow2 -o data_file=m.raw --size 10M

step "resize, with and without preallocation"
for mode in off metadata falloc full; do
    for raw in none extended off on; do
        rm -f t.qcow2 d.raw model.raw
        options=cluster_size=64k
        [ $raw != extended ] || { options=$options,extended_l2=on; raw=none; }
        [ $raw = none ] || options=$options,data_file=d.raw,data_file_raw=$raw
        works create -q -f qcow2 -o $options t.qcow2 5000k
        qemu-io -c "write -q -P 3 1M 3M" t.qcow2
        works resize -q --preallocation=$mode t.qcow2 9000k
        [ $raw = none ] || [ "$(stat -c %s d.raw)" = 9216000 ] ||
            fail "resize: length of the data file"
        check_image t.qcow2
        qemu-img convert -O raw t.qcow2 model.raw
        truncate -s 5120000 first.raw
        qemu-io -f raw -c "write -q -P 3 1M 3M" first.raw
        truncate -s 9216000 first.raw
        same first.raw model.raw
        [ $raw != on ] || same d.raw model.raw
        if [ $mode != off ]; then
            qemu-img map --output=json t.qcow2 | tail -1 |
                grep -q '"present": true' || fail "resize: nothing is mapped"
        fi
        case $mode-$raw in
        f*-none) [ "$(stat -c %b t.qcow2)" -ge 13000 ] || fail "no room";;
        f*)      [ "$(stat -c %b d.raw)" -ge 13000 ] || fail "no room";;
        esac
        works resize -q --shrink t.qcow2 2M
        check_image t.qcow2
        works resize -q t.qcow2 4M
        truncate -s 2M first.raw
        truncate -s 4M first.raw
        same_content -f qcow2 -F raw t.qcow2 first.raw
        [ $raw != on ] || same d.raw first.raw
        rm first.raw
    done
done
cd ..

step "a raw data file that was longer than its image"
rm -f t.qcow2 d.raw
works create -q -f qcow2 -o data_file=d.raw,data_file_raw=on t.qcow2 1M
yes | head -c 3M | dd of=d.raw bs=1M seek=1 conv=notrunc status=none
works resize -q t.qcow2 2M
truncate -s 0 first.raw
truncate -s 2M first.raw
same d.raw first.raw
same_content -f qcow2 -F raw t.qcow2 first.raw

echo "passed"
