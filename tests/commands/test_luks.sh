# SPDX-License-Identifier: MIT
#
# LUKS images: what we make others read, and the other way round; keys
#
# Derivation times are a few milliseconds, so that nothing waits for it.

. "$(dirname "$0")/lib.sh"

object=secret,id=sec0,data=correct,format=raw
theirs="--object $object --image-opts"

# their_create OPTIONS FILE SIZE
their_create() {
    patiently qemu-img create -q -f luks --object "$object" \
        -o "key-secret=sec0,iter-time=10,$1" "$2" "$3"
}

their_create cipher-alg=aes-256 probe.luks 1M ||
    skip "this qemu-img has no LUKS"
printf correct > key
printf wrong > wrong-key
printf 'correct\n' > line-key

# their_image FILE [OPTION...]: how QEMU's tools name it
their_image() {
    printf 'driver=luks,key-secret=sec0,file.filename=%s' "$1"
}

# fill IMAGE: a pattern by qemu-io; sectors, parts of them, the last one
fill() {
    qemu-io --object "$object" --image-opts "$(their_image "$1")" \
        -c 'write -q -z 0 5M' -c 'write -q -P 1 0 3M' -c 'write -q -P 2 1000 3000' \
        -c 'write -q -z 2M 1M' -c 'write -q -P 3 5242368 512' ||
        fail "qemu-io on $1"
}

# plain IMAGE RAW: what we see in it, in a raw file
plain() {
    works convert --key file:key -O raw "$1" "$2"
}

make_raw disk.raw
truncate -s 20971520 disk.raw

step "info says what qemu-img says"
same_as_qemu info probe.luks

step "every cipher, both ways"
while read -r options; do
    rm -f a.luks b.luks
    their_create "$options" a.luks 5M || {
        echo "    qemu-img has no $options"
        continue
    }
    fill a.luks
    plain a.luks a.raw
    timeout 60 qemu-img compare -q $theirs "$(their_image a.luks)" \
        driver=raw,file.filename=a.raw || fail "$options: theirs to ours"
    works create --key file:key -f luks -o "iter-time=10,$options" b.luks 5M
    fill b.luks
    plain b.luks b.raw
    same a.raw b.raw
    same_as_qemu info b.luks
done << 'END'
cipher-alg=aes-256
cipher-alg=aes-128
cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256
cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=plain,hash-alg=sha1
cipher-alg=aes-256,cipher-mode=ctr,hash-alg=sha512
cipher-alg=aes-128,cipher-mode=ecb,hash-alg=sha384
cipher-alg=serpent-256,hash-alg=ripemd160
cipher-alg=serpent-128,cipher-mode=cbc
cipher-alg=twofish-256,hash-alg=sha224
cipher-alg=twofish-128
cipher-alg=cast5-128,cipher-mode=cbc
END

step "what we convert, they read"
works convert --key file:key -f raw -O luks -o iter-time=10 disk.raw c.luks
timeout 60 qemu-img compare -q $theirs "$(their_image c.luks)" \
    driver=raw,file.filename=disk.raw || fail "content differs"
works convert --object secret,id=x,file=key -f raw -O luks \
    -o iter-time=10,key-secret=x disk.raw d.luks
plain d.luks d.raw
same disk.raw d.raw
grep -q -a end d.raw || truncate -s 20971520 d.raw
! grep -q -a 123456 c.luks || fail "plain text in the encrypted image"

step "measure says how large it gets"
works measure -O luks --size 20971520
grep -q "required size: $(stat -c %s c.luks)" out.log || fail "measure"

step "keys: where they come from"
KEY=correct works compare --key env:KEY -F raw c.luks disk.raw
mkdir credentials
cp key credentials/disk
CREDENTIALS_DIRECTORY=$work/credentials \
    works compare --key cred:disk -F raw c.luks disk.raw
works compare --object secret,id=k,data=Y29ycmVjdA==,format=base64 \
    --key secret:k -F raw c.luks disk.raw
works compare --key=file:<(cat key) -F raw c.luks disk.raw

step "keys: refusals, each in one line"
refused 1 'needs a key.*--key=file' convert -O raw c.luks x.raw
refused 1 'wrong passphrase' convert -O raw --key file:wrong-key c.luks x.raw
refused 1 'newline' convert -O raw --key file:line-key c.luks x.raw
refused 1 "no secret 'sec7'" convert -O raw --image-opts \
    driver=luks,key-secret=sec7,file.filename=c.luks x.raw
refused 1 'not set' convert -O raw --key env:NO_SUCH c.luks x.raw
refused 1 'CREDENTIALS_DIRECTORY' convert -O raw --key cred:x c.luks x.raw
refused 2 'never the key itself' convert -O raw --key hunter2 c.luks x.raw
! grep -q hunter2 err.log || fail "the key is in the message"
refused 2 'object' convert -O raw --object secret,id=a,date=hunter2 c.luks x
! grep -q hunter2 err.log || fail "the key is in the message"
refused 1 'needs a key' create -f luks y.luks 1M
[ ! -e y.luks ] || fail "an image without a key was left behind"
setsid -w timeout 60 "$IMGFUSE" convert -O raw --key ask c.luks x.raw \
    2> err.log < /dev/null && fail "asked nobody"
grep -q terminal err.log || fail "no word of the terminal"

# shown WORDS: waits until the terminal shows them
shown() {
    for _ in $(seq 300); do
        grep -qs "$1" typescript && return
        sleep 0.1
    done
    return 1
}

step "a key typed on a terminal"
if command -v script > /dev/null; then
    rm -f typescript
    (shown 'Key for ' && echo correct; shown 'code [0-9]') |
        timeout 90 script -qfec \
        "$IMGFUSE compare -q --key ask -F raw c.luks disk.raw; echo code \$?" \
        typescript > /dev/null
    grep -q 'code 0' typescript || fail "the typed key was not taken"
    ! grep -q correct typescript || fail "the typed key was shown"
fi

step "cryptsetup agrees"
if command -v cryptsetup > /dev/null; then
    cryptsetup open --test-passphrase --type luks1 -d key c.luks ||
        fail "cryptsetup does not open our image"
    truncate -s 40M e.luks
    cryptsetup -q luksFormat --type luks1 --iter-time 10 e.luks key &&
        works info e.luks && works convert --key file:key -O raw e.luks e.raw
    if cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 \
        --pbkdf-force-iterations 1000 e.luks key 2> /dev/null; then
        refused 1 'LUKS version 2' info e.luks
    fi
fi

echo "LUKS images: all as it should be"
