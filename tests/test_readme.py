"""The README and docs/ name every flag, setting and file that there is."""
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT
from test_scripts import SCRIPTS

sys.path.insert(0, os.path.join(ROOT, "docs"))
import make_configuration  # noqa: E402


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_in_the_readme(script):
    text = subprocess.run([sys.executable, os.path.join(ROOT, script), "--help"], stdout=subprocess.PIPE, check=True,
                          universal_newlines=True).stdout
    flags = set(re.findall(r"--[a-z][a-z-]*", text))
    known = set(re.findall(r"--[a-z][a-z-]*", read("README.md")))
    assert {"--config", "--seed"} < flags and not flags - known


def test_every_command_in_the_readme_has_known_flags():
    for script, flags in re.findall(r"python ([a-z_/]+\.py)([^`|\n]*)", read("README.md")):
        text = subprocess.run([sys.executable, os.path.join(ROOT, script), "--help"], stdout=subprocess.PIPE, check=True,
                              universal_newlines=True).stdout
        for flag in re.findall(r"--[a-z][a-z-]*", flags):
            assert flag in text, (script, flag)


def test_the_page_of_settings_is_current():
    assert read("docs/configuration.md") == make_configuration.configuration_page(), \
        "run: python docs/make_configuration.py"


def test_links_between_pages_lead_somewhere():
    pages = ["README.md"] + [os.path.join(folder, "README.md") for folder in ("dataset", "models", "snapshots")]
    pages += [os.path.join("docs", name) for name in os.listdir(os.path.join(ROOT, "docs")) if name.endswith(".md")]
    headings = {re.sub(r"[^a-z0-9 -]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
                for line in read("README.md").splitlines() if line.startswith("#")}
    for page in pages:
        for target in re.findall(r"\]\(([^)]+)\)", read(page)):
            if target.startswith("#"):
                assert target[1:] in headings, (page, target)
            elif not target.startswith("http"):
                assert os.path.exists(os.path.join(ROOT, os.path.dirname(page), target.split("#")[0])), (page, target)
