# SPDX-License-Identifier: MIT
#
# encrypted qcow2 images: what QEMU writes we read and the other way round,
# with parts of clusters, zeros, snapshots, backing and data files; refusals
#
# qemu-io and our own mount do the same random writes to one image each; a
# plain raw file is what both have to show.

. "$(dirname "$0")/../commands/lib.sh"

object=secret,id=sec0,data=correct
printf correct > key
printf wrong > wrong-key

# their_create OPTIONS FILE SIZE
their_create() {
    patiently qemu-img create -q -f qcow2 --object "$object" \
        -o "encrypt.key-secret=sec0,$1" "$2" "$3"
}
their_create encrypt.format=luks,encrypt.iter-time=10 probe.qcow2 1M ||
    skip "this qemu-img has no encryption"

named() {
    printf 'driver=qcow2,encrypt.key-secret=sec0,file.filename=%s' "$1"
}

# their_io IMAGE ARGUMENT...: qemu-io with the key
their_io() {
    timeout 60 qemu-io --object "$object" --image-opts "$(named "$1")" \
        "${@:2}" > io.log 2>&1 || { cat io.log; fail "qemu-io on $1"; }
    ! grep -q -i 'error\|verification failed' io.log ||
        { cat io.log; fail "qemu-io on $1"; }
}

check_theirs() {
    timeout 60 qemu-img check -q --object "$object" --image-opts \
        "$(named "$1")" || fail "qemu-img check $1"
}

# writes SEED: qemu-io commands, 512-byte aligned ones and others
writes() {
    awk -v seed="$1" 'BEGIN {
        srand(seed)
        for (i = 0; i < 60; i++) {
            at = int(rand() * 5000000); n = 1 + int(rand() * 150000)
            if (i % 2) { at -= at % 512; n += 512 - n % 512 }
            if (i % 7 == 6) print "write -q -z " at " " n
            else print "write -q -P " 1 + i " " at " " n
        }
        print "flush" }'
}

# same_writes IMAGE SEED: to the image and to $IMAGE.raw
same_writes() {
    local list=()
    while read -r line; do
        list+=(-c "$line")
    done < <(writes "$2")
    their_io "$1" "${list[@]}"
    qemu-io -f raw "${list[@]}" "$1.raw" > /dev/null || fail "qemu-io raw"
}

shows() {
    works compare --key file:key -F raw "$1" "$2"
    timeout 60 qemu-img compare -q --object "$object" --image-opts \
        "$(named "$1")" "driver=raw,file.filename=$2" || fail "qemu-img: $1"
}

step "made and written by them, read by us, and the other way round"
while read -r options; do
    rm -f a.qcow2 b.qcow2
    their_create "$options" a.qcow2 6M || {
        echo "    qemu-img cannot: $options: $(cat err.log)"
        continue
    }
    truncate -s 6M a.qcow2.raw b.qcow2.raw
    same_writes a.qcow2 1
    shows a.qcow2 a.qcow2.raw
    same_as_qemu info a.qcow2
    works check a.qcow2
    run create --key file:key -f qcow2 -o "$options" b.qcow2 6M
    [ $code = 0 ] || fail "create: $(cat err.log)"
    check_theirs b.qcow2
    same_writes b.qcow2 2
    shows b.qcow2 b.qcow2.raw
    # what we write
    rm -f c.qcow2
    run convert --key file:key -f raw -O qcow2 -o "$options" a.qcow2.raw c.qcow2
    [ $code = 0 ] || fail "convert: $(cat err.log)"
    check_theirs c.qcow2
    shows c.qcow2 a.qcow2.raw
    rm -f a.qcow2.raw b.qcow2.raw
done << 'END'
encrypt.format=luks,encrypt.iter-time=10
encrypt.format=luks,encrypt.iter-time=10,cluster_size=512
encrypt.format=luks,encrypt.iter-time=10,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,compat=0.10
encrypt.format=luks,encrypt.iter-time=10,encrypt.cipher-alg=serpent-256,cluster_size=2M
encrypt.format=aes
encrypt.format=aes,cluster_size=4k
END

