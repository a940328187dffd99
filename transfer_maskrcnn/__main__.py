"""The command ``transfer-maskrcnn``, also ``python -m transfer_maskrcnn``: all of tools/ in one."""

from __future__ import annotations

import importlib
import sys

from transfer_maskrcnn import __version__
from transfer_maskrcnn.errors import nearest
from transfer_maskrcnn.table import COMMAND, COMMANDS

HELP = """usage: {command} COMMAND ...

Fine-tune a pretrained Mask R-CNN on your own dataset.

{commands}

{command} COMMAND --help says more of each, with examples.
{command} --version

In bash and zsh, the Tab key completes commands and options after
  eval "$({command} completion)"
"""
# The options are those that --help names. zsh takes bash's completions.
COMPLETION = r"""
[ -z "$ZSH_VERSION" ] || { autoload -Uz compinit bashcompinit; compinit; bashcompinit; }
_transfer_maskrcnn() {
  local words="NAMES" word=${COMP_WORDS[COMP_CWORD]}
  if [ "$COMP_CWORD" -gt 1 ]; then
    words=
    [[ $word != -* ]] || words=$("${COMP_WORDS[0]}" "${COMP_WORDS[1]}" --help 2>/dev/null |
      grep -oe "--[a-z-]*" | sort -u)
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _transfer_maskrcnn COMMAND
"""


def main() -> None:
    """Run the command that the command line names, or say which there are."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name == "help" and arguments:
        name, arguments = arguments[0], ["--help"]
    if name in COMMANDS:
        command = COMMANDS[name]
        sys.argv = [f"{COMMAND} {name}", *arguments]
        module = importlib.import_module(f"transfer_maskrcnn.commands.{command.module}")
        getattr(module, command.function)()
    elif name in ("-h", "--help", "help"):
        listed = "\n".join(f"  {name:13} {command.help}" for name, command in COMMANDS.items())
        print(HELP.format(command=COMMAND, commands=listed), end="")
    elif name == "--version":
        print(f"{COMMAND} {__version__}")
    elif name == "completion":
        print(COMPLETION.replace("NAMES", " ".join(COMMANDS)).replace("COMMAND", COMMAND).strip())
    else:
        hint = nearest(name, COMMANDS)
        print(f"error: no command {name!r}{hint}; {COMMAND} --help lists them", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
