"""Command-line parts that all scripts share."""
import argparse
import difflib
import os
import re
import sys

from core.config import FIELDS, item_type, make_config
from core.errors import UserError, printable
from core.runtime.hardware import available_cpus


class Parser(argparse.ArgumentParser):
    """Tells a wrong flag in one line, with the nearest right one, and an empty value."""

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        own = args[:args.index("--")] if "--" in args else args
        for previous, text in zip([""] + own, own):
            if not text or re.fullmatch("--[a-z-]+=", text):
                self.error("%s is empty: perhaps a variable of the shell was not set"
                           % (text[:-1] or (previous if previous.startswith("--") else "an argument")))
        return super().parse_known_args(args, namespace)

    def error(self, message):
        if message.startswith("unrecognized arguments:"):
            flag = message.split(":", 1)[1].split()[0].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, 1, 0.5)
            message += "; did you mean %s?" % near[0] if near else ""
        self.exit(2, f"{self.prog}: error: {printable(message)} (--help lists the flags)\n")


def make_parser(description, settings=()):
    """Parser with --config, --root, --seed and a flag for each named setting.

    Args:
        description: what the script does, for --help.
        settings: names of fields of Config to offer as flags, e.g. "batch_size" as --batch-size.
    """
    parser = Parser(description=description, allow_abbrev=False)
    group = parser.add_argument_group("settings", "Flags win over the --config file, which wins over the defaults.")
    group.add_argument("--config", metavar="FILE", help="YAML file with any of the settings in docs/configuration.md")
    for name in ("root", "seed") + tuple(settings):
        field = FIELDS[name]
        kind, many = item_type(field)
        default = ",".join(map(str, field.default)) if many else field.default
        group.add_argument("--" + name.replace("_", "-"), metavar=kind.__name__.upper() + (",..." if many else ""),
                           type=_list_of(kind) if many else kind, choices=field.metadata["choices"],
                           help="%s (default: %s)" % (field.metadata["help"].replace("%", "%%"), default))
    return parser


def positive(text):
    """A whole number above 0, for argparse."""
    return _number(text, int, lambda number: number >= 1, "a whole number above 0")


def non_negative(text):
    """A finite number of at least 0, for argparse."""
    return _number(text, float, lambda number: 0 <= number < float("inf"), "a finite number of at least 0")


def hours(text):
    """A number of hours up to a year, for argparse."""
    return _number(text, float, lambda number: 0 <= number <= 8760, "a number of hours from 0 to 8760")


def _number(text, kind, fits, expected):
    try:
        number = kind(text)
    except ValueError:
        number = float("nan")
    if not fits(number):
        raise argparse.ArgumentTypeError("%s is expected, not %s" % (expected, text))
    return number


def add_jobs(parser):
    parser.add_argument("--jobs", type=positive, default=available_cpus(), metavar="N",
                        help="processes (default: one for each CPU, here %(default)s)")


def add_flip(parser):
    parser.add_argument("--flip", action="store_true", help="add the scores of the mirrored image at every scale")


def check_scales(args):
    """Raise UserError if the --scales are given that only --ms uses."""
    if args.scales and not args.ms:
        raise UserError("--scales are those that --ms adds up: pass --ms too, or leave them out")


def _list_of(kind):
    def parse(text):
        return tuple(kind(item) for item in text.split(","))
    parse.__name__ = "list of %s" % kind.__name__  # argparse names it in its error message
    return parse


def parse_config(args, **overrides):
    """Config from the flags of `make_parser`, and from overrides that are not None."""
    return make_config(args.config, **{**{name: getattr(args, name, None) for name in FIELDS}, **overrides})


def run(main, way_on="the same command continues from here"):
    """Run a script's main function; a user's mistake ends in one line on stderr and exit status 2.

    Args:
        way_on: what to tell a user who interrupts the script.
    """
    try:
        try:
            sys.exit(main())
        except MemoryError as error:
            raise UserError("the memory ran out: %s" % (str(error) or "smaller images or fewer --jobs need less")
                            ) from error
    except UserError as error:
        message = "%s: error: %s" % (os.path.basename(sys.argv[0]), error)
        if sys.stdout:  # None where the caller closed it
            sys.stdout.flush()
        print(printable(" ".join(message.split("\n"))), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; " + way_on, file=sys.stderr)
        sys.exit(130)
