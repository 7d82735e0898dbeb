# SPDX-License-Identifier: MIT
#
# writing through a mount sets the bits of an image's enabled dirty bitmaps

. "${top_srcdir:-.}/tests/mount/lib.sh"
need qemu-img qemu-nbd nbdinfo dd

# dirty NAME: the dirty extents of disk.qcow2, as offset+length
dirty() {
    rm -f nbd.socket
    timeout 30 qemu-nbd -r -k "$work/nbd.socket" -f qcow2 -B "$1" \
        disk.qcow2 &
    wait_until 50 test -S nbd.socket || fail "qemu-nbd does not start"
    timeout 20 nbdinfo --map="qemu:dirty-bitmap:$1" \
        "nbd+unix:///?socket=$work/nbd.socket" |
        awk '$3 == 1 { printf "%d+%d ", $1, $2 }'
    wait
}

# poke OFFSET BYTES: written through the mount
poke() {
    dd if=/dev/urandom of=point/disk.raw conv=notrunc status=none \
        oflag=seek_bytes iflag=count_bytes,fullblock bs=64k seek="$1" \
        count="$2" || fail "writing"
}

mkdir point
qemu-img create -q -f qcow2 disk.qcow2 64M
qemu-img bitmap --add -g 64k disk.qcow2 on
qemu-img bitmap --add --disable -g 64k disk.qcow2 off
before=$(md5sum < disk.qcow2)

step "mounting without writing changes nothing"
mount_image disk.qcow2 point
cat point/disk.raw > /dev/null
unmount point
mount_image -w disk.qcow2 point
cat point/disk.raw > /dev/null
unmount point
[ "$(md5sum < disk.qcow2)" = "$before" ] || fail "the file has changed"

step "what is written is dirty"
mount_image -w disk.qcow2 point
poke 1048576 65536
poke 10000000 200000
qemu-img info -U disk.qcow2 | grep -q "in-use" ||
    fail "not marked in use while it is written to"
fallocate -p -o 33554432 -l 1048576 point/disk.raw || fail "punching"
sync point/disk.raw
unmount point
qemu-img info disk.qcow2 | grep -q "in-use" && fail "marked in use after all"
found=$(dirty on)
[ "$found" = "1048576+65536 9961472+262144 33554432+1048576 " ] ||
    fail "dirty: $found"
[ -z "$(dirty off)" ] || fail "a disabled bitmap has bits: $(dirty off)"
qemu-img check -q disk.qcow2 || fail "qemu-img check"

step "a daemon that is killed leaves them in use"
mount_image -w disk.qcow2 point
poke 0 65536
sync point/disk.raw
kill -KILL "$daemon"
wait_until 50 process_is_gone "$daemon" || fail "the daemon lives"
umount -l point 2> /dev/null || fusermount3 -uz point
qemu-img info disk.qcow2 | grep -q "in-use" || fail "not in use"
qemu-img check -q disk.qcow2
[ $? = 0 ] || [ $? = 3 ] || fail "qemu-img check after the kill"
