"""The exception for mistakes that users can fix, and how text of any origin is shown."""
import re

# Control characters, which a terminal may obey, line separators, marks that change the direction of text, and bytes
# that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """A wrong input. The message says in one line what is wrong, where, and what to do.

    The scripts print the message on stderr, without a traceback, and exit with status 2.
    """


def printable(text: str) -> str:
    """Text, as of file names, with everything escaped that a terminal or a log would not show: \\x1b for ESC."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)
