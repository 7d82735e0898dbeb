# SPDX-License-Identifier: MIT
#
# what --help lists is what there is: known to the program, to the completion
# and to the man page

. "$(dirname "$0")/lib.sh"

completion=${top_srcdir:-.}/fuse/completion.bash
man_page=${top_builddir:-build}/man/imgfuse.1
[ -f "$completion" ] && [ -f "$man_page" ] || skip "run it by 'make check'"

# options_in FILE: the options in the left column of a help text.
options_in() {
    sed -n 's/^  \(    \)\{0,1\}\(-.*\)/\2/p' "$1" | cut -c1-40 |
        sed 's/   .*//; s/\[.*//' | tr -s ' ,' '\n\n' | sed -n 's/=.*//; /^-/p' |
        sort -u
}

# offered COMMAND: what the completion offers for "imgfuse COMMAND -".
cat > complete.bash << 'END'
compopt() { :; }
. "$1"
COMP_WORDS=(imgfuse)
[ -z "$2" ] || COMP_WORDS+=("$2")
COMP_WORDS+=(-)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_imgfuse
printf '%s\n' "${COMPREPLY[@]%=}" | sort -u
END
offered() {
    bash complete.bash "$completion" "$1"
}

sed 's/\\-/-/g; s/\\f[BIR]//g' "$man_page" > man.txt

# in_man OPTION: as a word of the page.
in_man() {
    grep -q -e "\(^\|[^-a-z]\)$1\([^-a-zA-Z]\|\$\)" man.txt
}

commands="amend bitmap check commit compare convert create info map measure
    rebase resize snapshot umount"

step "the list of commands is whole"
works help
sed -n '/^Commands/,/^Drivers/s/^  \([a-z]*\) .*/\1/p' out.log | sort > listed
printf '%s\n' $commands | sort > wanted
diff wanted listed || fail "the list of commands"

for command in $commands ""; do
    step "options of '${command:-a mount}'"
    works $command --help
    options_in out.log > options
    [ "$(wc -l < options)" -ge 3 ] || fail "only $(cat options)"
    offered "$command" > offered
    while read -r option; do
        grep -q -x -e "$option" offered ||
            fail "$command $option: the completion does not have it"
        in_man "$option" || fail "$command $option: not in the man page"
    done < options
    if [ -n "$command" ]; then
        cp out.log help.log
        works help "$command"
        same help.log out.log
    fi
done

step "what the completion offers is known"
for command in $commands; do
    for option in $(offered "$command"); do
        run "$command" "$option"
        ! grep -q 'unrecognized option\|invalid option' err.log ||
            fail "$command $option: $(cat err.log)"
    done
done
for option in $(offered ""); do
    run "$option" missing missing
    ! grep -q -e "unknown option '$option'" err.log || fail "$option: $(cat err.log)"
done

step "usage fits on a terminal, and errors name the program"
run convert
[ "$code" = 2 ] || fail "exit code $code"
[ "$(wc -L < err.log)" -le 80 ] || fail "$(cat err.log)"
run convert --nonsense
grep -q "^imgfuse convert: .*'--nonsense'" err.log || fail "$(cat err.log)"
refused 2 "the mount point is missing" one.qcow2
refused 2 "no driver or command" help nonsense

step "a command that is misspelt"
refused 2 "did you mean 'info'" inof one.qcow2
refused 2 "did you mean 'convert'" covert one.qcow2 two
refused 1 "cannot open" disk mnt
: > inof
refused 1 "inof: the file is empty" inof mnt

step "-o help lists the options of a format"
for command in "create -f" "convert -O" "measure -O" "amend -f"; do
    works $command qcow2 -o help
    grep -q '^  compat ' out.log || fail "$command: $(cat out.log)"
    refused 1 nonsense $command nonsense -o help
done
