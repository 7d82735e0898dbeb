#!/bin/bash
# SPDX-License-Identifier: MIT
#
# --overlay: the image stays as it is, byte for byte
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io openssl

mixed_file disk.want
quiet qemu-img convert -O qcow2 disk.want disk.qcow2
random_file new 1000000 5
cp disk.qcow2 disk.before
cp disk.want changed.want
dd if=new of=changed.want bs=1000 seek=777 conv=notrunc status=none

change() {
    dd if=new of=mnt/disk.raw bs=1000 seek=777 conv=notrunc status=none ||
        fail "cannot write"
    same changed.want mnt/disk.raw
}

step "without a name: gone with the mount"
mkdir tmp
TMPDIR=$work/tmp mount_image --overlay disk.qcow2 mnt
change
[ -z "$(ls -A tmp)" ] || fail "a file has a name: $(ls -A tmp)"
unmount mnt
same disk.before disk.qcow2
mount_image -o rw,overlay disk.qcow2 mnt
same disk.want mnt/disk.raw
unmount mnt

step "for a raw image, too, and one that we may not write"
chmod 444 disk.want
mount_image --overlay -t raw disk.want mnt
change
unmount mnt
cmp -n 25167360 disk.want mnt/disk.raw 2> /dev/null && fail "still mounted"
cmp -s disk.want changed.want && fail "the image was written"
chmod 644 disk.want

step "with a name: made, kept, found again"
mount_image --overlay=over.qcow2 disk.qcow2 mnt
same disk.want mnt/disk.raw
change
unmount mnt
same disk.before disk.qcow2
check_image over.qcow2
quiet qemu-img compare -f qcow2 -F raw over.qcow2 changed.want
mount_image --overlay=over.qcow2 disk.qcow2 mnt
same changed.want mnt/disk.raw
unmount mnt
mkdir elsewhere
mount_image -o "overlay=$work/elsewhere/o.qcow2" disk.qcow2 mnt
change
unmount mnt
mount_image --overlay=elsewhere/o.qcow2 disk.qcow2 mnt
same changed.want mnt/disk.raw
unmount mnt

step "the layers are overlay and image"
mount_image --overlay --layers disk.qcow2 mnt
change
same changed.want mnt/.imgfuse/disk.raw/layers/0.raw
same disk.want mnt/.imgfuse/disk.raw/layers/1.raw
unmount mnt
same disk.before disk.qcow2

step "several images, each its own"
quiet qemu-img create -q -f qcow2 other.qcow2 1M
cp other.qcow2 other.before
mount_image --overlay disk.qcow2 other.qcow2 mnt
printf hello | dd of=mnt/other.raw conv=notrunc status=none
change
unmount mnt
same other.before other.qcow2
same disk.before disk.qcow2

step "bad wishes, one line each"
refused 2 "read-only" "$IMGFUSE" -r --overlay disk.qcow2 mnt
refused 2 "read-only" "$IMGFUSE" -o ro,overlay disk.qcow2 mnt
refused 2 "one image" "$IMGFUSE" --overlay=o2 disk.qcow2 other.qcow2 mnt
refused 2 "file name" "$IMGFUSE" --overlay= disk.qcow2 mnt
refused 2 "image-opts" "$IMGFUSE" --overlay=o2 --image-opts \
    driver=qcow2,file.filename=disk.qcow2 mnt
refused 1 "another image" "$IMGFUSE" --overlay=over.qcow2 other.qcow2 mnt
refused 1 "over.qcow3\|nowhere" "$IMGFUSE" --overlay=nowhere/over.qcow3 \
    disk.qcow2 mnt
refused 1 "missing.qcow2" "$IMGFUSE" --overlay=o2 missing.qcow2 mnt
[ -e o2 ] && fail "a refused mount left a file"
printf 'not an image' > text
refused 1 "text" "$IMGFUSE" --overlay=text disk.qcow2 mnt
[ "$(cat text)" = "not an image" ] || fail "a file was written over"
same disk.before disk.qcow2
