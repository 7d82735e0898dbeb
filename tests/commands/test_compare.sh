# SPDX-License-Identifier: MIT
#
# imgfuse compare says what qemu-img compare says, with the same exit codes

. "$(dirname "$0")/lib.sh"

# poke FILE OFFSET: another byte there.
poke() {
    printf x | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

make_chain
qemu-img convert -O raw top.qcow2 top.raw
qemu-img convert -O qcow2 top.qcow2 flat.qcow2
qemu-img convert -c -O qcow2 top.qcow2 compressed.qcow2
cp --sparse=always top.raw data.raw
poke data.raw 1048580
cp --sparse=always top.raw hole.raw
poke hole.raw 41000001
poke hole.raw 60000001
cp --sparse=always top.raw long.raw
truncate -s +1M long.raw
cp --sparse=always long.raw longer.raw
poke longer.raw 73500000

step "the same"
for other in top.raw flat.qcow2 compressed.qcow2 long.raw; do
    same_as_qemu compare top.qcow2 "$other"
    same_as_qemu compare "$other" top.qcow2
done
same_as_qemu compare -f raw -F qcow2 top.raw top.qcow2

step "the first difference, in data and in a hole, in either"
for other in data.raw hole.raw longer.raw; do
    same_as_qemu compare top.qcow2 "$other"
    same_as_qemu compare "$other" top.raw
    same_as_qemu compare compressed.qcow2 "$other"
done

step "strict"
same_as_qemu compare -s top.qcow2 top.qcow2
same_as_qemu compare -s top.qcow2 flat.qcow2
same_as_qemu compare -s top.qcow2 top.raw
same_as_qemu compare -s long.raw top.raw

step "quiet"
same_as_qemu compare -q top.raw data.raw
same_as_qemu compare -q top.raw top.qcow2

step "progress ends at 100"
works compare -p top.raw top.qcow2
grep -q '(100.00/100%)' out.log || fail "no end of the progress"

step "bad input"
refused 2 'not found\|No such file' compare missing.raw top.raw
refused 2 'not found\|No such file' compare top.raw missing.raw
refused 2 'qcow2' compare -f qcow2 top.raw top.raw
wrong_usage compare top.raw

step "a damaged image cannot be read"
qemu-img convert -O qcow2 top.raw damaged.qcow2
size=$(stat -c %s damaged.qcow2)
truncate -s $((size - 1048576)) damaged.qcow2
run compare top.raw damaged.qcow2
[ "$code" != 0 ] || fail "a truncated image compares as the same"
