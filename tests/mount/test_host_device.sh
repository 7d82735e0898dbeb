#!/bin/bash
# SPDX-License-Identifier: MIT
#
# images on block devices: raw and qcow2, read, written, snapshots, overlay
. "$(dirname "$0")/lib.sh"
need qemu-img openssl
need_loop

mixed_file disk.want
random_file new 100000 3

step "a raw device: length and content"
cp disk.want disk.raw
attach_loop disk.raw
mount_image -t raw --name dev.raw "$loop" mnt
[ "$(stat -c %s mnt/dev.raw)" = 25167360 ] || fail "$(stat -c %s mnt/dev.raw)"
same disk.want mnt/dev.raw
unmount mnt

step "by the driver's name, written, flushed"
mount_image -w --name dev.raw --image-opts \
    "driver=raw,file.driver=host_device,file.filename=$loop" mnt
dd if=new of=mnt/dev.raw bs=1000 seek=50 conv=notrunc,fsync status=none ||
    fail "cannot write"
dd if=new of=disk.want bs=1000 seek=50 conv=notrunc status=none
same disk.want mnt/dev.raw
dd if=new of=mnt/dev.raw bs=512 seek=49155 conv=notrunc status=none \
    2> /dev/null && fail "written past the end of a device"
unmount mnt
same disk.want disk.raw

step "nobody else may open a device that is written"
mount_image -w -t raw --name dev.raw "$loop" mnt
mkdir second
timeout 20 "$IMGFUSE" -w -t raw "$loop" second 2> err.log &&
    fail "the device is open twice"
unmount mnt
detach_loop

step "a device that is read-only"
attach_loop disk.raw --read-only
mount_image -t raw --name dev.raw "$loop" mnt
same disk.want mnt/dev.raw
unmount mnt
timeout 20 "$IMGFUSE" -w -t raw "$loop" mnt 2> err.log && fail "opened -w"
[ "$(wc -l < err.log)" = 1 ] || fail "$(cat err.log)"
mount_image --overlay -t raw --name dev.raw "$loop" mnt
dd if=new of=mnt/dev.raw conv=notrunc status=none || fail "overlay"
unmount mnt
same disk.want disk.raw
detach_loop

step "qcow2 on a device, with snapshots"
truncate -s 64M room
attach_loop room
quiet qemu-img create -q -f qcow2 "$loop" 16M
mount_image -w --snapshots --name dev.raw "$loop" mnt
dd if=new of=mnt/dev.raw conv=notrunc status=none
mkdir mnt/.imgfuse/dev.raw/snapshots/one || fail mkdir
dd if=/dev/zero of=mnt/dev.raw bs=100000 count=1 conv=notrunc status=none
cmp -n 100000 new mnt/dev.raw@one || fail "the snapshot"
unmount mnt
check_image "$loop"
detach_loop
