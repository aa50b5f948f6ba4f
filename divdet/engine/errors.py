"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Bad usage or bad input: the text is one line that names the file or the key and says what to do.

    The command lines print it as ``error: <text>`` and exit with code 2, without a traceback. What of a file's own text
    would break the line, or a terminal, is escaped.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's error anew, with its whole traceback before the text.
        if message.startswith("Caught UserError in DataLoader worker"):
            message = message.rstrip().rsplit("\n", 1)[-1].split("UserError: ", 1)[-1]
        super().__init__(printable(message))


def printable(text: str) -> str:
    """``text`` as one line that a terminal shows as it is: other characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
