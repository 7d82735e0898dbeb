#!/bin/bash
# SPDX-License-Identifier: MIT
#
# as fstab says it: every option has a twin for -o, and mount(8) finds us
. "$(dirname "$0")/lib.sh"
need qemu-img openssl

random_file disk.raw 2000384 1
quiet qemu-img convert -O qcow2 disk.raw disk.qcow2
mkdir base
quiet qemu-img create -q -f qcow2 base/base.qcow2 4M
quiet qemu-img create -q -f qcow2 -b "$work/base/base.qcow2" -F qcow2 \
    over.qcow2
mkdir elsewhere
mv over.qcow2 elsewhere/

step "-o ro, rw and our own"
mount_image -o ro,name=one disk.qcow2 mnt
same disk.raw mnt/one
printf x 2> /dev/null >> mnt/one && fail "-o ro was not heard"
unmount mnt
mount_image -o rw,format=qcow2,discard=ignore,cache=writeback,threads=2 \
    disk.qcow2 mnt
same disk.raw mnt/disk.raw
dd if=disk.raw of=mnt/disk.raw bs=4k count=1 conv=notrunc status=none ||
    fail "-o rw was not heard"
unmount mnt
mount_image -o growable,rw,detect_zeroes=on disk.qcow2 mnt
truncate -s 2000896 mnt/disk.raw || fail "-o growable was not heard"
unmount mnt
mount_image -o "allow-path=$work/base" elsewhere/over.qcow2 mnt
unmount mnt

step "what belongs to mount(8) is passed over"
mount_image -o noauto,nofail,_netdev,x-systemd.automount,comment=hi,noatime \
    disk.qcow2 mnt
unmount mnt

step "unknown ones are not"
refused 2 "nosuchoption" "$IMGFUSE" -o nosuchoption disk.qcow2 mnt

step "cache modes and engines"
for mode in none writethrough directsync unsafe; do
    mount_image -w --cache=$mode disk.qcow2 mnt
    dd if=disk.raw of=mnt/disk.raw bs=1000 seek=3 skip=3 count=5 \
        conv=notrunc status=none || fail "cache=$mode"
    cmp -n 2000384 disk.raw mnt/disk.raw || fail "cache=$mode"
    unmount mnt
    check_image disk.qcow2
done
for engine in io_uring threads; do
    timeout 20 "$IMGFUSE" --aio=$engine disk.qcow2 mnt 2> err.log || {
        grep -q "not available" err.log || fail "$(cat err.log)"
        continue
    }
    cmp -n 2000384 disk.raw mnt/disk.raw || fail "aio=$engine"
    unmount mnt
done

step "the helper that mount(8) runs"
mkdir -p prefix/bin prefix/sbin
ln -s "$IMGFUSE" prefix/bin/imgfuse
cp "$test_dir/../../fuse/mount.fuse.imgfuse" prefix/sbin/
timeout 20 sh prefix/sbin/mount.fuse.imgfuse "$work/disk.qcow2" "$work/mnt" \
    -s -o "ro,nofail,name=fstab" -t fuse.imgfuse || fail "the helper gives $?"
cmp -n 2000384 disk.raw mnt/fstab || fail "wrong data"
unmount mnt

step "mount -t fuse"
[ "$(id -u)" = 0 ] || skip "mount(8) needs root"
command -v mount.fuse > /dev/null || command -v mount.fuse3 > /dev/null ||
    skip "no mount.fuse"
timeout 20 mount -t fuse "$IMGFUSE#$work/disk.qcow2" "$work/mnt" \
    -o ro,name=fstab || fail "mount gives $?"
cmp -n 2000384 disk.raw mnt/fstab || fail "wrong data"
unmount mnt
