"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Bad usage or bad input: the text is one line that names the file or the key and says what to do.

    The command lines print it as ``error: <text>`` and exit with code 2, without a traceback.
    """
