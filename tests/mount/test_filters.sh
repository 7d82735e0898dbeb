#!/bin/bash
# SPDX-License-Identifier: MIT
#
# filters under a mount: --image-opts builds them, and what they do is seen by
# whoever reads the file; what is wrong with the options is said in one line
. "${top_srcdir:-.}/tests/mount/lib.sh"
need qemu-img cmp dd
need openssl

mib=1048576

# opts DRIVER-OPTIONS IMAGE: qcow2 on a file below a filter.
opts() {
    echo "$1,file.driver=qcow2,file.file.driver=file,file.file.filename=$2"
}

now_ms() {
    date +%s%3N
}

random_file data.raw $((4 * mib)) 7
quiet qemu-img convert -O qcow2 data.raw data.qcow2

# ---- throttle: 1 MiB a second, 4 MiB -----------------------------------------

step "throttle holds the rate"
mount_image --image-opts --name data.raw \
    "$(opts driver=throttle,bps-total=1M data.qcow2)" mnt
start=$(now_ms)
timeout 60 cat mnt/data.raw > read.raw || fail "cannot read"
slow=$(($(now_ms) - start))
unmount mnt
same data.raw read.raw
# Without a limit this takes milliseconds; with it, 4 s less what the bucket
# lets through at once. A busy machine only makes it longer.
[ "$slow" -ge 1500 ] || fail "4 MiB at 1 MiB/s came within $slow ms"
[ "$slow" -le 30000 ] || fail "4 MiB at 1 MiB/s took $slow ms"

step "the file is called after the image, below whatever filters"
mount_image --image-opts \
    "driver=throttle,file.driver=qcow2,file.file.filename=data.qcow2" mnt
[ "$(ls mnt)" = data.raw ] || fail "$(ls mnt)"
unmount mnt

step "and none where there is none"
mount_image --image-opts --name data.raw "$(opts driver=throttle data.qcow2)" mnt
start=$(now_ms)
timeout 60 cat mnt/data.raw > read.raw || fail "cannot read"
fast=$(($(now_ms) - start))
unmount mnt
same data.raw read.raw
[ $((fast * 2)) -lt "$slow" ] || fail "$fast ms without, $slow ms with a limit"
echo "    $slow ms with the limit, $fast ms without"

# ---- copy-on-read ------------------------------------------------------------

# bytes_in IMAGE: what the layer itself holds, backing files not counted.
bytes_in() {
    qemu-img map --output=json "$1" |
        tr '{' '\n' | grep '"depth": 0' | grep '"data": true' |
        sed 's/.*"length": \([0-9]*\).*/\1/' |
        { total=0; while read -r n; do total=$((total + n)); done
          echo "$total"; }
}

step "copy-on-read fills the overlay with what is read"
quiet qemu-img create -f qcow2 -b data.qcow2 -F qcow2 overlay.qcow2
[ "$(bytes_in overlay.qcow2)" = 0 ] || fail "the overlay is not empty"
mount_image -w --image-opts --name data.raw \
    "$(opts driver=copy-on-read overlay.qcow2)" mnt
timeout 20 dd if=mnt/data.raw of=read.raw bs=1M count=1 status=none ||
    fail "cannot read"
unmount mnt
filled=$(bytes_in overlay.qcow2)
[ "$filled" -ge "$mib" ] || fail "1 MiB was read, $filled bytes are there"
[ "$filled" -lt $((4 * mib)) ] || fail "all of it is there"
echo "    $filled bytes in the overlay"
cmp -n "$mib" data.raw read.raw || fail "other bytes"
check_image overlay.qcow2
quiet qemu-img convert -O raw overlay.qcow2 read.raw
same data.raw read.raw

# ---- blkdebug ----------------------------------------------------------------

# read_at OFFSET: 4 KiB there; false when that fails, with dd.log.
read_at() {
    timeout 20 dd if=mnt/data.raw of=read.raw bs=4096 skip=$(($1 / 4096)) \
        count=1 iflag=direct status=none 2> dd.log
}

# fails_with TEXT OFFSET: reading fails, and the system's words are TEXT.
fails_with() {
    ! read_at "$2" || fail "4 KiB at $2 can be read"
    grep -q "$1" dd.log || {
        cat dd.log >&2
        fail "not '$1'"
    }
}

# blkdebug MORE: reads of the sector at 1 MiB fail; MORE as an option says.
blkdebug() {
    rule=inject-error.0
    opts "driver=blkdebug,$rule.event=none,$rule.iotype=read,\
$rule.sector=2048,$1" data.qcow2
}

step "an injected error reaches the caller as what it is"
mount_image --image-opts --name data.raw \
    "$(blkdebug inject-error.0.errno=5)" mnt
read_at 0 || fail "other sectors cannot be read"
fails_with "Input/output error" "$mib"
fails_with "Input/output error" "$mib"
read_at $((2 * mib)) || fail "other sectors cannot be read any more"
unmount mnt

step "once only, and another error, when the rule says so"
mount_image --image-opts --name data.raw \
    "$(blkdebug inject-error.0.errno=28,inject-error.0.once=on)" mnt
fails_with "No space left" "$mib"
read_at "$mib" || fail "the second time it fails, too"
cmp -s read.raw <(dd if=data.raw bs=4096 skip=256 count=1 status=none) ||
    fail "other bytes"
unmount mnt

# ---- bad options -------------------------------------------------------------

step "bad options are refused in one line"
refused 2 "unknown option 'bps-totl'" "$IMGFUSE" --image-opts \
    "$(opts driver=throttle,bps-totl=1M data.qcow2)" mnt
refused 2 "bps-total.*much" "$IMGFUSE" --image-opts \
    "$(opts driver=throttle,bps-total=much data.qcow2)" mnt
refused 2 "detect-zeroes.*perhaps" "$IMGFUSE" --image-opts \
    "$(opts driver=throttle,detect-zeroes=perhaps data.qcow2)" mnt
refused 2 "aio.*fast" "$IMGFUSE" --image-opts \
    "driver=qcow2,file.driver=file,file.filename=data.qcow2,file.aio=fast" mnt
refused 2 "read-only.*maybe" "$IMGFUSE" --image-opts \
    "$(opts driver=throttle,read-only=maybe data.qcow2)" mnt
refused 1 "unknown format 'throtle'" "$IMGFUSE" --image-opts \
    "$(opts driver=throtle data.qcow2)" mnt
refused 2 "needs the option 'file'" "$IMGFUSE" --image-opts driver=throttle mnt

# ---- snapshot=on -------------------------------------------------------------

step "snapshot=on takes writes and leaves the image alone"
cp data.qcow2 before.qcow2
mount_image -w --image-opts --name data.raw \
    "snapshot=on,driver=qcow2,file.driver=file,file.filename=data.qcow2" mnt
dd if=/dev/zero of=mnt/data.raw bs=64k count=3 conv=notrunc,fsync \
    status=none || fail "cannot write"
cmp -s -n 196608 mnt/data.raw /dev/zero || fail "what was written is not seen"
cmp -s -i 196608 mnt/data.raw data.raw || fail "the rest is not as it was"
unmount mnt
same before.qcow2 data.qcow2
