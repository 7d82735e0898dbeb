#!/bin/bash
# SPDX-License-Identifier: MIT
#
# eight threads of random requests over a backing file, against a model: equal
# through the mount, and equal for qemu-img afterwards
. "$(dirname "$0")/lib.sh"
need qemu-img openssl
[ -x "$DIFFTEST" ] || skip "no program at $DIFFTEST"

mixed_file base.raw
quiet qemu-img convert -O qcow2 base.raw base.qcow2

# run NAME CREATE-OPTIONS DIFFTEST-OPTIONS
run() {
    step "$1"
    cp base.raw model.raw
    quiet qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 -o "$2" \
        over.qcow2
    mount_image -w over.qcow2 mnt
    timeout 120 "$DIFFTEST" $3 mnt/over.raw model.raw || fail "$1: difftest"
    unmount mnt

    check_image over.qcow2
    quiet qemu-img convert -O raw over.qcow2 seen.raw
    same model.raw seen.raw
}

sum=$(sha256sum < base.qcow2)
run "clusters of 64 KiB" cluster_size=64k "--ops 20000 --seed 1"
run "clusters of 64 KiB, direct" cluster_size=64k \
    "--ops 20000 --seed 2 --direct on"
run "clusters of 512 bytes" cluster_size=512 "--ops 20000 --seed 3"
run "clusters of 512 bytes, mixed" cluster_size=512 \
    "--ops 20000 --seed 4 --direct mixed"
run "version 2" cluster_size=4k,compat=0.10 "--ops 20000 --seed 5"
[ "$sum" = "$(sha256sum < base.qcow2)" ] || fail "the backing file changed"

step "raw"
cp base.raw disk.img
cp base.raw model.raw
mount_image -w -t raw disk.img mnt
timeout 120 "$DIFFTEST" --ops 20000 --seed 6 mnt/disk.raw model.raw ||
    fail "raw: difftest"
unmount mnt
same model.raw disk.img
