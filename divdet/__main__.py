"""``divdet COMMAND …``, and ``python -m divdet COMMAND …``."""

import difflib
import sys

from divdet.commands import COMMANDS, main

# ultralytics' modes
_PEERS = {"train": "train-det", "val": "eval-det", "test": "eval-det", "eval": "eval-det", "predict": "detect"}


def run() -> None:
    """The console script: the first argument names the command."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: divdet COMMAND [options]; divdet COMMAND --help lists its options\n")
        print("\n".join(f"  {name:<18} {command.help}" for name, command in COMMANDS.items()))
        return
    if name == "--version":
        from importlib.metadata import version

        print(version("divdet"))
        return
    if name not in COMMANDS:
        close = _PEERS.get(name) or next(iter(difflib.get_close_matches(name, COMMANDS, n=1)), None)
        meant = f"did you mean {close}? There are " if close else "one of "
        print(f"error: divdet {name}: no such command; {meant}{', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    main(name, sys.argv[2:], f"divdet {name}")


if __name__ == "__main__":
    run()
