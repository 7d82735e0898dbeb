# SPDX-License-Identifier: MIT
# bash completion for imgfuse(1); installed as bash-completion/completions/imgfuse

_imgfuse_values()
{
    case $1 in
    -t|-f|-F|-O|--format|--target-format|--backing-format|--source-format)
                       echo "raw qcow2 luks" ;;
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

# what every image command takes (fuse/cmd/common.h)
_imgfuse_common="-f --format= --image-opts --allow-path= -U --force-share -T
    -p --progress -q --quiet --key= --object= -h --help"

_imgfuse_commands="create info check map measure compare resize convert rebase
    amend commit snapshot bitmap"

_imgfuse_options()
{
    case " "$_imgfuse_commands" " in
    *[[:space:]]"$1"[[:space:]]*) echo "$_imgfuse_common" ;;
    esac
    case $1 in
    create) echo "-o --options= -b --backing= -F --backing-format= -u --force" ;;
    info)   echo "--backing-chain --output=" ;;
    check)  echo "-r --repair --repair= --output=" ;;
    bitmap) echo "--add --remove --clear --enable --disable --merge= -g
                  --granularity= -b --source-file= -F --source-format=" ;;
    snapshot)
            echo "-l -c -a -d --output=" ;;
    map)    echo "-s --start-offset= -l --max-length= --output=" ;;
    measure)
            echo "-O --target-format= -o --options= --size= -l --output=" ;;
    compare)
            echo "-F -s --output=" ;;
    resize) echo "--shrink --preallocation=" ;;
    convert)
            echo "-O --target-format= -o --options= -B --backing= -F
                  --backing-format= -l -c --compress -C -S -m -W -r --salvage
                  -n --target-is-zero --target-image-opts --bitmaps
                  --skip-broken-bitmaps -t" ;;
    rebase) echo "-b --backing= -F --backing-format= -u -t" ;;
    amend)  echo "-o --options= -t --force" ;;
    commit) echo "-b -d -r -t" ;;
    umount) echo "-l --lazy -h --help" ;;
    help)   ;;
    *)      [[ " "$_imgfuse_commands" " =~ [[:space:]]"$1"[[:space:]] ]] ||
            echo "-r --read-only -w --read-write -t --format= --name=
                  --image-opts --overlay --overlay= --snapshots --layers --uid=
                  --gid= --mode= --growable --discard= --detect-zeroes= --cache=
                  --aio= --writeback --transport= --threads= --allow-path=
                  --allow-remote --force-share --key= --object= -f
                  --foreground --pid-file= -o --options= -v --verbose -d
                  --debug -V --version -h --help" ;;
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
    -t:convert|-t:rebase|-t:amend|-t:commit|-T:*)
                                values=$(_imgfuse_values --cache) ;;
    -r:check)                   values=$(_imgfuse_values --repair) ;;
    -f:*)                       [[ " "$_imgfuse_commands" " =~ \
                                    [[:space:]]"$command"[[:space:]] ]] &&
                                values=$(_imgfuse_values -f) ;;
    *)                          values=$(_imgfuse_values "$before") ;;
    esac

    if [ "$command" = help ] && [ "$COMP_CWORD" -gt 1 ]; then
        COMPREPLY=($(compgen -W "umount $_imgfuse_commands" -- "$word"))
    elif [ -n "$values" ]; then
        COMPREPLY=($(compgen -W "$values" -- "$word"))
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$(_imgfuse_options "$command")" -- "$word"))
        [[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
    else
        compopt -o filenames
        COMPREPLY=($(compgen -f -- "$word"))
        [ "$COMP_CWORD" != 1 ] ||
            COMPREPLY+=($(compgen -W "umount help $_imgfuse_commands" -- "$word"))
    fi
}
complete -F _imgfuse imgfuse
