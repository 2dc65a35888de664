"""The exception for what a user can mend."""


class UserError(Exception):
    """A wrong input, told in one line: what is wrong, what was expected, how to mend it.

    The scripts print the message on stderr, without a traceback, and exit with status 2.
    """
