# SPDX-License-Identifier: MIT
#
# imgfuse rebase: another backing file, the same content

. "$(dirname "$0")/lib.sh"

# make_case OLD_SIZE NEW_SIZE OVERLAY_SIZE [OVERLAY_OPTIONS]: old.qcow2 and
# new.qcow2 have some content in common, and differ; overlay.qcow2 on old.
make_case() {
    rm -f old.qcow2 new.qcow2 overlay.qcow2
    qemu-img create -q -f qcow2 old.qcow2 "$1"
    qemu-img create -q -f qcow2 new.qcow2 "$2"
    qemu-io -c "write -q -P 1 0 1M" -c "write -q -P 2 1M 1M" \
        -c "write -q -P 3 3M 100k" -c "write -q -z 5M 1M" old.qcow2
    qemu-io -c "write -q -P 1 0 1M" -c "write -q -P 4 1M 300k" \
        -c "write -q -P 5 4M 1M" -c "write -q -P 6 5M 256k" new.qcow2
    for image in old new; do
        size=$(qemu-img info --output=json $image.qcow2 |
            sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p' | head -n 1)
        qemu-io -c "write -q -P 7 $((size - 65536)) 64k" $image.qcow2
    done
    qemu-img create -q -f qcow2 -o "${4:-compat=1.1}" -b old.qcow2 -F qcow2 \
        overlay.qcow2 "$3"
    qemu-io -c "write -q -P 8 512k 10k" -c "write -q -P 9 3080k 1000" \
        -c "write -q -z 4M 64k" overlay.qcow2
    qemu-img convert -O raw overlay.qcow2 before.raw
}

# shows_the_same BACKING: overlay.qcow2 has that backing file and the old content.
shows_the_same() {
    check_image overlay.qcow2
    qemu-img info overlay.qcow2 > info.log
    if [ -n "$1" ]; then
        grep -q "^backing file: $1" info.log || fail "$(cat info.log)"
    else
        ! grep -q "^backing file:" info.log || fail "$(cat info.log)"
    fi
    qemu-img convert -O raw overlay.qcow2 after.raw
    same before.raw after.raw
}

step "content is kept, whatever the sizes are"
for sizes in "8M 8M 8M" "6M 8M 12M" "12M 7M 8M" "6M 12M 8M" "8M 6M 6M" \
    "8M 8M 8389120" "6M 12M 6816768"; do
    for options in compat=1.1 compat=0.10 cluster_size=4k extended_l2=on; do
        make_case $sizes "$options"
        works rebase -b new.qcow2 -F qcow2 overlay.qcow2
        shows_the_same new.qcow2
    done
done

step "only what differs is copied"
make_case 8M 8M 8M
works rebase -b new.qcow2 -F qcow2 overlay.qcow2
qemu-img map --output=json overlay.qcow2 > map.json
! grep -q '"start": 0,.*"depth": 0' map.json || fail "the same data was copied"
make_case 8M 8M 8M
cp old.qcow2 twin.qcow2
size=$(stat -c %s overlay.qcow2)
works rebase -b twin.qcow2 -F qcow2 overlay.qcow2
[ "$(stat -c %s overlay.qcow2)" = "$size" ] || fail "equal files: data copied"
shows_the_same twin.qcow2

step "no backing file any more, and one for an image that had none"
make_case 8M 8M 12M
works rebase -p -b "" overlay.qcow2
grep -q '(100.00/100%)' out.log || fail "no end of the progress"
shows_the_same ""
rm -f old.qcow2
shows_the_same ""
for compat in 0.10 1.1; do
    make_case 8M 8M 8M
    qemu-img convert -O qcow2 -o compat=$compat overlay.qcow2 flat.qcow2
    mv flat.qcow2 overlay.qcow2
    works rebase -b new.qcow2 -F qcow2 overlay.qcow2
    shows_the_same new.qcow2
done

step "past a layer of the same chain"
make_case 8M 8M 8M
qemu-img create -q -f qcow2 -b overlay.qcow2 -F qcow2 top.qcow2 9M
qemu-io -c "write -q -P 11 2M 1M" top.qcow2
qemu-img convert -O raw top.qcow2 top.raw
works rebase -b old.qcow2 -F qcow2 top.qcow2
rm overlay.qcow2
qemu-img convert -O raw top.qcow2 after.raw
same top.raw after.raw

step "-u changes the name and looks at nothing"
make_case 8M 8M 8M
mv old.qcow2 moved.qcow2
works rebase -u -b moved.qcow2 -F qcow2 overlay.qcow2
shows_the_same moved.qcow2
works rebase -u -b not-there.qcow2 -F qcow2 overlay.qcow2
works rebase -u -b "" overlay.qcow2
works rebase -u -b moved.qcow2 -F qcow2 overlay.qcow2
shows_the_same moved.qcow2

step "the name starts from the overlay's folder"
make_case 8M 8M 8M
mkdir sub
mv old.qcow2 new.qcow2 overlay.qcow2 sub
works rebase -b new.qcow2 -F qcow2 sub/overlay.qcow2
mv sub/*.qcow2 .
shows_the_same new.qcow2

step "bad input changes nothing"
make_case 8M 8M 8M
cp overlay.qcow2 kept.qcow2
wrong_usage rebase overlay.qcow2
wrong_usage rebase -b new.qcow2 overlay.qcow2
wrong_usage rebase -b new.qcow2 -F nonsense overlay.qcow2
refused 1 'No such file\|not found' rebase -b missing -F qcow2 overlay.qcow2
refused 1 'qcow2' rebase -b before.raw -F qcow2 overlay.qcow2
refused 1 'own backing file' rebase -b overlay.qcow2 -F qcow2 overlay.qcow2
refused 1 'own backing file' rebase -u -b overlay.qcow2 -F qcow2 overlay.qcow2
qemu-img create -q -f qcow2 -b overlay.qcow2 -F qcow2 top.qcow2
refused 1 'own backing file' rebase -b top.qcow2 -F qcow2 overlay.qcow2
refused 1 'no backing file' rebase -b new.qcow2 -F qcow2 before.raw
refused 1 'No such file' rebase -b new.qcow2 -F qcow2 missing.qcow2
same overlay.qcow2 kept.qcow2

step "an interrupt leaves the old backing file and the content"
make_case 8M 8M 8M
slow=driver=throttle,bps-write=1M,file.driver=qcow2
slow=$slow,file.file.driver=file,file.file.filename=overlay.qcow2
timeout -s INT 0.5 "$IMGFUSE" rebase -b "" --image-opts "$slow" \
    > out.log 2> err.log
[ $? = 124 ] || fail "was not interrupted"
grep -q 'not rebased' err.log || fail "$(cat err.log)"
shows_the_same old.qcow2

step "no room: as before"
make_small_disk 4M
make_case 8M 8M 8M
qemu-io -c "write -q -P 12 0 7M" old.qcow2
qemu-img create -q -f qcow2 -b "$work/old.qcow2" -F qcow2 full/overlay.qcow2
refused 1 'not rebased.*No space' rebase -b "" --allow-path="$work" \
    full/overlay.qcow2
same_content full/overlay.qcow2 old.qcow2
qemu-img info full/overlay.qcow2 | grep -q '^backing file' ||
    fail "the backing file's name is gone"
