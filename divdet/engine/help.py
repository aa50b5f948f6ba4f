"""What ``--help`` prints: jsonargparse's text, in a user's words."""

import re
from argparse import Action

from jsonargparse import DefaultHelpFormatter

_TYPE = re.compile(r" \((?:type: .*?, )?default: (.*)\)$", re.DOTALL)
_EMPTY = ("null", "[]", "{}")  # the description says what is done by default


class HelpFormatter(DefaultHelpFormatter):
    """Descriptions and defaults, without Python's types, and each option under one name."""

    def _expand_help(self, action: Action) -> str:
        text = super()._expand_help(action).replace("``", "")  # of docstrings
        if text == "Path to a configuration file.":  # a section
            fields = "all of these fields, as {name: value}"
            return f"a path, as --data.path; or {fields}" if action.dest == "data" else fields
        return _TYPE.sub(_default, text)

    def _format_action_invocation(self, action: Action) -> str:
        text = super()._format_action_invocation(action)
        return re.sub(r", --[\w.]+\+ \S+$", "", text)  # --name+ VALUE, which adds to a list


def _default(found: re.Match) -> str:
    value = found[1]
    if value in _EMPTY:
        return ""
    plain = {"True": "true", "False": "false"}.get(value) or re.sub(r"[\[\]' ]", "", value)
    return f" (default: {plain})"
