# SPDX-License-Identifier: MIT
# bash completion for imgfuse(1); installed as bash-completion/completions/imgfuse

_imgfuse_values()
{
    case $1 in
    -t|--format|-f|-F|-O) echo "raw qcow2" ;;
    --discard)         echo "unmap ignore" ;;
    --detect-zeroes)   echo "off on unmap" ;;
    --cache)           echo "writeback none writethrough directsync unsafe" ;;
    --aio)             echo "auto io_uring native threads" ;;
    --key)             echo "file: env: cred: secret: ask" ;;
    --object)          echo "secret,id=" ;;
    --output)          echo "human json" ;;
    --transport)       echo "auto dev" ;;
    --repair)          echo "leaks all" ;;
    --preallocation)   echo "off metadata falloc full" ;;
    esac
}

_imgfuse_options()
{
    [ "$1" = umount ] || echo "--key= --object="
    case $1 in
    create) echo "-f -b -F -o -u -q --force" ;;
    info)   echo "-f --backing-chain --output= --allow-path= -U --image-opts" ;;
    check)  echo "-f -r --output= -q -U --image-opts" ;;
    bitmap) echo "--add --remove --clear --enable --disable --merge -g -b -F -f
                  --allow-path= --image-opts" ;;
    snapshot)
            echo "-l -c -a -d -f -q -U --image-opts" ;;
    map)    echo "-f -s -l --output= --allow-path= -U --image-opts" ;;
    measure)
            echo "-f -O -o -l --size --output= --allow-path= -U --image-opts" ;;
    compare)
            echo "-f -F -s -p -q -T --allow-path= -U --image-opts" ;;
    resize) echo "-f --shrink --preallocation= -q --allow-path= --image-opts" ;;
    convert)
            echo "-f -O -o -B -F -c -C -S -m -W -l -r -n --target-is-zero
                  --target-image-opts --salvage --bitmaps --skip-broken-bitmaps -T -t -p -q
                  --allow-path= -U --image-opts" ;;
    rebase) echo "-f -b -F -u -t -T -p -q --allow-path= --image-opts" ;;
    amend)  echo "-f -o -t -p -q --allow-path= --image-opts" ;;
    commit) echo "-f -b -d -r -t -p -q --allow-path= --image-opts" ;;
    umount) echo "-l" ;;
    *)      echo "-r --read-only -w --read-write -t --format --name
                  --image-opts --overlay --overlay= --snapshots --layers --uid=
                  --gid= --mode= --growable --discard= --detect-zeroes= --cache=
                  --aio= --writeback --transport= --threads= --allow-path=
                  --allow-remote --force-share -f --foreground --pid-file= -o
                  -v --verbose -d --debug -V --version -h --help" ;;
    esac
}

_imgfuse()
{
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local command=${COMP_WORDS[1]} values

    # "--cache=no": bash splits words at "=", the option is one or two back
    if [ "$word" = = ]; then
        word=
    elif [ "$before" = = ]; then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    # while mounting, -f is --foreground and takes no value
    case $before:$command in
    -f:create|-f:info|-f:check|-f:map|-f:measure|-f:compare|-f:resize|-f:convert|-f:snapshot|-f:rebase|-f:amend|-f:commit|-f:bitmap)
                                values=$(_imgfuse_values -f) ;;
    -t:convert|-T:convert|-T:compare|-t:rebase|-T:rebase|-t:amend|-t:commit)
                                values=$(_imgfuse_values --cache) ;;
    -r:check)                   values=$(_imgfuse_values --repair) ;;
    -f:*)                       values= ;;
    *)                          values=$(_imgfuse_values "$before") ;;
    esac

    if [ -n "$values" ]; then
        COMPREPLY=($(compgen -W "$values" -- "$word"))
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$(_imgfuse_options "$command")" -- "$word"))
        [[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
    else
        compopt -o filenames
        COMPREPLY=($(compgen -f -- "$word"))
        [ "$COMP_CWORD" != 1 ] ||
            COMPREPLY+=($(compgen -W "umount create info check map measure \
                compare resize convert rebase amend commit snapshot bitmap help" -- "$word"))
    fi
}
complete -F _imgfuse imgfuse
