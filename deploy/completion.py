#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Completions of byre for bash and zsh, made from the table of commands, which command_table.c prints.

  command_table | completion.py bash|zsh
"""
import sys


def read_table():
    """Lines: words of the command, then its options, by tabs."""
    table = {}
    for line in sys.stdin:
        words, options = line.rstrip("\n").split("\t")
        table[tuple(words.split())] = options.split()
    return table


def groups(table):
    first, second = [], {}
    for words in table:
        if words[0] not in first:
            first.append(words[0])
        if len(words) == 2:
            second.setdefault(words[0], []).append(words[1])
    return first, second


BASH = """# SPDX-License-Identifier: BSD-3-Clause
# Completion of byre for bash; made from its table of commands.

_byre_volumes()
{
	local connect=() i
	for ((i = 1; i < ${#COMP_WORDS[@]} - 1; i++)); do
		[[ ${COMP_WORDS[i]} == --connect ]] && connect=(--connect "${COMP_WORDS[i + 1]}")
	done
	byre volume list "${connect[@]}" --timeout 2 2>/dev/null | awk 'NR > 1 { print $1 }'
}

_byre()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} first= second= i
	for ((i = 1; i < COMP_CWORD; i++)); do
		[[ ${COMP_WORDS[i]} == -* ]] && continue
		if [[ -n $first ]]; then second=${COMP_WORDS[i]}; break; fi
		# What stands before it is an option's value.
		[[ " %(first)s " != *" ${COMP_WORDS[i]} "* ]] || first=${COMP_WORDS[i]}
	done
	COMPREPLY=()
	case $prev in
	--pool) COMPREPLY=($(compgen -f -- "$cur")); return ;;
	--cache) COMPREPLY=($(compgen -W "direct" -- "$cur")); return ;;
	--connect | --size | --rate | --timeout | --comment | --interval | --count | --limit) return ;;
	esac
	if [[ $cur == -* ]]; then
		case "$first $second" in
%(options)s
		*) COMPREPLY=($(compgen -W "--help --version" -- "$cur")) ;;
		esac
		return
	fi
	if [[ -z $first ]]; then
		COMPREPLY=($(compgen -W "%(first)s" -- "$cur"))
		return
	fi
	if [[ -z $second ]]; then
		case $first in
%(second)s
		esac
		return
	fi
	case "$first $second" in
	"pool create" | "pool check" | "pool dump" | "pool info") COMPREPLY=($(compgen -f -- "$cur")) ;;
	volume\\ *) [[ $second == create || $second == list ]] || COMPREPLY=($(compgen -W "$(_byre_volumes)" -- "$cur")) ;;
	esac
}
complete -o filenames -F _byre byre
"""

ZSH = """#compdef byre
# SPDX-License-Identifier: BSD-3-Clause
# Completion of byre for zsh; made from its table of commands.

_byre()
{
	local first second word
	for word in ${words[2,CURRENT-1]}; do
		[[ $word == -* ]] && continue
		if [[ -n $first ]]; then second=$word; break; fi
		[[ " %(first)s " != *" $word "* ]] || first=$word
	done
	if [[ $PREFIX == -* ]]; then
		case "$first $second" in
%(options)s
		*) compadd -- --help --version ;;
		esac
		return
	fi
	if [[ -z $first ]]; then
		compadd -- %(first)s
		return
	fi
	if [[ -z $second ]]; then
		case $first in
%(second)s
		esac
		return
	fi
	case "$first $second" in
	"pool create" | "pool check" | "pool dump" | "pool info") _files ;;
	volume\\ (create|list)) ;;
	volume\\ *) compadd -- $(byre volume list --timeout 2 2>/dev/null | awk 'NR > 1 { print $1 }') ;;
	esac
}
_byre "$@"
"""


def main():
    shell = sys.argv[1]
    table = read_table()
    first, second = groups(table)
    reply = 'COMPREPLY=($(compgen -W "%s" -- "$cur"))' if shell == "bash" else "compadd -- %s"
    options = []
    for words, names in table.items():
        pattern = f'"{" ".join(words)}"' if len(words) == 2 else f"{words[0]}\\ *"
        options.append(f"\t\t{pattern}) " + reply % " ".join(names) + " ;;")
    seconds = [f"\t\t{g}) " + reply % " ".join(names) + " ;;" for g, names in second.items()]
    text = BASH if shell == "bash" else ZSH
    sys.stdout.write(text % {"options": "\n".join(options), "first": " ".join(first), "second": "\n".join(seconds)})


main()
