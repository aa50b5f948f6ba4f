"""What ``--help`` prints: jsonargparse's text, in a user's words."""

import re
from argparse import Action

from jsonargparse import DefaultHelpFormatter

_TYPE = re.compile(r" \((?:type: .*?, )?default: (.*)\)$", re.DOTALL)
_EMPTY = ("null", "[]", "{}")  # the description says what is done by default


class HelpFormatter(DefaultHelpFormatter):
    """Descriptions and defaults, without Python's types, and each option under one name."""

    def _expand_help(self, action: Action) -> str:
        text = super()._expand_help(action)
        if text == "Path to a configuration file.":  # a section
            return "a path: --data.path; or all fields, as {name: value}" * (action.dest == "data") or (
                "all of these fields, as {name: value}"
            )
        return _TYPE.sub(_default, text)

    def _format_action_invocation(self, action: Action) -> str:
        return re.sub(
            r", --[\w.]+\+ \S+$", "", super()._format_action_invocation(action)
        )  # lists: --name+ adds to them


def _default(found: re.Match) -> str:
    value = found[1]
    if value in _EMPTY:
        return ""
    plain = {"True": "true", "False": "false"}.get(value) or re.sub(r"[\[\]' ]", "", value)
    return f" (default: {plain})"
