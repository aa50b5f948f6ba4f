"""The exception for errors that the user can fix."""


class UserError(Exception):
    """Bad usage or bad input, in one line that names the file or the key and says what to do.

    Commands print it as ``error: <text>`` and exit with code 2, without a traceback. Unprintable characters
    are escaped.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's error again with the traceback in front of the text.
        if message.startswith("Caught UserError in DataLoader worker"):
            message = message.rstrip().rsplit("\n", 1)[-1].split("UserError: ", 1)[-1]
        super().__init__(printable(message))


def printable(text: str) -> str:
    """``text`` as one line, with unprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
