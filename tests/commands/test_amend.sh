# SPDX-License-Identifier: MIT
#
# imgfuse amend: another version, other refcounts, other names; never another
# content

. "$(dirname "$0")/lib.sh"

# says IMAGE MEMBER VALUE: qemu-img info does
says() {
    qemu-img info -U --output=json "$1" | tr -d ' ,' |
        grep -q "^\"$2\":$3\$" || fail "$1: $2 is not $3"
}

# sound IMAGE: for both, and with the content it had
sound() {
    check_image "$1"
    works check -q "$1"
    same_content "$1" before.raw
}

# unchanged OPTIONS WORD: refused, and not a byte differs
unchanged() {
    cp a.qcow2 a.before
    refused 1 "$2" amend -o "$1" a.qcow2
    same a.qcow2 a.before
}

# make OPTIONS: a.qcow2 with data, written zeros and discarded places
make() {
    rm -f a.qcow2
    qemu-img create -q -f qcow2 -o "$1" a.qcow2 16M || exit 2
    qemu-io -c "write -q -P 1 0 3M" -c "write -q -P 2 9M 100k" \
        -c "write -q -z 1M 256k" -c "write -q -z 5M 1M" \
        -c "discard -q 2M 64k" -c "write -q -P 3 15M 1M" a.qcow2
    qemu-img convert -O raw a.qcow2 before.raw
}

step "there and back, by cluster size"
for cluster in 512 4k 64k 2M; do
    make "compat=1.1,cluster_size=$cluster"
    works amend -o compat=0.10 a.qcow2
    says a.qcow2 compat '"0.10"'
    sound a.qcow2
    works amend -o compat=1.1 a.qcow2
    says a.qcow2 compat '"1.1"'
    sound a.qcow2
done

step "every width of refcounts"
for cluster in 512 64k; do
    make "cluster_size=$cluster"
    for bits in 1 64 2 32 4 8 16 1 16; do
        works amend -o "refcount_bits=$bits" a.qcow2
        says a.qcow2 refcount-bits $bits
        sound a.qcow2
        qemu-io -c "write -q -P 5 4M 1M" -c "discard -q 4M 1M" a.qcow2
        sound a.qcow2
    done
done

step "with subclusters"
make extended_l2=on
works amend -o refcount_bits=64,lazy_refcounts=on a.qcow2
says a.qcow2 refcount-bits 64
sound a.qcow2
unchanged refcount_bits=16,compat=0.10 'extended_l2'

step "several at once"
make compat=0.10
works amend -p -o compat=1.1,refcount_bits=64,lazy_refcounts=on,size=20M a.qcow2
tail -c 20 out.log | grep -q '100.00/100%' || fail "no progress"
says a.qcow2 refcount-bits 64
says a.qcow2 lazy-refcounts true
says a.qcow2 virtual-size 20971520
truncate -s 20M before.raw
sound a.qcow2
works amend -o compat=v2,refcount_bits=16 a.qcow2
says a.qcow2 compat '"0.10"'
sound a.qcow2

step "with snapshots"
make compat=0.10
qemu-img snapshot -c one a.qcow2
qemu-io -c "write -q -P 8 0 2M" a.qcow2
qemu-img convert -O raw a.qcow2 before.raw
qemu-img convert -O raw -l one a.qcow2 one.raw
works amend -o compat=1.1 a.qcow2
sound a.qcow2
qemu-io -c "write -q -z 6M 1M" a.qcow2
qemu-img snapshot -c two a.qcow2
qemu-io -c "write -q -P 4 6M 512k" a.qcow2
qemu-img convert -O raw a.qcow2 before.raw
qemu-img convert -O raw -l two a.qcow2 two.raw
unchanged refcount_bits=1 'references'
works amend -o refcount_bits=2 a.qcow2
sound a.qcow2
works amend -o refcount_bits=16,compat=0.10 a.qcow2
sound a.qcow2
for name in one two; do
    qemu-img convert -O raw -l $name a.qcow2 now.raw
    same now.raw $name.raw
done
qemu-img snapshot -d one a.qcow2
sound a.qcow2

step "over a backing file"
head -c 16M /dev/urandom > base.raw
qemu-img create -q -f qcow2 -b base.raw -F raw a.qcow2 16M
qemu-io -c "write -q -z 1M 1M" -c "write -q -P 3 4M 1M" \
    -c "discard -q 4M 64k" -c "write -q -z 15M 1M" a.qcow2
