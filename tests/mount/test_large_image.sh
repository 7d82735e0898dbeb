#!/bin/bash
# SPDX-License-Identifier: MIT
#
# an image of 1 TiB with all its tables: every hole is found, and memory stays
# within the bound of the caches, whose tables are four times as large
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

truncate -s 1100G probe 2> /dev/null || skip "no file of 1 TiB fits here"
rm probe

# The L2 cache's 32 MiB, and 8 MiB for all the rest.
bound_kib=$((32 * 1024 + 8 * 1024))

quiet qemu-img create -q -f qcow2 -o preallocation=metadata disk.qcow2 1T
writes=()
for ((at = 0; at < 1024; at += 16)); do
    writes+=(-c "write -q -P 7 ${at}G 64k")
done
quiet qemu-io "${writes[@]}" disk.qcow2

step "a walk over the holes"
mount_image disk.qcow2 mnt
cat > walk.py << 'END'
import os, sys
fd = os.open("mnt/disk.raw", os.O_RDONLY)
at, extents = 0, []
while True:
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        break
    at = os.lseek(fd, start, os.SEEK_HOLE)
    extents.append((start, at - start))
assert extents == [(i << 34, 65536) for i in range(64)], extents[:3]
END
timeout 120 python3 walk.py || fail "the walk"

step "memory"
used=$(awk '/^RssAnon:/ { print $2 }' "/proc/$daemon/status")
if ldd "$IMGFUSE" | grep -q -e libasan -e libtsan; then
    echo "    not judged: a sanitizer keeps memory of its own"
else
    [ "$used" -le $bound_kib ] || fail "$used KiB, more than $bound_kib"
fi
unmount mnt

step "map knows the same"
"$IMGFUSE" map --output=json disk.qcow2 > map.json || fail map
[ "$(grep -c '"data": true' map.json)" -ge 64 ] || fail "map"
