"""The completion scripts themselves: text made from :func:`bayplan.cli.completion.lines`. Pure."""

from __future__ import annotations

from collections.abc import Mapping

Lines = Mapping[tuple[str, ...], Mapping[str, str]]
_HEAD = "# Made by `bayplan completion {shell}`; make it anew after an update.\n"


def script(shell: str, lines: Lines) -> str:
    """The script for ``bash``, ``zsh`` or ``fish``."""
    made = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](lines)
    return (f"#compdef bayplan\n{_HEAD}" if shell == "zsh" else _HEAD).format(shell=shell) + made


def _split(words: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(words as they are typed, kinds of names)."""
    typed = [word.partition("=")[0] for word in words if not word.startswith("@")]
    return typed, [word[1:] for word in words if word.startswith("@")]


def _choices(lines: Lines) -> dict[str, str]:
    """``container run --pull`` -> ``missing always never``."""
    found = {}
    for place, words in lines.items():
        for word in words:
            option, _, values = word.partition("=")
            if values:
                found[" ".join((*place, option))] = values.replace("|", " ")
    return found


def _bash(lines: Lines) -> str:
    cases = []
    for place, words in lines.items():
        typed, kinds = _split(words)
        asked = f"; names={kinds[0]}" if kinds else ""
        cases.append(f'        "{" ".join(place)}") words="{" ".join(typed)}"{asked} ;;')
    valued = sorted({word.partition("=")[0] for words in lines.values() for word in words if "=" in word})
    files = "|".join(option for option in valued if option in _FILES)
    few = [
        f'        "{line}") COMPREPLY=($(compgen -W "{values}" -- "$cur")); return ;;'
        for line, values in _choices(lines).items()
    ]
    return f"""_bayplan() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} place="" words="" names="" word i root=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case "$word" in
            --root) root=(--root "${{COMP_WORDS[i+1]}}"); ((i++)) ;;
            --state|-f|--file) ((i++)) ;;
            -*) ;;
            *)
                if [[ -z $place ]]; then
                    place=$word
                else
                    [[ "{_verbs(lines)}" == *" $place $word "* ]] && place="$place $word"
                    break
                fi
                ;;
        esac
    done
    case "$prev" in
        {files}) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    case "$place $prev" in
{chr(10).join(few)}
    esac
    case "$place" in
{chr(10).join(cases)}
    esac
    if [[ -n $names && $cur != -* ]]; then
        words="$words $(bayplan completion --names "$names" "${{root[@]}}" 2>/dev/null)"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    [[ ${{#COMPREPLY[@]}} -eq 0 ]] && COMPREPLY=($(compgen -f -- "$cur"))
}}
complete -F _bayplan bayplan
"""


#: Options whose value is a file or folder.
_FILES = frozenset(
    {
        "--file",
        "--root",
        "--state",
        "--out",
        "--output",
        "--input",
        "--env-file",
        "--var-file",
        "--iidfile",
        "--install-unit",
    }
)


def _verbs(lines: Lines) -> str:
    """``; container run ; container list ; ...`` to find a command's verb in."""
    return " ; " + " ; ".join(" ".join(place) for place in lines if len(place) == 2) + " ; "


def _quoted(text: str, quote: str) -> str:
    """In single quotes; ``quote`` is how the shell writes one inside them."""
    return "'" + text.replace("'", quote) + "'"


def _zsh(lines: Lines) -> str:
    cases = []
    for place, words in lines.items():
        typed, kinds = _split(words)
        helped = {word.partition("=")[0]: text for word, text in words.items()}
        listed = " ".join(_quoted(f"{word}:{helped[word]}", "'\\''") for word in typed)
        asked = f"; names={kinds[0]}" if kinds else ""
        cases.append(f'        "{" ".join(place)}") offered=({listed}){asked} ;;')
    few = [f'        "{line}") compadd {values}; return ;;' for line, values in _choices(lines).items()]
    return f"""_bayplan() {{
    local place="" word names="" i
    local -a offered found
    for ((i = 2; i < CURRENT; i++)); do
        word=$words[i]
        case $word in
            --root|--state|-f|--file) ((i++)) ;;
            -*) ;;
            *)
                if [[ -z $place ]]; then
                    place=$word
                else
                    [[ "{_verbs(lines)}" == *" $place $word "* ]] && place="$place $word"
                    break
                fi
                ;;
        esac
    done
    case "$place $words[CURRENT-1]" in
{chr(10).join(few)}
    esac
    case $place in
{chr(10).join(cases)}
    esac
    if [[ -n $names && $PREFIX != -* ]]; then
        found=(${{(f)"$(bayplan completion --names $names 2>/dev/null)"}})
        (( ${{#found}} )) && compadd -a found
    fi
    _describe bayplan offered
    [[ $PREFIX != -* && -z $names ]] && _files
    return 0
}}
if [[ $funcstack[1] == _bayplan ]]; then _bayplan "$@"; else compdef _bayplan bayplan; fi
"""


def _fished(text: str) -> str:
    return _quoted(text, "\\'")


def _fish(lines: Lines) -> str:
    out = ["complete -c bayplan -f"]
    for place, words in lines.items():
        if not place:
            where = "__fish_use_subcommand"
        elif len(place) == 1:
            below = " ".join(other[1] for other in lines if len(other) == 2 and other[0] == place[0])
            where = f"__fish_seen_subcommand_from {place[0]}" + (
                f"; and not __fish_seen_subcommand_from {below}" if below else ""
            )
        else:
            where = f"__fish_seen_subcommand_from {place[0]}; and __fish_seen_subcommand_from {place[1]}"
        for word, text in words.items():
            lead = f"complete -c bayplan -n {_fished(where)}"
            about = f" -d {_fished(text)}" if text else ""
            if word.startswith("@"):
                out.append(f"{lead} -a '(bayplan completion --names {word[1:]} 2>/dev/null)'")
            elif word.startswith("--"):
                name, takes_value, values = word[2:].partition("=")
                takes = (" -r -F" if f"--{name}" in _FILES else " -x") if takes_value else ""
                takes += f" -a {_fished(values.replace('|', ' '))}" if values else ""
                out.append(f"{lead} -l {name}{takes}{about}")
            elif word.startswith("-"):
                out.append(f"{lead} -s {word[1:].partition('=')[0]}{about}")
            else:
                out.append(f"{lead} -a {_fished(word)}{about}")
    return "\n".join(out) + "\n"
