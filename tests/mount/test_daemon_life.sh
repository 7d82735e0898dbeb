#!/bin/bash
# SPDX-License-Identifier: MIT
#
# the daemon's life: what was written is in the image however it ends
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io openssl

random_file data 3000000 1
quiet qemu-img create -q -f qcow2 disk.qcow2 8M

# holds_data: the image has what was written, and is clean.
holds_data() {
    check_image disk.qcow2
    quiet qemu-img convert -O raw disk.qcow2 seen.raw
    cmp -n 3000000 data seen.raw || fail "$1: the data is not in the image"
}

fresh() {
    quiet qemu-img create -q -f qcow2 disk.qcow2 8M
    mount_image -w disk.qcow2 mnt
    dd if=data of=mnt/disk.raw bs=100k conv=notrunc status=none
}

step "the program returns when the mount answers"
mount_image disk.qcow2 mnt
[ "$(stat -c %s mnt/disk.raw)" = 8388608 ] || fail "does not answer"

step "imgfuse umount returns when the daemon has gone"
unmount mnt
wait_until 20 process_is_gone "$daemon" || fail "the daemon still runs"
fresh
unmount mnt
holds_data "imgfuse umount"

step "plain umount"
fresh
if [ "$(id -u)" = 0 ]; then
    quiet timeout 60 umount mnt
else
    quiet timeout 60 fusermount3 -u mnt
fi
wait_until 100 process_is_gone "$daemon" || fail "the daemon stays"
holds_data "umount"

for signal in TERM INT HUP; do
    step "SIG$signal unmounts and flushes"
    fresh
    kill -$signal "$daemon"
    wait_until 100 process_is_gone "$daemon" || fail "the daemon stays"
    is_mounted "$work/mnt" && fail "the mount stays"
    holds_data "SIG$signal"
done

step "closing a written file puts the data into the image file"
fresh
kill -9 "$daemon"
wait_until 100 process_is_gone "$daemon" || fail "SIGKILL?"
timeout 20 umount -l mnt 2> /dev/null || timeout 20 fusermount3 -uz mnt
quiet qemu-img check -r leaks disk.qcow2
holds_data "SIGKILL after close"

step "an image in use stays mounted"
mount_image disk.qcow2 mnt
exec 8< mnt/disk.raw
timeout 20 "$IMGFUSE" umount mnt 2> err.log && fail "unmounted while in use"
grep -q -i "busy" err.log || fail "$(cat err.log)"
cmp -n 3000000 data mnt/disk.raw || fail "no longer there"
exec 8<&-
unmount mnt

step "in the foreground"
timeout 60 "$IMGFUSE" -f disk.qcow2 mnt 2> err.log &
foreground=$!
wait_until 100 is_mounted "$work/mnt" || fail "$(cat err.log)"
cmp -n 3000000 data mnt/disk.raw || fail "foreground: wrong data"
timeout 20 "$IMGFUSE" umount mnt || fail "umount"
wait "$foreground" || fail "the foreground program gives $?"

step "many mounts leave nothing behind"
for i in $(seq 1 25); do
    mount_image disk.qcow2 mnt
    unmount mnt
done
for file in pid.*; do
    wait_until 20 process_is_gone "$(cat "$file")" || fail "a daemon is left"
done
