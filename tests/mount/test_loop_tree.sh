#!/bin/bash
# SPDX-License-Identifier: MIT
#
# a file system on a loop device on the mount: a tree copied into it is there
# after everything was unmounted and mounted again
. "$(dirname "$0")/lib.sh"
need qemu-img mkfs.ext4 e2fsck openssl diff
need_loop

mkdir tree fs
cp -r "$test_dir"/* tree/
for i in 1 2 3 4 5 6 7 8; do
    random_file tree/random$i $((i * 300001)) $i
done
truncate -s 96M empty.raw
quiet mkfs.ext4 -q -F empty.raw

for direct in off on; do
    for size in 4k 64k; do
        step "direct I/O $direct, clusters of $size"
        quiet qemu-img convert -O qcow2 -o cluster_size=$size empty.raw d.qcow2

        mount_image -w d.qcow2 mnt
        attach_loop mnt/d.raw --direct-io=$direct
        quiet timeout 20 mount "$loop" fs
        quiet cp -r tree fs/
        rm fs/tree/random3
        quiet timeout 60 umount fs
        detach_loop
        unmount mnt
        check_image d.qcow2

        mount_image d.qcow2 mnt
        attach_loop mnt/d.raw -r
        quiet e2fsck -fn "$loop"
        quiet timeout 20 mount -o ro,noload "$loop" fs
        [ ! -e fs/tree/random3 ] || fail "a removed file is back"
        cp tree/random3 saved
        rm tree/random3
        quiet diff -r tree fs/tree
        mv saved tree/random3
        quiet timeout 60 umount fs
        detach_loop
        unmount mnt
    done
done
