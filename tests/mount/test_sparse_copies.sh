#!/bin/bash
# SPDX-License-Identifier: MIT
#
# the usual tools see the holes of the shown file, and copy data and holes
. "$(dirname "$0")/lib.sh"
need qemu-img openssl tar cmp

truncate -s 200M disk.raw
random_file part 3000000 5
for at in 0 40 199; do
    dd if=part of=disk.raw bs=1M seek=$at count=1 conv=notrunc status=none
done
quiet qemu-img convert -O qcow2 disk.raw disk.qcow2

# kilobytes FILE: what it occupies.
kilobytes() {
    echo $(($(stat -c %b "$1") / 2))
}

# sparse FILE: equal, and next to nothing but the data is allocated.
sparse() {
    same disk.raw "$1"
    [ "$(kilobytes "$1")" -lt 8192 ] ||
        fail "$1 occupies $(kilobytes "$1") KiB of 204800"
}

mkdir out
for mode in -r -w; do
    mount_image $mode disk.qcow2 mnt
    step "stat ($mode)"
    [ "$(stat -c %s mnt/disk.raw)" = 209715200 ] || fail "wrong st_size"
    [ "$(kilobytes mnt/disk.raw)" -lt 8192 ] ||
        fail "st_blocks says $(kilobytes mnt/disk.raw) KiB"

    step "cp ($mode)"
    quiet cp --sparse=always mnt/disk.raw out/cp.raw
    sparse out/cp.raw
    quiet cp --sparse=auto mnt/disk.raw out/auto.raw
    sparse out/auto.raw

    step "tar ($mode)"
    quiet tar -C mnt -S -cf out/disk.tar disk.raw
    [ "$(kilobytes out/disk.tar)" -lt 8192 ] || fail "tar saw no holes"
    quiet tar -C out -S -xf out/disk.tar
    sparse out/disk.raw

    if command -v rsync > /dev/null; then
        step "rsync ($mode)"
        quiet rsync -S mnt/disk.raw out/rsync.raw
        sparse out/rsync.raw
    fi
    unmount mnt
    rm out/*
done

step "into the mount: a sparse copy allocates no clusters for its holes"
quiet qemu-img create -q -f qcow2 new.qcow2 200M
mount_image -w new.qcow2 mnt
quiet dd if=disk.raw of=mnt/new.raw bs=1M conv=notrunc,sparse status=none
same disk.raw mnt/new.raw
quiet fallocate --punch-hole -o 40M -l 1M mnt/new.raw
unmount mnt
check_image new.qcow2
[ "$(kilobytes new.qcow2)" -lt 6144 ] ||
    fail "new.qcow2 occupies $(kilobytes new.qcow2) KiB"
quiet fallocate --punch-hole -o 40M -l 1M disk.raw
quiet qemu-img compare disk.raw new.qcow2
