#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# imgfuse amend: who can open an encrypted image. Slots that we fill open with
# QEMU's tools and the other way round; what would lock everybody out is
# refused.

. "$(dirname "$0")/lib.sh"

for name in one two three; do
    printf %s $name > $name
done

# make FORMAT: $image with the passphrase "one"; $prefix of the options
make() {
    format=$1 image=t.$1 prefix=
    encryption=
    if [ $1 = qcow2 ]; then
        prefix=encrypt. encryption=encrypt.format=luks,
    fi
    rm -f $image
    works create -q --object secret,id=s,file=one -f $format \
        -o ${encryption}${prefix}key-secret=s,${prefix}iter-time=10 $image 4M
}

# amend KEY OPTIONS [ARGUMENT...]: opened by KEY, with all keys as secrets
amend() {
    local key=$1 options=$2
    shift 2
    set -- "$@" --object secret,id=one,file=one --object \
        secret,id=two,file=two --object secret,id=three,file=three
    amend=(amend --key=file:$key "$@" -f $format -o "$options" $image)
}

# io KEY COMMAND: qemu-io on $image; its exit code
io() {
    timeout 60 qemu-io --object secret,id=s,file=$1 -c "$2" --image-opts \
        driver=$format,${prefix}key-secret=s,file.filename=$image \
        > io.log 2>&1 && ! grep -q -i fail io.log
}

# opens KEY / is_closed_to KEY: for QEMU's tools and for us
opens() {
    io $1 "read -q -P 7 0 1M" || fail "$image with $1: $(cat io.log)"
    works convert --key=file:$1 -f $format -O raw $image out.raw
    cmp -s out.raw model.raw || fail "$image with $1: other content"
}
is_closed_to() {
    ! io $1 "read -q 0 512" || fail "qemu-io opens $image with $1"
    refused 1 'wrong passphrase' convert --key=file:$1 -f $format -O raw \
        $image out.raw > refused.log
}

# slots: the numbers of those in use
slots() {
    works info --key=file:$1 --output=json $image
    python3 -c '
import json, sys
data = json.load(open("out.log"))["format-specific"]["data"]
slots = data.get("encrypt", data)["slots"]
print(*[i for i, slot in enumerate(slots) if slot["active"]])'
}

head -c 1M /dev/zero | tr '\0' '\7' > model.raw
truncate -s 4M model.raw

for kind in luks qcow2; do
    step "$kind: a second passphrase"
    make $kind
    io one "write -q -P 7 0 1M" || fail "qemu-io: $(cat io.log)"
    [ $kind = qcow2 ] || io one "write -q -P 0 1M 3M" || fail "qemu-io"
    amend one ${prefix}state=active,${prefix}new-secret=two,${prefix}iter-time=10
    works "${amend[@]}"
    opens one
    opens two
    [ "$(slots one)" = "0 1" ] || fail "slots: $(slots one)"

    step "$kind: the first one goes"
    amend one ${prefix}state=inactive,${prefix}old-secret=one
    works "${amend[@]}"
    is_closed_to one
    opens two
    [ "$(slots two)" = 1 ] || fail "slots: $(slots two)"

    step "$kind: nobody is locked out without --force"
    amend two ${prefix}state=inactive,${prefix}keyslot=1
    refused 1 'no key slot would be left' "${amend[@]}"
    amend two ${prefix}state=inactive,${prefix}old-secret=two
    refused 1 'no key slot would be left' "${amend[@]}"
    amend two ${prefix}state=active,${prefix}new-secret=three,${prefix}keyslot=1
    refused 1 'key slot 1 is in use' "${amend[@]}"
    opens two
    amend two ${prefix}state=active,${prefix}new-secret=three,${prefix}keyslot=1,${prefix}iter-time=10 \
        --force
    works "${amend[@]}"
    is_closed_to two
    opens three

    step "$kind: bad wishes change nothing"
    cp $image before
    for wish in state=active:'new-secret is missing' \
        state=inactive:'either keyslot or' new-secret=two:'state is missing' \
        state=active,new-secret=two,old-secret=one:'is for state=inactive' \
        state=inactive,keyslot=0,new-secret=two:'is for state=active' \
        state=inactive,keyslot=8:'must be 0 to 7' \
        state=inactive,keyslot=5:'not in use' \
        state=active,new-secret=four:four \
        state=gone:gone; do
        options=
        IFS=, read -r -a parts <<< "${wish%%:*}"
        for part in "${parts[@]}"; do
            options+=${options:+,}$prefix$part
        done
        amend three $options
        refused 1 "${wish#*:}" "${amend[@]}"
    done
    amend one ${prefix}state=active,${prefix}new-secret=two
    refused 1 'wrong passphrase' "${amend[@]}"
    amend three ${prefix}state=inactive,${prefix}old-secret=two
    refused 1 'wrong passphrase' "${amend[@]}"
    cmp $image before || fail "a refusal changed $image"

    step "$kind: slots that QEMU's tools fill"
    if patiently qemu-img amend --object secret,id=s,file=three \
        --object secret,id=n,file=one --image-opts \
        driver=$kind,${prefix}key-secret=s,file.filename=$image \
        -o ${prefix}state=active,${prefix}new-secret=n,${prefix}iter-time=10
    then
        opens one
        amend one ${prefix}state=inactive,${prefix}old-secret=three
        works "${amend[@]}"
        opens one
        is_closed_to three
    else
        echo "    qemu-img cannot: $(cat err.log)"
    fi
done

step "images without key slots have none to change"
qemu-img create -q -f qcow2 plain.qcow2 1M
refused 1 'no key slots' amend --object secret,id=one,file=one -f qcow2 \
    -o encrypt.state=active,encrypt.new-secret=one plain.qcow2
echo "key slots: all as it should be"
