# SPDX-License-Identifier: MIT
#
# imgfuse convert: snapshots, several sources, damaged ones; rate; -n targets

. "$(dirname "$0")/lib.sh"

# under_way TARGET: waits until convert, which runs as a job, has written to it
under_way() {
    for _ in $(seq 300); do
        [ "$(stat -c %b "$1")" != 0 ] && return
        sleep 0.1
    done
    fail "nothing is written to $1"
}

make_chain
make_raw a.raw
qemu-img convert -O raw top.qcow2 top.raw

step "an internal snapshot"
qemu-img create -q -f qcow2 snap.qcow2 4M
qemu-io -c "write -q -P 1 0 1M" snap.qcow2
qemu-img snapshot -c first snap.qcow2
qemu-io -c "write -q -P 2 512k 1M" snap.qcow2
qemu-img snapshot -c 1st snap.qcow2
qemu-io -c "write -q -P 3 2M 1M" snap.qcow2
for which in first 1 2 1st snapshot.id=2 snapshot.name=first \
    snapshot.id=2,snapshot.name=1st; do
    works convert -l "$which" -O raw snap.qcow2 ours
    qemu-img convert -l "$which" -O raw snap.qcow2 theirs
    same ours theirs
    works measure -l "$which" -O raw --output=json snap.qcow2
done
refused 1 'no snapshot .third' convert -l third -O raw snap.qcow2 new
refused 1 'no snapshot' convert -l snapshot.id=1,snapshot.name=1st \
    -O raw snap.qcow2 new
refused 1 'no .snapshot.colour' convert -l snapshot.colour=1 -O raw \
    snap.qcow2 new
refused 1 'no internal snapshots' convert -l first -f raw -O raw a.raw new
[ ! -e new ] || fail "a target that failed is there"

step "several sources, one behind the other"
truncate -s 1000 odd.raw
printf 'odd' | dd of=odd.raw bs=1 seek=990 conv=notrunc status=none
for sources in "top.qcow2 base.qcow2" "snap.qcow2 snap.qcow2 top.qcow2"; do
    works convert -O raw $sources ours
    qemu-img convert -O raw $sources theirs
    same ours theirs
    works convert -O qcow2 $sources ours.qcow2
    same_content -f qcow2 -F raw ours.qcow2 theirs
done
works convert -f raw -O raw odd.raw a.raw odd.raw ours
{ cat odd.raw; head -c 24 /dev/zero; cat a.raw; head -c 412 /dev/zero
    cat odd.raw; } > theirs
cmp -n "$(stat -c %s theirs)" ours theirs || fail "odd lengths"
refused 1 'one source' convert -O qcow2 -B base.qcow2 -F qcow2 base.qcow2 \
    top.qcow2 new
refused 1 'one source' convert -l first -O raw snap.qcow2 snap.qcow2 new
refused 1 'missing' convert -O raw top.qcow2 missing new

step "what cannot be read is zeros, with --salvage"
cat > rules << EOT
[inject-error]
event = "none"
errno = "5"
sector = "2052"
once = "off"
EOT
qemu-io -f raw -c "write -q -P 1 0 4M" a.raw
damaged="driver=raw,file.driver=blkdebug,file.config=rules"
damaged="$damaged,file.file.driver=file,file.file.filename=a.raw"
refused 1 'Input/output' convert --image-opts -O raw "$damaged" new
[ ! -e new ] || fail "a target that failed is there"
run convert --salvage --image-opts -O raw "$damaged" saved.raw
[ "$code" = 0 ] || fail "--salvage: $(cat err.log)"
grep -q '512 bytes at offset 1050624 cannot be read' err.log ||
    fail "$(cat err.log)"
cp a.raw wanted.raw
dd if=/dev/zero of=wanted.raw bs=512 seek=2052 count=1 conv=notrunc status=none
same saved.raw wanted.raw
run convert -q --salvage --image-opts -O raw "$damaged" saved.raw
[ ! -s err.log ] || fail "-q: $(cat err.log)"

step "-r limits the rate"
begin=$(date +%s%N)
works convert -r 2M -O qcow2 -f raw a.raw slow.qcow2
[ $(($(date +%s%N) - begin)) -gt 1000000000 ] || fail "-r is not kept"
same_content -f qcow2 -F raw slow.qcow2 a.raw
check_image slow.qcow2
works convert -O qcow2 -f raw a.raw fast.qcow2
[ "$(stat -c %s slow.qcow2)" = "$(stat -c %s fast.qcow2)" ] ||
    fail "with a rate more is written"

step "a target given by options"
qemu-img create -q -f qcow2 old.qcow2 70M
target=driver=qcow2,file.driver=file,file.filename=old.qcow2
works convert -n --target-image-opts top.qcow2 "$target"
same_content top.qcow2 old.qcow2
works convert -n -r 1G --target-image-opts top.qcow2 "$target"
same_content top.qcow2 old.qcow2

step "a target that exists and could not be filled is told to be incomplete"
truncate -s 70M old.raw
timeout 60 "$IMGFUSE" convert -n -r 1M -S 0 -O raw top.qcow2 old.raw \
    > out.log 2> err.log &
pid=$!
under_way old.raw
kill -INT $pid
wait $pid && fail "was not interrupted"
grep -q 'old.raw: is incomplete' err.log || fail "$(cat err.log)"

step "SIGUSR1 shows the progress"
truncate -s "$(stat -c %s a.raw)" slow.raw
timeout --foreground 60 "$IMGFUSE" convert -n -r 8M -O raw -S 0 -f raw a.raw \
    slow.raw 2> err.log &
pid=$!
under_way slow.raw
kill -USR1 "$(pgrep -P $pid)"
wait $pid || fail "SIGUSR1 ends it"
grep -q '/100%)' err.log || fail "no progress: $(cat err.log)"
same slow.raw a.raw
