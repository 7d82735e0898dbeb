# SPDX-License-Identifier: MIT
#
# every command with input that is wrong: one clear line, and nothing is lost

. "$(dirname "$0")/lib.sh"

# unchanged: what keep copied is as it was.
keep() {
    rm -rf kept
    mkdir kept
    cp "$@" kept
}
unchanged() {
    for file in kept/*; do
        same "$file" "${file#kept/}"
    done
}

make_chain
make_raw a.raw
keep base.qcow2 top.qcow2 a.raw

step "a file that is not there"
for command in info check map "snapshot -l" "snapshot -c s" "resize -q" \
    "measure -O raw" rebase\ -u\ -b\ '' commit; do
    case $command in
    resize*) refused 1 'missing' $command missing 1G ;;
    rebase*) refused 1 'missing' rebase -u -b "" missing ;;
    *) refused 1 'missing' $command missing ;;
    esac
done
refused 1 'missing' convert -O raw missing new
refused 2 'missing' compare missing a.raw
refused 2 'missing' compare a.raw missing

step "a format that it is not, or that there is not"
refused 1 'qcow2' info -f qcow2 a.raw
refused 1 'qcow2' check -f qcow2 a.raw
refused 1 'qcow2' convert -f qcow2 a.raw new
refused 1 'nonsense' info -f nonsense a.raw
refused 1 'nonsense' convert -O nonsense a.raw new
refused 1 'nonsense' create -f nonsense new 1M
refused 63 'raw' check -f raw a.raw
refused 1 'snapshots' snapshot -f raw -c s a.raw

step "a folder, a name that is too long, an empty name"
mkdir folder
refused 1 'folder' info folder
refused 1 'folder' convert -O raw a.raw folder
refused 1 'exists' create -f qcow2 folder 1M
long=$(printf '%0300d' 0)
refused 1 'name too long\|File name too long' create -f qcow2 "$long" 1M
refused 1 '' info ""
[ -d folder ] && [ -z "$(ls folder)" ] || fail "something is in the folder"

step "a file that exists is not overwritten by create"
refused 1 'exists.*--force' create -f qcow2 a.raw 1M
unchanged

step "a snapshot's name twice; one that is not there"
qemu-img create -q -f qcow2 snap.qcow2 4M
works snapshot -c one snap.qcow2
keep snap.qcow2
refused 1 'exists already' snapshot -c one snap.qcow2
refused 1 'no snapshot' snapshot -a two snap.qcow2
refused 1 'no snapshot' snapshot -d two snap.qcow2
refused 1 'needs a name' snapshot -c "" snap.qcow2
unchanged
wrong_usage snapshot -c one -d one snap.qcow2

step "shrinking needs to be meant"
qemu-img create -q -f qcow2 big.qcow2 64M
qemu-io -c "write -q -P 1 60M 1M" big.qcow2
keep big.qcow2
refused 1 '--shrink' resize big.qcow2 32M
refused 1 '--shrink' resize big.qcow2 -4M
refused 1 'size' resize --shrink big.qcow2 -100M
wrong_usage resize big.qcow2 +9E
unchanged
wrong_usage resize big.qcow2 big

step "a loop in the backing chain"
qemu-img create -q -f qcow2 one.qcow2 1M
qemu-img create -q -f qcow2 -b one.qcow2 -F qcow2 two.qcow2
qemu-img rebase -u -b two.qcow2 -F qcow2 one.qcow2
keep one.qcow2 two.qcow2
for command in "info --backing-chain" map "convert -O raw"; do
    case $command in
    convert*) refused 1 'circle\|itself\|loop' $command one.qcow2 new ;;
    *) refused 1 'circle\|itself\|loop' $command one.qcow2 ;;
    esac
done
refused 1 'circle\|itself\|loop' commit one.qcow2
works info one.qcow2
works rebase -u -b "" one.qcow2
cp kept/one.qcow2 .
unchanged

step "a backing file that is gone, and one outside the image's folder"
qemu-img create -q -f qcow2 -u -b gone.qcow2 -F qcow2 orphan.qcow2 1M
refused 1 'gone.qcow2' map orphan.qcow2
refused 1 'gone.qcow2' convert -O raw orphan.qcow2 new
refused 1 'gone.qcow2' commit orphan.qcow2
works info orphan.qcow2
works check orphan.qcow2
refused 1 'gone.qcow2' create -f qcow2 -b gone.qcow2 -F qcow2 new
refused 1 'format' create -f qcow2 -b base.qcow2 new
works create -q -u -f qcow2 -b gone.qcow2 -F qcow2 new 1M
rm new

step "an image that somebody else writes"
use_image top.qcow2
refused 1 'in use\|use\|lock' check -r all top.qcow2
refused 1 'use\|lock' snapshot -c s top.qcow2
refused 1 'use\|lock' resize top.qcow2 +1M
refused 1 'use\|lock' rebase -b "" top.qcow2
refused 1 'use\|lock' commit top.qcow2
refused 1 'use\|lock' convert -O raw a.raw top.qcow2
refused 1 'use\|lock' convert -n -O qcow2 base.qcow2 top.qcow2
works info -U top.qcow2
refused 1 'only read' snapshot -U -c s top.qcow2
refused 1 'only read' resize -U top.qcow2 +1M
leave_image
check_image top.qcow2

step "not enough rights"
if [ "$(id -u)" = 0 ] && command -v setpriv > /dev/null; then
    chmod 755 "$work"
    cp top.qcow2 base.qcow2 folder
    chmod 600 folder/top.qcow2
    unprivileged="setpriv --reuid=65534 --regid=65534 --clear-groups"
    for command in info check map commit; do
        timeout 60 $unprivileged "$IMGFUSE" $command folder/top.qcow2 \
            > out.log 2> err.log && fail "$command works without rights"
        [ "$(wc -l < err.log)" = 1 ] && grep -q 'Permission denied' err.log ||
            fail "$command: $(cat err.log)"
    done
    timeout 60 $unprivileged "$IMGFUSE" convert -O raw base.qcow2 \
        folder/new > out.log 2> err.log && fail "convert writes without rights"
    grep -q 'Permission denied' err.log || fail "$(cat err.log)"
fi

step "--help of every command"
for command in amend bitmap check commit compare convert create info map \
    measure rebase resize snapshot; do
    works "$command" --help
    grep -q "^usage: imgfuse $command " out.log || fail "$command --help"
done
wrong_usage info
wrong_usage info --colour a.raw
wrong_usage info --output=xml a.raw
wrong_usage convert -T fast a.raw new

step "reading that fails: which image, and where"
qemu-img convert -f raw -O qcow2 a.raw good.qcow2
broken="json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"blkdebug\",
\"file\":{\"driver\":\"file\",\"filename\":\"$work/good.qcow2\"},
\"inject-error\":[{\"event\":\"read_aio\",\"iotype\":\"read\",\"errno\":\"5\"}]}}"
broken=$(printf '%s' "$broken" | tr -d '\n')
refused 1 'good.qcow2.*: cannot read [0-9]* bytes at offset [0-9]*: Input/output' \
    convert -O raw "$broken" new
refused 4 'good.qcow2.*: cannot read [0-9]* bytes at offset [0-9]*: Input/output' \
    compare "$broken" a.raw
qemu-img create -q -f qcow2 -b good.qcow2 -F qcow2 over.qcow2
keep over.qcow2 good.qcow2
refused 1 'over.*as before: .*good.qcow2.*: cannot read [0-9]* bytes at offset' \
    rebase --image-opts -b '' "driver=qcow2,file.filename=over.qcow2,\
backing.driver=qcow2,backing.file.driver=blkdebug,\
backing.file.file.filename=good.qcow2,\
backing.file.inject-error.0.event=read_aio,\
backing.file.inject-error.0.iotype=read"
unchanged
[ ! -e new ] || fail "a target that failed is there"

step "a wrong passphrase, no passphrase, and a data file that is gone"
printf right > right
printf wrong > wrong
patiently qemu-img create -q -f qcow2 --object secret,id=s,file=right \
    -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 \
    secret.qcow2 1M || fail "$(cat err.log)"
keep secret.qcow2
for command in map "convert -O raw" "snapshot -c s" "resize -q" commit; do
    case $command in
    resize*) set -- secret.qcow2 2M ;;
    convert*) set -- secret.qcow2 new ;;
    *) set -- secret.qcow2 ;;
    esac
    refused 1 'secret.qcow2: wrong passphrase' $command --key=file:wrong "$@"
    refused 1 'secret.qcow2: .*--key' $command "$@"
done
unchanged
qemu-img create -q -f qcow2 -o data_file=data.raw data.qcow2 1M
rm data.raw
keep data.qcow2
for command in map check "convert -O raw" "snapshot -c s" commit; do
    case $command in
    convert*) set -- data.qcow2 new ;;
    *) set -- data.qcow2 ;;
    esac
    refused 1 'data.raw' $command "$@"
done
refused 1 'data.raw' resize data.qcow2 2M
unchanged
[ ! -e new ] || fail "a target that failed is there"

step "amend to what cannot be together"
qemu-img create -q -f qcow2 -o extended_l2=on sub.qcow2 1M
qemu-img create -q -f qcow2 three.qcow2 1M
keep sub.qcow2 three.qcow2
refused 1 'subclusters\|extended' amend -o compat=0.10 sub.qcow2
refused 1 'refcount_bits' amend -o compat=0.10,refcount_bits=64 three.qcow2
refused 1 'lazy_refcounts' amend -o compat=0.10,lazy_refcounts=on three.qcow2
refused 1 'refcount_bits' amend -o refcount_bits=3 three.qcow2
refused 1 'data_file' amend -o data_file=other.raw three.qcow2
refused 1 '--shrink' amend -o size=512k three.qcow2
unchanged

step "rebase onto another size: the content stays"
qemu-img create -q -f qcow2 short.qcow2 1M
qemu-img create -q -f qcow2 long.qcow2 100M
qemu-io -c "write -q -P 6 80M 1M" long.qcow2
for other in short long; do
    cp top.qcow2 moved.qcow2
    works rebase -b $other.qcow2 -F qcow2 moved.qcow2
    same_content top.qcow2 moved.qcow2
    check_image moved.qcow2
done

step "compression where there is none"
refused 1 'new: cannot be compressed: .*format' convert -c -O raw a.raw new
refused 1 'new: cannot be compressed: .*encrypted' convert -c -O qcow2 \
    --key=file:right -o encrypt.format=luks,encrypt.iter-time=10 a.raw new
refused 1 'new: cannot be compressed: .*data file' convert -c -O qcow2 \
    -o data_file=new.data a.raw new
[ ! -e new ] && [ ! -e new.data ] || fail "a target that failed is there"

step "convert onto itself, and onto what is too short"
keep base.qcow2 a.raw
refused 1 'source and target' convert base.qcow2 base.qcow2
refused 1 'source and target' convert -n -O raw a.raw ./a.raw
truncate -s 1M little.raw
keep base.qcow2 a.raw little.raw
refused 1 'little.raw: has 1048576 bytes' convert -n -O raw a.raw little.raw
! grep -q incomplete err.log || fail "nothing was written, yet $(cat err.log)"
unchanged

step "no room in the middle: convert, commit, create"
make_small_disk 2M
printf 'what was here before' > full/old.raw
dd if=/dev/urandom of=random.raw bs=1M count=4 status=none
for format in raw qcow2; do
    refused 1 "full/new: cannot write [0-9]* bytes at offset .*No space" \
        convert -O $format random.raw full/new
    refused 1 "full/old.raw: cannot write .*No space" \
        convert -O $format random.raw full/old.raw
    refused 1 "full/new: .*No space" \
        create -q -f $format -o preallocation=full full/new 4M
    [ "$(ls -A full)" = old.raw ] || fail "left behind: $(ls -A full)"
    [ "$(cat full/old.raw)" = 'what was here before' ] || fail "it is gone"
done
qemu-img create -q -f qcow2 full/there.qcow2 4M
refused 1 'full/there.qcow2: is incomplete now: .*No space' \
    convert -n -O qcow2 random.raw full/there.qcow2
rm full/there.qcow2
rm full/old.raw
qemu-img create -q -f qcow2 full/low.qcow2 4M
qemu-img create -q -f qcow2 -b full/low.qcow2 -F qcow2 high.qcow2
qemu-io -c "write -q -P 7 0 4M" high.qcow2
keep high.qcow2
refused 1 'not committed, it is as before: .*low.qcow2: cannot write .*No space' \
    commit high.qcow2
unchanged
qemu-io -c "read -q -P 7 0 4M" high.qcow2 > out.log
[ ! -s out.log ] || fail "$(cat out.log)"
timeout 60 qemu-img check -q full/low.qcow2 > check.log 2>&1
case $? in 0 | 3) ;; *) fail "the backing file is damaged" ;; esac
rm full/low.qcow2

step "no room in the middle: snapshot"
qemu-img create -q -f qcow2 -o cluster_size=64k full/s.qcow2 1G
qemu-io -c "write -q -P 1 0 1M" full/s.qcow2
head -c 700000 /dev/zero > full/filler 2> /dev/null
head -c 1000000 /dev/zero >> full/filler 2> /dev/null
refused 1 'No space' snapshot -c s1 full/s.qcow2
rm full/filler
qemu-img check full/s.qcow2 > out.log 2>&1
[ $? = 0 ] || [ $? = 3 ] || fail "$(cat out.log)"
qemu-io -c "read -q -P 1 0 1M" full/s.qcow2 > out.log
[ ! -s out.log ] || fail "$(cat out.log)"
qemu-img snapshot -l full/s.qcow2 > out.log
[ ! -s out.log ] || fail "a snapshot that failed is listed"
[ ! -e new ] || fail "a target that failed is there"
