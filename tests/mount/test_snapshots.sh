#!/bin/bash
# SPDX-License-Identifier: MIT
#
# internal snapshots in a mount: shown as files, made and removed while the
# image is being written
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io openssl

snapshots=mnt/.imgfuse/disk.raw/snapshots

# byte FILE [OFFSET]: one byte in hex.
byte() {
    od -An -tx1 -j "${2:-0}" -N 1 "$1" | tr -d ' '
}

# errno_of WORD COMMAND...: it fails, and says WORD.
errno_of() {
    word=$1
    shift
    "$@" 2> err.log && fail "$* works"
    grep -q "$word" err.log || fail "$*: $(cat err.log)"
}

fresh() {
    random_file data 3000000 1
    quiet qemu-img create -q -f qcow2 disk.qcow2 8M
    quiet qemu-io -f qcow2 -c 'write -P 0x11 0 1M' disk.qcow2
    quiet qemu-img snapshot -c first disk.qcow2
    quiet qemu-io -f qcow2 -c 'write -P 0x22 0 512k' disk.qcow2
}

step "each snapshot is a read-only file of its own"
fresh
mount_image --snapshots disk.qcow2 mnt
[ "$(ls mnt)" = "disk.raw
disk.raw@first" ] || fail "$(ls mnt)"
[ "$(byte mnt/disk.raw)$(byte mnt/disk.raw@first)" = 2211 ] || fail "content"
[ "$(byte mnt/disk.raw@first 1048576)" = 00 ] || fail "behind the data"
[ "$(stat -c %s,%a mnt/disk.raw@first)" = 8388608,400 ] || fail "attributes"
taken=$(qemu-img info --output=json disk.qcow2 |
    sed -n 's/.*"date-sec": \([0-9]*\).*/\1/p')
[ "$(stat -c %Y mnt/disk.raw@first)" = "$taken" ] || fail "its time"
errno_of "Read-only" dd if=data of=mnt/disk.raw@first conv=notrunc status=none
errno_of "Read-only" mkdir "$snapshots/no"
quiet qemu-img convert -f qcow2 -l first -O raw disk.qcow2 first.raw
same first.raw mnt/disk.raw@first
before=$(stat -c %i mnt/disk.raw@first)
unmount mnt
mount_image --snapshots disk.qcow2 mnt
[ "$(stat -c %i mnt/disk.raw@first)" = "$before" ] || fail "another inode"
unmount mnt

step "without the option there are no such files"
mount_image disk.qcow2 mnt
[ "$(ls mnt)" = disk.raw ] || fail "$(ls mnt)"
[ "$(ls "$snapshots")" = first ] || fail "the folder"
unmount mnt

step "holes of a snapshot are holes"
mount_image --snapshots disk.qcow2 mnt
cp --sparse=always mnt/disk.raw@first sparse.raw
same first.raw sparse.raw
[ "$(stat -c %b sparse.raw)" -le 4096 ] || fail "$(stat -c %b sparse.raw) blocks"
unmount mnt

step "a snapshot's holes show the backing file, in parts of clusters, too"
for options in cluster_size=64k cluster_size=64k,extended_l2=on; do
    rm -f under.qcow2 over.qcow2
    quiet qemu-img create -q -f qcow2 under.qcow2 4M
    quiet qemu-io -f qcow2 -c 'write -P 5 0 3M' under.qcow2
    quiet qemu-img create -q -f qcow2 -o $options -b under.qcow2 -F qcow2 \
        over.qcow2
    quiet qemu-io -f qcow2 -c 'write -P 6 4k 2k' -c 'write -P 7 1M 64k' \
        over.qcow2
    quiet qemu-img snapshot -c then over.qcow2
    quiet qemu-io -f qcow2 -c 'write -P 8 0 1M' over.qcow2
    quiet qemu-img convert -f qcow2 -l then -O raw over.qcow2 then.want
    mount_image --snapshots over.qcow2 mnt
    cp --sparse=auto mnt/over.raw@then then.got
    same then.want then.got
    same then.want mnt/over.raw@then
    unmount mnt
done

step "mkdir keeps all that was written before, and nothing after"
mount_image -w --snapshots disk.qcow2 mnt
dd if=data of=mnt/disk.raw bs=100k conv=notrunc status=none
mkdir "$snapshots/second" || fail mkdir
dd if=/dev/zero of=mnt/disk.raw bs=100k count=30 conv=notrunc status=none
cmp -n 3000000 data mnt/disk.raw@second || fail "the new snapshot"
[ "$(byte mnt/disk.raw@first)" = 11 ] || fail "the old snapshot"
[ "$(byte mnt/disk.raw)" = 00 ] || fail "the image"
errno_of "exists" mkdir "$snapshots/second"

step "rmdir removes what nobody reads"
exec 7< mnt/disk.raw@second
errno_of "busy" rmdir "$snapshots/second"
cmp -n 3000000 data /dev/fd/7 || fail "the file that is open"
exec 7<&-
rmdir "$snapshots/second" || fail "rmdir after close"
[ -e mnt/disk.raw@second ] && fail "the name is still there"
errno_of "No such file" rmdir "$snapshots/second"
mkdir "$snapshots/second" || fail "the same name again"
[ "$(byte mnt/disk.raw@second)" = 00 ] || fail "an old snapshot's content"
errno_of "not permitted" mkdir mnt/else
errno_of "not permitted" rmdir mnt/.imgfuse/disk.raw/snapshots
unmount mnt
check_image disk.qcow2
qemu-img snapshot -l disk.qcow2 > list
grep -q second list || fail "not in the image"

step "a shared mapping's dirty pages are in the snapshot"
if command -v python3 > /dev/null; then
    mount_image -w --snapshots --writeback disk.qcow2 mnt
    python3 - "$snapshots/mapped" << 'END' || fail "mapping"
import mmap, os, sys
with open("mnt/disk.raw", "r+b") as file:
    with mmap.mmap(file.fileno(), 1 << 20) as pages:
        pages[4096:8192] = b"m" * 4096
        os.pwrite(file.fileno(), b"w" * 512, 65536)
        os.mkdir(sys.argv[1])
        pages[4096:8192] = b"n" * 4096
END
    [ "$(byte mnt/disk.raw@mapped 4096)" = 6d ] || fail "the mapped page"
    [ "$(byte mnt/disk.raw@mapped 65536)" = 77 ] || fail "the written page"
    [ "$(byte mnt/disk.raw 4096)" = 6e ] || fail "written after"
    unmount mnt
fi

step "strange names are safe, and lead back"
for name in 'a/b' 'per%cent' $'new\nline' .. 'ähm' ' '; do
    quiet qemu-img snapshot -c "$name" disk.qcow2
done
mount_image -w --snapshots disk.qcow2 mnt
for name in 'a%2Fb' 'per%25cent' 'new%0Aline' '%2E%2E' 'ähm' ' '; do
    [ -d "$snapshots/$name" ] || fail "folder of '$name'"
    [ -f "mnt/disk.raw@$name" ] || fail "file of '$name'"
    cmp -n 4096 "mnt/disk.raw@$name" mnt/disk.raw || fail "content of '$name'"
    rmdir "$snapshots/$name" || fail "rmdir '$name'"
done
errno_of "Invalid" mkdir "$snapshots/100%"
errno_of "Invalid" mkdir "$snapshots/a%2fb"
mkdir "$snapshots/c%2Fd" || fail "mkdir of an escaped name"
long=$(printf %0250d 0)
errno_of "too long" mkdir "$snapshots/$long"
unmount mnt
qemu-img snapshot -l disk.qcow2 | grep -q "c/d" || fail "the name in the image"
quiet qemu-img snapshot -c "$long" disk.qcow2
mount_image --snapshots disk.qcow2 mnt
find "$snapshots" -name '%id-*' | grep -q . || fail "the long name"
unmount mnt
check_image disk.qcow2

step "names come and go while a folder is being read"
quiet qemu-img create -q -f qcow2 many.qcow2 1M
mount_image -w --snapshots many.qcow2 mnt
folder=mnt/.imgfuse/many.raw/snapshots
for i in $(seq 1 60); do
    mkdir "$folder/a rather long name to fill a page of entries $i" ||
        fail "mkdir $i"
done
[ "$(ls "$folder" | wc -l)" = 60 ] || fail "60 names"
[ "$(ls mnt | wc -l)" = 61 ] || fail "60 files"
rm -r "$folder"/* || fail "rm -r"
[ -z "$(ls -A "$folder")" ] || fail "left: $(ls "$folder")"
[ "$(ls mnt)" = many.raw ] || fail "files left: $(ls mnt)"
unmount mnt
check_image many.qcow2

step "writers go on while snapshots come and go"
mount_image -w --snapshots disk.qcow2 mnt
for worker in 0 1; do
    (
        for round in $(seq 1 40); do
            dd if=data of=mnt/disk.raw bs=64k count=16 conv=notrunc \
                skip=$((round % 8)) seek=$((worker * 64 + round % 8)) \
                status=none || exit 1
        done
    ) &
done
for i in $(seq 1 8); do
    mkdir "$snapshots/live$i" || fail "mkdir live$i"
    sum=$(cksum < "mnt/disk.raw@live$i")
    sleep 0.05
    [ "$sum" = "$(cksum < "mnt/disk.raw@live$i")" ] || fail "live$i changes"
    [ $((i % 2)) = 0 ] || rmdir "$snapshots/live$i" || fail "rmdir live$i"
done
wait
unmount mnt
check_image disk.qcow2

# go_to NAME: waits while the kernel has not told yet that the file is closed.
go_to() {
    for try in $(seq 1 100); do
        printf '%s\n' "$1" 2> err.log > mnt/.imgfuse/disk.raw/goto && return 0
        grep -q 'busy' err.log || return 1
        sleep 0.1
    done
    return 1
}

step "back to a snapshot, in use"
rm -f disk.qcow2
fresh
mount_image -w --snapshots disk.qcow2 mnt
[ "$(stat -c %a mnt/.imgfuse/disk.raw/goto)" = 200 ] || fail "its mode"
mkdir "$snapshots/second" "$snapshots/a b" || fail mkdir
dd if=data of=mnt/disk.raw conv=notrunc status=none || fail dd
cp mnt/disk.raw third.raw
mkdir "$snapshots/third" || fail mkdir
go_to first || fail "goto first: $(cat err.log)"
same first.raw mnt/disk.raw
same first.raw mnt/disk.raw@first
go_to "a b" || fail "goto 'a b': $(cat err.log)"
[ "$(byte mnt/disk.raw)$(byte mnt/disk.raw 524288)" = 2211 ] || fail "second"
dd if=data of=mnt/disk.raw bs=64k count=1 conv=notrunc status=none || fail dd
go_to third || fail "goto third: $(cat err.log)"
same third.raw mnt/disk.raw
errno_of "No such" bash -c "echo none > mnt/.imgfuse/disk.raw/goto"
exec 6< mnt/disk.raw
errno_of "busy" bash -c "echo first > mnt/.imgfuse/disk.raw/goto"
exec 6<&-
same third.raw mnt/disk.raw
go_to first || fail "goto first: $(cat err.log)"
unmount mnt
check_image disk.qcow2
quiet qemu-img convert -f qcow2 -O raw disk.qcow2 now.raw
same first.raw now.raw

step "back to another length only where the file may change it"
quiet qemu-img resize -q disk.qcow2 16M
mount_image -w disk.qcow2 mnt
errno_of "not permitted" bash -c "echo first > mnt/.imgfuse/disk.raw/goto"
[ "$(stat -c %s mnt/disk.raw)" = 16777216 ] || fail "the length changed"
unmount mnt
mount_image -w --growable disk.qcow2 mnt
go_to first || fail "goto first: $(cat err.log)"
[ "$(stat -c %s mnt/disk.raw)" = 8388608 ] || fail "the old length"
same first.raw mnt/disk.raw
unmount mnt
check_image disk.qcow2
mount_image disk.qcow2 mnt
[ -e mnt/.imgfuse/disk.raw/goto ] && fail "goto in a read-only mount"
unmount mnt

step "the file mount and formats without snapshots"
touch over.raw
refused 2 "folder" "$IMGFUSE" --snapshots disk.qcow2 over.raw
mount_image --snapshots --format raw data mnt
[ "$(ls mnt)" = data.raw ] || fail "$(ls mnt)"
[ -e mnt/.imgfuse/data.raw/snapshots ] && fail "raw has snapshots?"
unmount mnt
