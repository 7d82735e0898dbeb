#!/bin/bash
# SPDX-License-Identifier: MIT
#
# what qemu-img made, we show: every version, cluster size, compression, chain
. "$(dirname "$0")/lib.sh"
need qemu-img mkfs.ext4 openssl cmp

step "an ext4 file system with real files"
mkdir tree
cp -r "$test_dir"/* tree/
random_file tree/random 3000000 7
truncate -s 48M disk.raw
quiet mkfs.ext4 -q -F -d tree disk.raw

# shows IMAGE: through the mount it is disk.raw, and it is left alone.
shows() {
    before=$(sha256sum < "$1")
    times=$(stat -c '%Y %Z %s %b' "$1")
    mount_image "$1" mnt
    same disk.raw "mnt/$(basename "${1%.*}").raw"
    unmount mnt
    [ "$before" = "$(sha256sum < "$1")" ] || fail "$1: the bytes changed"
    [ "$times" = "$(stat -c '%Y %Z %s %b' "$1")" ] || fail "$1: times changed"
}

convert() {
    quiet qemu-img convert -q -O qcow2 "$@"
}

step "version 2 and 3"
convert -o compat=0.10 disk.raw v2.qcow2
convert disk.raw v3.qcow2
shows v2.qcow2
shows v3.qcow2

step "other cluster sizes and refcount widths"
for size in 512 4k 2M; do
    convert -o cluster_size=$size disk.raw c$size.qcow2
    shows c$size.qcow2
done
for bits in 1 64; do
    convert -o refcount_bits=$bits disk.raw r$bits.qcow2
    shows r$bits.qcow2
done

step "compressed"
convert -c disk.raw zlib.qcow2
convert -c -o compression_type=zstd disk.raw zstd.qcow2
convert -c -o cluster_size=4k disk.raw zlib4k.qcow2
shows zlib.qcow2
shows zstd.qcow2
shows zlib4k.qcow2

step "raw"
cp disk.raw copy.img
shows copy.img

step "a chain of three"
truncate -s 30M base.raw
dd if=disk.raw of=base.raw bs=1M count=30 conv=notrunc status=none
quiet qemu-img convert -O qcow2 base.raw l0.qcow2
quiet qemu-img create -q -f qcow2 -b l0.qcow2 -F qcow2 l1.qcow2 48M
quiet qemu-img create -q -f qcow2 -b l1.qcow2 -F qcow2 l2.qcow2
quiet qemu-img create -q -f qcow2 -b l2.qcow2 -F qcow2 l3.qcow2
# what the base lacks, and some of what it has, in the two upper layers
for range in 5:2 30:9; do
    dd if=disk.raw of=part bs=1M skip=${range%:*} count=${range#*:} status=none
    quiet qemu-io -f qcow2 -c "write -s part ${range%:*}M ${range#*:}M" \
        l1.qcow2
done
dd if=disk.raw of=part bs=1M skip=39 count=9 status=none
quiet qemu-io -f qcow2 -c "write -s part 39M 9M" l2.qcow2
quiet qemu-img compare disk.raw l3.qcow2
shows l3.qcow2
