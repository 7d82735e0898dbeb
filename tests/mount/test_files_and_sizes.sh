#!/bin/bash
# SPDX-License-Identifier: MIT
#
# where images appear and what may change their size: over a file, several in
# one mount, names, growable, read-only
. "$(dirname "$0")/lib.sh"
need qemu-img openssl

random_file a.raw 3000320 1
random_file b.raw 2000384 2
quiet qemu-img convert -O qcow2 a.raw a.qcow2
quiet qemu-img convert -O qcow2 -c b.raw b.qcow2

step "over a file"
echo "what was here before" > point.raw
mount_image a.qcow2 point.raw
same a.raw point.raw
unmount point.raw
[ "$(cat point.raw)" = "what was here before" ] || fail "the file changed"
mount_image -w a.qcow2 point.raw
printf hello | dd of=point.raw bs=1 seek=700000 conv=notrunc status=none
unmount point.raw
printf hello | dd of=a.raw bs=1 seek=700000 conv=notrunc status=none
quiet qemu-img compare a.raw a.qcow2

step "two images of different formats, and names"
cp b.raw c.img
mount_image a.qcow2 b.qcow2 name=evidence,file=c.img mnt
[ "$(ls mnt | sort | tr '\n' ' ')" = "a.raw b.raw evidence " ] ||
    fail "the mount shows $(ls mnt)"
same a.raw mnt/a.raw
same b.raw mnt/b.raw
same b.raw mnt/evidence
unmount mnt
mount_image --name other a.qcow2 mnt
same a.raw mnt/other
unmount mnt

step "read-only: nothing can be written"
sum=$(sha256sum < a.qcow2)
mount_image a.qcow2 mnt
printf x 2> /dev/null >> mnt/a.raw && fail "appended to a read-only mount"
dd if=b.raw of=mnt/a.raw conv=notrunc status=none 2> err.log &&
    fail "wrote to a read-only mount"
touch mnt/new 2> /dev/null && fail "made a file"
rm -f mnt/a.raw 2> /dev/null && fail "removed the image's file"
unmount mnt
[ "$sum" = "$(sha256sum < a.qcow2)" ] || fail "the image changed"

step "read-write, but as long as it is"
mount_image -w a.qcow2 mnt
truncate -s 100 mnt/a.raw 2> /dev/null && fail "shrunk without --growable"
truncate -s 9M mnt/a.raw 2> /dev/null && fail "grown without --growable"
dd if=b.raw of=mnt/a.raw bs=512 seek=5860 count=1 conv=notrunc \
    status=none 2> err.log && fail "written past the end"
grep -q "No space left" err.log || fail "past the end: $(cat err.log)"
# opening with O_TRUNC, as on a block device
dd if=b.raw of=mnt/a.raw bs=512 count=1 status=none
[ "$(stat -c %s mnt/a.raw)" = 3000320 ] || fail "O_TRUNC cut the image"
unmount mnt
dd if=b.raw of=a.raw bs=512 count=1 conv=notrunc status=none
quiet qemu-img compare a.raw a.qcow2

step "growable"
mount_image -w --growable a.qcow2 mnt
truncate -s 5M mnt/a.raw || fail "cannot grow"
[ "$(stat -c %s mnt/a.raw)" = 5242880 ] || fail "not grown"
dd if=b.raw of=mnt/a.raw bs=512 seek=10240 count=8 conv=notrunc status=none ||
    fail "cannot write past the end"
[ "$(stat -c %s mnt/a.raw)" = 5246976 ] || fail "writing has not grown it"
unmount mnt
check_image a.qcow2
truncate -s 5M a.raw
dd if=b.raw of=a.raw bs=512 seek=10240 count=8 conv=notrunc status=none
quiet qemu-img compare a.raw a.qcow2

step "a raw image that was probed cannot be made to look like another format"
cp b.raw plain.img
mount_image -w plain.img mnt
printf 'QFI\373' > magic
dd if=magic of=mnt/plain.raw conv=notrunc status=none 2> err.log &&
    fail "a qcow2 header was written into a probed raw image"
printf hello | dd of=mnt/plain.raw bs=1 seek=600 conv=notrunc status=none ||
    fail "ordinary writes must work"
unmount mnt
mount_image -w -t raw plain.img mnt
dd if=magic of=mnt/plain.raw conv=notrunc status=none ||
    fail "an explicit raw image takes any bytes"
unmount mnt
