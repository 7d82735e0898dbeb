#!/bin/bash
# SPDX-License-Identifier: MIT
#
# --layers: what an image would be without the layers above, each as a file
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io

layers=mnt/.imgfuse/top.raw/layers

quiet qemu-img create -q -f qcow2 base.qcow2 4M
quiet qemu-io -f qcow2 -c 'write -P 1 0 3M' base.qcow2
quiet qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2 6M
quiet qemu-io -f qcow2 -c 'write -P 2 1M 1M' mid.qcow2
quiet qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
quiet qemu-io -f qcow2 -c 'write -P 3 2M 64k' top.qcow2
for layer in base mid top; do
    quiet qemu-img convert -O raw $layer.qcow2 $layer.want
done

step "each layer, from the image down"
mount_image --layers top.qcow2 mnt
[ "$(ls "$layers" | tr '\n' ' ')" = "0.raw 1.raw 2.raw " ] ||
    fail "$(ls "$layers")"
same top.want "$layers/0.raw"
same mid.want "$layers/1.raw"
same base.want "$layers/2.raw"
[ "$(stat -c %a "$layers/1.raw")" = 400 ] || fail "mode"
unmount mnt

step "what is written is seen in layer 0 at once, and in no other"
mount_image -w --layers top.qcow2 mnt
for value in 1 2 3; do
    printf "$value" | dd of=mnt/top.raw bs=1 seek=100 conv=notrunc status=none
    [ "$(dd if="$layers/0.raw" bs=1 skip=100 count=1 status=none)" = $value ] ||
        fail "layer 0 does not have $value"
done
same mid.want "$layers/1.raw"
dd if=mid.want of="$layers/1.raw" conv=notrunc status=none 2> /dev/null &&
    fail "a layer can be written"
unmount mnt
check_image top.qcow2

step "not shown unless wanted"
mount_image top.qcow2 mnt
[ -e "$layers" ] && fail "layers are there"
unmount mnt

step "a raw image is one layer"
mount_image --layers -t raw base.want mnt
same base.want mnt/.imgfuse/base.raw/layers/0.raw
[ "$(ls mnt/.imgfuse/base.raw/layers)" = 0.raw ] || fail "more than one"
unmount mnt

step "not over a file"
touch point
refused 2 "folder" "$IMGFUSE" --layers top.qcow2 point
