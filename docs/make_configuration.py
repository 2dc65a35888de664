#!/usr/bin/env python3
"""Write docs/configuration.md from the fields of core.config.Config: python docs/make_configuration.py"""
import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(FOLDER, ".."))
import core.config  # noqa: E402
from core.io.files import write_text  # noqa: E402

PATH = os.path.join(FOLDER, "configuration.md")
HEAD = """# Settings

A `--config FILE.yaml` may contain any of these; a list is written `[1, 2]`. Flags win over the file, which wins over
the defaults. The defaults are the published values. Each script's log names the settings that differ from them.

    crop_size: 160
    scales: [0.7, 1.0, 1.3]
"""


def configuration_page():
    """The page as text: a table for each group of fields."""
    lines = [HEAD]
    for title, names in _groups():
        lines += ["## " + title, "", "| setting | default | range | meaning |", "|---|---|---|---|"]
        lines += [_row(core.config.FIELDS[name]) for name in names] + [""]
    return "\n".join(lines).rstrip() + "\n"


def _groups():
    """(title, names) of each group: its first field has the title."""
    groups = []
    for name, field in core.config.FIELDS.items():
        if field.metadata["group"]:
            groups.append((field.metadata["group"], []))
        groups[-1][1].append(name)
    return groups


def _row(field):
    limits = field.metadata
    words = [f"{sign} {limits[key]}" for key, sign in (("at_least", ">="), ("above", ">"), ("at_most", "<="))
             if limits[key] is not None]
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    shown = "VOC's 20 and `bk`" if field.name == "classes" else f"`{default}`"
    words = words or [f"`{choice}`" for choice in limits["choices"] or ()]
    return f"| `{field.name}` | {shown} | {', '.join(words)} | {field.metadata['help']} |"


if __name__ == "__main__":
    write_text(PATH, configuration_page())
