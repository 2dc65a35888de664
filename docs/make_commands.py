#!/usr/bin/env python3
"""Write docs/commands.md from the scripts' command-line parsers: python docs/make_commands.py"""
import argparse
import importlib
import os
import re
import sys
from typing import List
from unittest import mock

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(FOLDER)
sys.path.insert(0, ROOT)
from core.cli import Parser  # noqa: E402
from core.io.files import write_text  # noqa: E402

PATH = os.path.join(FOLDER, "commands.md")
ORDER = ("fetch_web_images", "convert_base_model", "create_web_masks", "eval_web_masks",
         "review_web_masks", "export_masks", "create_dataset",
         "train_seg_model", "eval_seg_model", "eval_loop", "est_voc_train_masks", "predict", "report",
         "export_onnx")  # that of a full-size run; scripts that are not named here follow
SHARED = ("help", "config", "root", "seed")
PLAIN_GROUPS = ("positional arguments", "optional arguments", "options")  # argparse's names, before and from 3.10 on
HEAD = """# Commands

Every script prints this with `--help`. An unknown flag is an error that names the nearest one. Flags win over the
`--config` file, which wins over the defaults; [configuration.md](configuration.md) lists all settings.

"""
SHARED_HEAD = """## Flags of all scripts

"""


class _Parsed(Exception):
    """Carries a script's parser out of its main function."""


def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser of a script in the root folder, named without its ending. The script does not run."""
    def stop(parser, *_):
        raise _Parsed(parser)
    with mock.patch.object(Parser, "parse_args", stop):
        try:
            importlib.import_module(script).main()
        except _Parsed as parsed:
            return parsed.args[0]
    raise AssertionError(f"{script}.py parses no flags")


def scripts() -> List[str]:
    """Names of all scripts in the root folder, without their ending, in the order of the page."""
    names = [name[:-3] for name in os.listdir(ROOT) if name.endswith(".py")]
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def commands_page() -> str:
    """The page as text: a section for each script, with a table of its flags."""
    parsers = {name: parser_of(name) for name in scripts()}
    shared = [action for action in parsers["train_seg_model"]._actions if action.dest in SHARED]
    lines = [HEAD + "\n".join(f"- [`{name}.py`](#{name}py)" for name in parsers) + "\n", SHARED_HEAD + _table(shared)]
    for name, parser in parsers.items():
        lines += [f"## {name}.py\n", _description(parser.description)]
        groups = {}
        for group in parser._action_groups:
            title = group.title if group.title not in PLAIN_GROUPS else ""
            groups.setdefault(title, []).extend(action for action in group._group_actions
                                                if action.dest not in SHARED and action.help != argparse.SUPPRESS)
        for title, actions in groups.items():
            if actions:
                lines.append((f"**{title.capitalize()}**\n\n" if title else "") + _table(actions))
    return "\n".join(lines).rstrip() + "\n"


def _description(text: str) -> str:
    """Markdown of a description: its indented lines are commands."""
    return re.sub("(?m)^  (?=\\S)", "    ", text.strip()) + "\n"


def _table(actions) -> str:
    lines = ["| flag | meaning |", "|---|---|"]
    return "\n".join(lines + [_row(action) for action in actions]) + "\n"


def _row(action: argparse.Action) -> str:
    value = "|".join(map(str, action.choices)) if action.choices else action.metavar or ""
    flag = ", ".join(action.option_strings)
    if value and action.nargs != 0:
        flag = f"{flag} {value}".strip() + ("..." if action.nargs in ("+", "*", argparse.REMAINDER) else "")
    meaning = action.help.replace(", here %(default)s", "") % vars(action)  # without this machine's number of CPUs
    if action.required and action.option_strings:
        meaning += " (required)"
    return "| `{}` | {} |".format(flag.replace("|", "\\|"), re.sub(r"([|<*])", r"\\\1", meaning))


if __name__ == "__main__":
    write_text(PATH, commands_page())
