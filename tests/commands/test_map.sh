# SPDX-License-Identifier: MIT
#
# imgfuse map prints what qemu-img map prints

. "$(dirname "$0")/lib.sh"

make_chain
make_raw a.raw
qemu-img convert -c -O qcow2 a.raw compressed.qcow2
qemu-img create -q -f qcow2 -o preallocation=metadata pre.qcow2 20M
qemu-img create -q -f qcow2 -o cluster_size=512 tiny.qcow2 20M
qemu-io -c "write -q -P 1 1000 3M" tiny.qcow2

for image in base.qcow2 top.qcow2 compressed.qcow2 pre.qcow2 tiny.qcow2; do
    step "$image"
    same_as_qemu map -f qcow2 --output=json "$image"
    same_as_qemu map -f qcow2 "$image"
done

step "a part of an image"
same_as_qemu map -s 1M -l 2M --output=json top.qcow2
same_as_qemu map -s 69M -l 20M --output=json top.qcow2
same_as_qemu map --start-offset=10M --max-length=64k --output=json top.qcow2

step "a raw image: the last sector is not rounded up"
truncate -s 20971520 a.raw
same_as_qemu map -f raw --output=json a.raw
same_as_qemu map -f raw a.raw
truncate -s 1000 a.raw
works map -f raw --output=json a.raw
grep -q '"length": 1000,' out.log || fail "1000 bytes are not 1000"

step "a large image with little in it takes no time"
truncate -s 8T huge.raw
works map -f raw --output=json huge.raw
qemu-img create -q -f qcow2 huge.qcow2 8T
works map -f qcow2 --output=json huge.qcow2
[ "$(wc -l < out.log)" = 1 ] || fail "not one extent"

step "bad input"
refused 1 'not found\|No such file' map missing.qcow2
refused 1 'qcow2' map -f qcow2 a.raw
refused 1 'json' map compressed.qcow2
wrong_usage map
wrong_usage map a b
wrong_usage map -s nonsense a.raw
wrong_usage map --output=xml a.raw
