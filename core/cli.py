"""Command-line parts that all scripts share.

It imports the standard library only, and scripts import the rest of core in their main function: so `run` can report
a package that is missing.
"""
import argparse
import difflib
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Callable, Iterable, List, NoReturn, Optional, Sequence, Tuple

from core.errors import UserError, printable

if TYPE_CHECKING:
    from core.config import Config


class Parser(argparse.ArgumentParser):
    """Reports a wrong flag, with the nearest right one, or an empty value in one line."""

    def parse_known_args(self, args: Optional[Iterable[str]] = None, namespace: Any = None) -> Tuple[Any, List[str]]:
        args = sys.argv[1:] if args is None else list(args)
        flags = args[:args.index("--")] if "--" in args else args
        for previous, text in zip([""] + flags, flags):
            if not text or re.fullmatch("--[a-z-]+=", text):
                flag = text[:-1] or (previous if previous.startswith("--") else "an argument")
                self.error(f"{flag} is empty: perhaps a shell variable was not set")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            flag = message.split(":", 1)[1].split()[0].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, 1, 0.5)
            message += f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"{self.prog}: error: {printable(message)} (--help lists the flags)\n")


def make_parser(description: str, settings: Sequence[str] = ()) -> Parser:
    """Parser with --config, --root, --seed and a flag for each named setting."""
    from core.config import FIELDS, item_type
    parser = Parser(description=description, allow_abbrev=False)
    group = parser.add_argument_group("settings", "Flags win over the --config file, which wins over the defaults.")
    group.add_argument("--config", metavar="FILE", action="append", default=[],
                       help="YAML file with any of the settings in docs/configuration.md; of several the last wins")
    for name in ("root", "seed") + tuple(settings):
        field = FIELDS[name]
        value_type, many = item_type(field)
        default: Any = field.default
        default = ",".join(map(str, default)) if many else default
        group.add_argument("--" + name.replace("_", "-"), type=_list_of(value_type) if many else value_type,
                           metavar=value_type.__name__.upper() + ",..." * many, choices=field.metadata["choices"],
                           help=f"{field.metadata['help'].replace('%', '%%')} (default: {default})")
    return parser


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    return _number(text, int, lambda number: number >= 1, "a whole number above 0")


def non_negative(text: str) -> float:
    """A finite number of at least 0, for argparse."""
    return _number(text, float, lambda number: 0 <= number < float("inf"), "a finite number of at least 0")


def _number(text, value_type, fits, expected):
    try:
        number = value_type(text)
    except ValueError:
        number = float("nan")
    if not fits(number):
        raise argparse.ArgumentTypeError(f"{expected} is expected, not {text}")
    return number


def add_jobs(parser: argparse.ArgumentParser) -> None:
    from joblib import cpu_count
    parser.add_argument("--jobs", type=positive, default=cpu_count(), metavar="N",
                        help="processes (default: one for each CPU, here %(default)s)")


def add_devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", default="0", metavar="DEVICES",
                        help="GPU number, several such as 0,1 to share the images, or cpu (default: %(default)s)")


def add_snapshot(parser: argparse.ArgumentParser, model: Optional[str] = None, epoch: Optional[str] = None) -> None:
    """Add --model, --epoch and --snapshot, for `ranking.choose_snapshot`; the defaults are only told."""
    from core.config import MODELS
    group = parser.add_argument_group("network")
    group.add_argument("--model", choices=MODELS, help="model to use" + (f" (default: {model})" if model else ""))
    group.add_argument("--epoch", metavar="X", help="epoch of the snapshot; or newest; or best, the first in "
                       "eval_loop.py's ranking" + (f" (default: {epoch})" if epoch else ""))
    group.add_argument("--snapshot", metavar="FILE", help="a snapshot from anywhere, in place of --model and --epoch")


def add_ms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ms", action="store_true", help="sum the scores over --scales")


def add_crf(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--crf", action="store_true", help="refine the scores with a dense CRF")


def check_scales(args: argparse.Namespace) -> None:
    """Raise UserError if the --scales are given that only --ms uses."""
    if args.scales and not args.ms:
        raise UserError("--scales is used by --ms only: pass --ms too, or leave it out")


def _list_of(value_type):
    def parse(text):
        return tuple(value_type(item) for item in text.split(","))
    parse.__name__ = f"list of {value_type.__name__}"  # argparse names it in its error message
    return parse


def parse_config(args: argparse.Namespace, **overrides: Any) -> "Config":
    """Config from the flags of `make_parser`, and from overrides that are not None."""
    from core.config import FIELDS, make_config
    return make_config(*args.config, **{**{name: getattr(args, name, None) for name in FIELDS}, **overrides})


def run(main: Callable[[], Optional[int]], way_on: str = "the same command continues from here") -> None:
    """Run a script's main function; a user's mistake ends in one line on stderr and exit status 2."""
    try:
        sys.exit(main())
    except MemoryError as error:
        _fail(f"the memory ran out: {str(error) or 'smaller images or fewer --jobs need less'}")
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] == "core":
            raise
        _fail(f"the package {error.name.split('.')[0]} is missing: pip install -r dependencies.txt, or activate the "
              "environment that has it")
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; " + way_on, file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> None:
    if sys.stdout:  # None where the caller closed it
        sys.stdout.flush()
    text = f"{os.path.basename(sys.argv[0])}: error: {message}"
    print(printable(" ".join(text.split("\n"))), file=sys.stderr)
    sys.exit(2)