qemu-img convert -O raw a.qcow2 before.raw
works amend -o compat=0.10 a.qcow2
sound a.qcow2
works amend -o compat=1.1 a.qcow2
sound a.qcow2
cp base.raw other.raw
works amend -o backing_file=other.raw,backing_fmt=raw a.qcow2
qemu-img info a.qcow2 | grep -q '^backing file: other.raw' ||
    fail "backing file is not other.raw"
sound a.qcow2
unchanged backing_file=base.raw,compat=0.10 'one after'
works amend -o backing_file= a.qcow2
! qemu-img info a.qcow2 | grep -q '^backing file' || fail "still a backing file"
check_image a.qcow2
unchanged backing_file=base.raw 'backing_fmt'
unchanged backing_fmt=raw 'backing file'

step "data files"
rm -f a.qcow2 d.raw
qemu-img create -q -f qcow2 -o data_file=d.raw,data_file_raw=on a.qcow2 16M
qemu-io -c "write -q -P 3 4M 1M" a.qcow2
qemu-img convert -O raw a.qcow2 before.raw
unchanged compat=0.10 'data file'
unchanged backing_file=base.raw,backing_fmt=raw 'raw data file'
works amend -o refcount_bits=8,lazy_refcounts=on a.qcow2
says a.qcow2 data-file-raw true
sound a.qcow2
mv d.raw e.raw
run amend -o data_file=e.raw a.qcow2
[ "$code" = 1 ] || fail "opened without its data file"
works amend --image-opts -o data_file=e.raw \
    driver=qcow2,file.filename=a.qcow2,data-file.filename=e.raw
sound a.qcow2
same e.raw before.raw
works amend -o data_file_raw=off a.qcow2
says a.qcow2 data-file-raw false
sound a.qcow2
unchanged data_file_raw=on 'new images'

step "what cannot be"
make compat=1.1
unchanged data_file=d.raw 'no external'
unchanged data_file_raw=on 'new images'
unchanged refcount_bits=3 'power of two'
unchanged refcount_bits=128 'power of two'
unchanged compat=0.10,refcount_bits=8 'refcount_bits=16'
unchanged compat=0.10,lazy_refcounts=on 'lazy_refcounts'
unchanged compat=0.9 'compat'
unchanged size=1M 'shrink'
unchanged cluster_size=4k 'cannot be amended'
unchanged compat=0.10,unknown=1 'unknown'
qemu-img bitmap --add a.qcow2 bits
unchanged compat=0.10 'bitmaps'
make compat=1.1,compression_type=zstd
unchanged compat=0.10 'zstd'
refused 1 'amended' amend -f raw -o size=1G before.raw
wrong_usage amend a.qcow2
wrong_usage amend -o size=1G
works amend -f qcow2 -o help
grep -q refcount_bits out.log || fail "-o help does not list refcount_bits"

step "bitmaps are kept"
make compat=1.1
qemu-img bitmap --add a.qcow2 bits
works amend -o refcount_bits=32,size=17M a.qcow2
truncate -s 17M before.raw
sound a.qcow2
qemu-img info a.qcow2 | grep -q 'name: bits' || fail "the bitmap is gone"
! qemu-img info a.qcow2 | grep -q 'in-use' || fail "the bitmap is in use"

step "an image with errors keeps its refcounts"
make compat=1.1
printf '\0\0' | dd of=a.qcow2 bs=1 seek=$((0x20000 + 6)) conv=notrunc status=none
unchanged refcount_bits=32 'repair'

step "a dirty image is repaired before anything is written"
make lazy_refcounts=on
# one leak, one count too low, as after a crash of a lazy writer
printf '\0\1' | dd of=a.qcow2 bs=1 seek=$((0x20000 + 400)) conv=notrunc status=none
printf '\0\0' | dd of=a.qcow2 bs=1 seek=$((0x20000 + 20)) conv=notrunc status=none
printf '\1' | dd of=a.qcow2 bs=1 seek=79 conv=notrunc status=none
says a.qcow2 dirty-flag true
run info a.qcow2
says a.qcow2 dirty-flag true
works resize -q a.qcow2 17M
truncate -s 17M before.raw
says a.qcow2 dirty-flag false
sound a.qcow2

step "a lazy writer of QEMU that was killed"
make lazy_refcounts=on
(
    echo "write -q -P 9 7M 1M"
    echo "write -q -P 9 11M 1M"
    echo "sleep 200"
    echo "sigraise 9"
) | qemu-io a.qcow2 > /dev/null 2>&1
says a.qcow2 dirty-flag true
qemu-img convert -U -O raw a.qcow2 before.raw
works amend -o lazy_refcounts=off a.qcow2
says a.qcow2 dirty-flag false
says a.qcow2 lazy-refcounts false
sound a.qcow2

echo "passed"
