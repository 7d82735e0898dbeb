#!/bin/bash
# SPDX-License-Identifier: MIT
#
# ext4 on a loop device with direct I/O over the mount: made, written,
# unmounted, and clean, twelve times of twelve
. "$(dirname "$0")/lib.sh"
need qemu-img mkfs.ext4 e2fsck openssl
need_loop

mkdir fs
random_file data 20000000 3
for round in 1 2 3 4 5 6 7 8 9 10 11 12; do
    step "round $round"
    quiet qemu-img create -q -f qcow2 disk.qcow2 128M
    mount_image -w disk.qcow2 mnt
    attach_loop mnt/disk.raw --direct-io=on
    quiet timeout 60 mkfs.ext4 -q -F "$loop"
    quiet timeout 20 mount "$loop" fs
    for i in 1 2 3; do
        cp data fs/data$i &
    done
    wait
    rm fs/data2
    quiet timeout 60 umount fs
    quiet timeout 60 e2fsck -fn "$loop"
    quiet timeout 20 mount -o ro "$loop" fs
    same data fs/data1
    same data fs/data3
    quiet timeout 60 umount fs
    detach_loop
    unmount mnt
    check_image disk.qcow2
done
