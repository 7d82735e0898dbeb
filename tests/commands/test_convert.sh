# SPDX-License-Identifier: MIT
#
# imgfuse convert: the same content in another image, or nothing

. "$(dirname "$0")/lib.sh"

# nothing_left FOLDER: no temporary file.
nothing_left() {
    [ -z "$(find "$1" -name '.*.??????')" ] ||
        fail "left behind: $(find "$1" -name '.*.??????')"
}

make_chain
make_raw a.raw
qemu-img convert -O raw top.qcow2 top.raw
qemu-img convert -c -O qcow2 a.raw compressed.qcow2

step "to raw"
for image in base.qcow2 top.qcow2 compressed.qcow2; do
    works convert -O raw "$image" ours
    qemu-img convert -O raw "$image" theirs
    same ours theirs
done
works convert -f raw -O raw a.raw copy.raw
same a.raw copy.raw
[ "$(stat -c %b copy.raw)" -lt "$(stat -c %b a.raw)" ] ||
    fail "zeros that were written are not left out"

step "to qcow2"
for options in cluster_size=64k cluster_size=512 cluster_size=2M compat=0.10 \
    preallocation=metadata; do
    works convert -f raw -O qcow2 -o "$options" a.raw ours.qcow2
    same_content -f raw -F qcow2 a.raw ours.qcow2
    check_image ours.qcow2
done
works convert -O qcow2 top.qcow2 flat.qcow2
same_content top.qcow2 flat.qcow2
check_image flat.qcow2
qemu-img convert -O qcow2 top.qcow2 theirs.qcow2
[ "$(stat -c %s flat.qcow2)" -le "$(stat -c %s theirs.qcow2)" ] ||
    fail "larger than what qemu-img makes"

step "how many at a time makes no difference"
for count in 1 2 16; do
    works convert -m "$count" -W -O raw top.qcow2 ours
    same ours top.raw
done

step "zeros"
works convert -S 0 -O raw top.qcow2 ours
same ours top.raw
[ "$(stat -c %b ours)" -ge $((70 * 2048)) ] || fail "-S 0 leaves holes"
works convert -S 64k -O raw top.qcow2 ours
same ours top.raw

step "kernel copies"
works convert -C -f raw -O raw a.raw ours
same a.raw ours
works convert -C -O raw top.qcow2 ours
same ours top.raw

step "an overlay keeps its backing file"
works convert -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 over.qcow2
same_content top.qcow2 over.qcow2
check_image over.qcow2
[ "$(stat -c %s over.qcow2)" -le "$(stat -c %s top.qcow2)" ] ||
    fail "the overlay has what is in the backing file"
works convert -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 \
    top.qcow2 over.qcow2
same_content top.qcow2 over.qcow2
refused 1 'backing' convert -O raw -B base.qcow2 -F qcow2 top.qcow2 new.raw

step "into an image that exists"
truncate -s 80M old.raw
dd if=/dev/urandom of=old.raw bs=1M count=80 conv=notrunc status=none
cp old.raw old.copy
works convert -n -O raw top.qcow2 old.raw
cmp -n 73400320 old.raw top.raw || fail "-n: content differs"
cmp -i 73400320 old.raw old.copy || fail "-n: bytes behind the end changed"
qemu-img create -q -f qcow2 old.qcow2 70M
works convert -n --target-is-zero -O qcow2 top.qcow2 old.qcow2
same_content top.qcow2 old.qcow2
refused 1 'bytes' convert -n -O raw top.qcow2 a.raw
refused 1 'not found\|No such file' convert -n -O raw top.qcow2 missing.raw

step "a file that is there is replaced when the new one is complete"
works convert -O raw base.qcow2 top.copy
works convert -O raw top.qcow2 top.copy
same top.copy top.raw
chmod 600 top.copy
works convert -O raw top.qcow2 top.copy
[ "$(stat -c %a top.copy)" = 600 ] || fail "others may read the new file"
ln -s top.copy link
works convert -O raw base.qcow2 link
[ -L link ] || fail "the link is gone"
refused 1 'use\|lock\|share' convert -O raw base.qcow2 base.qcow2
check_image base.qcow2

step "compression"
run convert -c -O qcow2 -f raw a.raw small.qcow2 # its last sector is odd
if [ "$code" = 0 ]; then
    same_content -f raw -F qcow2 a.raw small.qcow2
    check_image small.qcow2
    [ "$(stat -c %s small.qcow2)" -lt 2000000 ] || fail "nothing is smaller"
else
    grep -q 'no compression' err.log || fail "$(cat err.log)"
fi
refused 1 'no compression' convert -c -O raw a.raw small.raw
[ ! -e small.raw ] || fail "a target that failed is there"

step "progress and silence"
works convert -p -O raw top.qcow2 ours
grep -q '(100.00/100%)' out.log || fail "no end of the progress"
works convert -O raw top.qcow2 ours
[ ! -s out.log ] || fail "says something"

step "bad input"
refused 1 'not found\|No such file' convert -O raw missing.qcow2 new
refused 1 'qcow2' convert -f qcow2 -O raw a.raw new
refused 1 'unknown format' convert -O nonsense top.qcow2 new
refused 1 'no creation option' convert -O qcow2 -o colour=red top.qcow2 new
refused 1 'No such file' convert -O raw top.qcow2 missing/new
[ ! -e new ] || fail "a target that failed is there"
wrong_usage convert top.qcow2
wrong_usage convert --target-image-opts a.raw new
wrong_usage convert --salvage -C a.raw new
wrong_usage convert -r fast a.raw new
wrong_usage convert -m 17 a.raw new
wrong_usage convert -S 3 a.raw new
nothing_left .

step "a source that cannot be read leaves the old target"
qemu-img convert -O qcow2 -f raw a.raw damaged.qcow2
printf '\377\377\377\377\377\377\377\377' |
    dd of=damaged.qcow2 bs=1 seek=$((0x40000 + 48 * 8)) conv=notrunc \
        status=none
cp top.raw kept.raw
run convert -O raw damaged.qcow2 kept.raw
[ "$code" = 1 ] || fail "damage was not noticed: exit code $code"
same kept.raw top.raw
nothing_left .

step "an interrupt leaves the old target"
truncate -s 100G huge.raw
timeout -s INT 0.5 "$IMGFUSE" convert -S 0 -f raw -O qcow2 huge.raw kept.raw \
    > out.log 2> err.log
same kept.raw top.raw
nothing_left .

step "no room: nothing is left, and what was there stays"
make_small_disk 3M
printf old > full/target
refused 1 'No space' convert -S 0 -O raw top.qcow2 full/target
[ "$(cat full/target)" = old ] || fail "the old target is gone"
refused 1 'No space' convert -f raw -O qcow2 top.raw full/new
[ ! -e full/new ] || fail "a target that failed is there"
nothing_left full