step "we write: a mount of an encrypted image"
if [ -c /dev/fuse ] && [ "$(id -u)" = 0 ]; then
    works create -q --key file:key -f qcow2 \
        -o encrypt.format=luks,encrypt.iter-time=10 m.qcow2 6M
    truncate -s 6M m.raw
    mkdir mnt
    works -w --key file:key m.qcow2 mnt
    while read -r line; do
        list+=(-c "$line")
    done < <(writes 3 | grep -v -- -z)
    timeout 60 qemu-io -f raw "${list[@]}" mnt/m.raw > /dev/null ||
        { "$IMGFUSE" umount mnt; fail "writing to the mount"; }
    qemu-io -f raw "${list[@]}" m.raw > /dev/null
    cmp mnt/m.raw m.raw || { "$IMGFUSE" umount mnt; fail "mount differs"; }
    works umount mnt
    shows m.qcow2 m.raw
    check_theirs m.qcow2
    refused 1 'needs a key' m.qcow2 mnt
    refused 1 'wrong passphrase' --key file:wrong-key m.qcow2 mnt
    works --object "$object" --image-opts "$(named m.qcow2)" mnt
    cmd=$(tr '\0' ' ' < "/proc/$(pgrep -n -f 'key-secret=sec0,file.filename=m.qcow2')/cmdline")
    cmp mnt/* m.raw || fail "mount with an object differs"
    works umount mnt
    case $cmd in
    *correct*) fail "the key can be seen on the command line" ;;
    esac
fi

step "snapshots keep what they had"
works create -q --key file:key -f qcow2 \
    -o encrypt.format=luks,encrypt.iter-time=10 s.qcow2 6M
truncate -s 6M s.qcow2.raw
same_writes s.qcow2 4
cp s.qcow2.raw before.raw
works snapshot --key file:key -c one s.qcow2
same_writes s.qcow2 5
shows s.qcow2 s.qcow2.raw
works snapshot --key file:key -a one s.qcow2
shows s.qcow2 before.raw
check_theirs s.qcow2

step "an encrypted overlay of a plain image, and the reverse"
make_raw base.raw
truncate -s 6M base.raw
works create -q --key file:key -f qcow2 -b base.raw -F raw \
    -o encrypt.format=luks,encrypt.iter-time=10 top.qcow2
cp base.raw top.qcow2.raw
same_writes top.qcow2 6
shows top.qcow2 top.qcow2.raw
works create -q --key file:key -f qcow2 -b top.qcow2 -F qcow2 plain.qcow2
works compare --key file:key -F raw plain.qcow2 top.qcow2.raw

step "the image itself: no plain text, status without places, no key needed"
works map --output=json --key file:key c.qcow2
! grep -q offset out.log || fail "map tells where ciphertext lies"
seq 1 100000 > text
truncate -s 1M text
works convert --key file:key -f raw -O qcow2 \
    -o encrypt.format=luks,encrypt.iter-time=10 text t.qcow2
! grep -q -a 12345 t.qcow2 || fail "plain text in the image"
works info t.qcow2
works check t.qcow2

step "measure counts the LUKS header"
patiently qemu-img measure --object "$object" -O qcow2 \
    -o encrypt.format=luks,encrypt.key-secret=sec0 --size 1G > qemu.log ||
    fail "qemu-img measure: $(cat err.log)"
works measure -O qcow2 -o encrypt.format=luks --size 1G
diff qemu.log out.log || fail "measure"

step "refusals"
refused 1 'needs a key.*encrypt.key-secret' convert -O raw t.qcow2 x.raw
refused 1 'wrong passphrase' convert -O raw --key file:wrong-key t.qcow2 x
refused 1 'is encrypted by luks' convert -O raw --key file:key --image-opts \
    driver=qcow2,encrypt.format=aes,file.filename=t.qcow2 x.raw
refused 1 'cannot be compressed' convert -c --key file:key -f raw -O qcow2 \
    -o encrypt.format=luks,encrypt.iter-time=10 text y.qcow2
[ ! -e y.qcow2 ] || fail "a compressed encrypted image"
refused 1 'data_file_raw' create --key file:key -f qcow2 -o \
    encrypt.format=luks,data_file=d.raw,data_file_raw=on z.qcow2 1M

step "hostile places of the LUKS header"
# hostile OFFSET LENGTH: into the extension, 8 bytes each in hexadecimal
hostile() {
    cp t.qcow2 h.qcow2
    python3 - "$1" "$2" << 'END'
import struct, sys
data = open("h.qcow2", "r+b").read()
at = data.index(struct.pack(">I", 0x0537be77)) + 8
with open("h.qcow2", "r+b") as image:
    image.seek(at)
    image.write(bytes.fromhex(sys.argv[1] + sys.argv[2]))
END
    refused 1 'crypto header\|LUKS header' info h.qcow2
}
if command -v python3 > /dev/null; then
    hostile 7ffffffffffffe00 00000000001f9000
    hostile 0000000000000000 00000000001f9000
    hostile 0000000000030001 00000000001f9000
    hostile 0000010000000000 00000000001f9000
    hostile 0000000000030000 8000000000000000
    hostile 0000000000030000 0000000000000000
    hostile 0000000000030000 000000000000024f
    hostile 0000000000030000 0000000000000400
fi

echo "encrypted qcow2 images: all as it should be"
