#!/bin/bash
# SPDX-License-Identifier: MIT
#
# direct writes in flight at the same time: every block reads back with the
# checksum that was written, at any depth, and the image stays clean
. "$(dirname "$0")/lib.sh"
need fio qemu-img

# verify NAME DEPTH JOBS: each job has its own part of the file.
verify() {
    step "$1: depth $2, $3 jobs"
    quiet timeout 120 fio --name=v --filename=mnt/disk.raw --rw=randwrite \
        --bs=4k --direct=1 --ioengine=libaio --iodepth="$2" --numjobs="$3" \
        --size=$((64 / $3))M --offset_increment=$((64 / $3))M \
        --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
        --randseed=$(($2 * 100 + $3)) --group_reporting
}

for size in 64k 4k; do
    quiet qemu-img create -q -f qcow2 -o cluster_size=$size disk.qcow2 64M
    mount_image -w disk.qcow2 mnt
    # into new clusters first, then over them
    verify "clusters of $size, new" 8 8
    for depth in 1 2 16; do
        verify "clusters of $size" $depth 1
    done
    verify "clusters of $size" 32 8
    unmount mnt
    check_image disk.qcow2
done

for depth in 1 2 16; do
    quiet qemu-img create -q -f qcow2 disk.qcow2 64M
    mount_image -w disk.qcow2 mnt
    verify "an empty image" $depth 1
    unmount mnt
    check_image disk.qcow2
done
