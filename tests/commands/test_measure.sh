# SPDX-License-Identifier: MIT
#
# imgfuse measure prints what qemu-img measure prints
#
# Not here: a length of 0, for which an image of ours has one cluster more.

. "$(dirname "$0")/lib.sh"

make_chain
make_raw a.raw
qemu-img convert -c -O qcow2 a.raw compressed.qcow2

step "without an image"
for size in 1 511 64k 100M 1G 5T; do
    same_as_qemu measure -O raw --size "$size"
    for options in cluster_size=64k cluster_size=2M refcount_bits=1 \
        refcount_bits=64 preallocation=full preallocation=metadata; do
        same_as_qemu measure -O qcow2 -o "$options" --size "$size"
    done
done
same_as_qemu measure -O qcow2 -o cluster_size=512 --size 1G
same_members measure -O qcow2 --output=json --size 1G

step "of an image"
for format in raw qcow2; do
    for image in base.qcow2 top.qcow2 compressed.qcow2; do
        same_members measure -O "$format" --output=json "$image"
    done
    truncate -s 20971520 a.raw
    same_members measure -O "$format" --output=json -f raw a.raw
done
same_members measure -O qcow2 -o cluster_size=4k --output=json top.qcow2
same_members measure -O qcow2 -o preallocation=falloc --output=json top.qcow2

step "of an image with bitmaps"
qemu-img create -q -f qcow2 bitmaps.qcow2 3G
for granularity in 512 64k 2G; do
    qemu-img bitmap --add -g $granularity bitmaps.qcow2 "b$granularity"
done
for options in cluster_size=64k cluster_size=4k cluster_size=2M compat=0.10; do
    same_as_qemu measure -O qcow2 -o $options bitmaps.qcow2
    same_members measure -O qcow2 -o $options --output=json bitmaps.qcow2
done
same_as_qemu measure -O raw bitmaps.qcow2

step "what is promised holds"
works measure -O qcow2 top.qcow2
promised=$(sed -n 's/^required size: //p' out.log)
works convert -O qcow2 top.qcow2 flat.qcow2
[ "$(stat -c %s flat.qcow2)" -le "$promised" ] ||
    fail "the image is larger than $promised bytes"

step "bad input"
refused 1 'not found\|No such file' measure -O qcow2 missing.qcow2
refused 1 'larger cluster_size' measure -O qcow2 -o cluster_size=512 \
    --size 100T
refused 1 'unknown format' measure -O nonsense --size 1G
refused 1 'no creation option' measure -O qcow2 -o colour=red --size 1G
wrong_usage measure
wrong_usage measure --size nonsense
