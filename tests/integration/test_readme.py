"""The README and docs/ name every flag, setting and file that there is."""
import functools
import os
import re
import subprocess
import sys

import make_commands
import make_configuration
import pytest
from conftest import ROOT, SCRIPTS


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def pages():
    names = ["README.md"] + [os.path.join(folder, "README.md") for folder in ("dataset", "models", "snapshots")]
    return names + [os.path.join("docs", name) for name in sorted(os.listdir(os.path.join(ROOT, "docs")))
                    if name.endswith(".md")]


def flags_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))


@functools.lru_cache(maxsize=None)
def help_of(script):
    return subprocess.run([sys.executable, os.path.join(ROOT, script), "--help"], stdout=subprocess.PIPE, check=True,
                          universal_newlines=True, env=dict(os.environ, COLUMNS="1000")).stdout  # nothing hyphenated


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_in_the_command_reference(script):
    section = re.search(r"\n## %s\n(.*?)(\n## |$)" % re.escape(script), read("docs/commands.md"), re.DOTALL).group(1)
    assert "settings:" in help_of(script)
    flags = flags_in(help_of(script)) - {"--help"}
    assert {"--config", "--root", "--seed"} <= flags
    flags -= {"--config", "--root", "--seed"}
    assert flags and not flags - flags_in(section)


def test_every_command_in_the_pages_has_known_flags():
    for page in pages():
        for script, flags in re.findall(r"python ([a-z_/]+\.py)([^`|\n]*)", read(page)):
            assert not flags_in(flags) - flags_in(help_of(script)), (page, script)


def test_every_flag_in_docs_exists():
    benchmarks = re.findall(r"benchmarks/\w+\.py", read("docs/results.md"))
    known = {flag for script in (*SCRIPTS, *benchmarks) for flag in flags_in(help_of(script))}
    known |= {"--nworkers", "--nthreads", "--no-requeue", "--no-deps", "--index-url"}  # of Dask, Slurm and pip
    known |= {"--nnodes", "--nproc", "--rdzv"}  # of torchrun, up to their underscores
    for page in pages():
        assert not flags_in(read(page)) - known, page


def test_every_module_and_script_that_the_pages_name_exists():
    pattern = r"(?:`|python |bash )((?:(?:core|demo|benchmarks|tests)/)?[\w/]+\.(?:py|sh|ipynb))\b"
    named = [(page, path) for page in pages() for path in re.findall(pattern, read(page))]
    assert {"README.md", "docs/method.md", "docs/web-images.md"} < {page for page, _ in named}
    assert [pair for pair in named if not os.path.exists(os.path.join(ROOT, pair[1]))] == []


def test_messages_that_the_pages_quote_exist():
    code = ""
    for folder, _, names in os.walk(os.path.join(ROOT, "core")):
        code += "".join(read(os.path.join(folder, name)) for name in names if name.endswith(".py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that go on in the next line
    quotes = [(page, quote.strip(". ")) for page in ("docs/faq.md", "docs/faults.md")
              for quote in re.findall(r'[*]{1,2}"([^"]+)"', read(page))]
    assert len(quotes) >= 3
    assert [pair for pair in quotes if pair[1] not in code] == []


def test_the_readme_fits_on_a_few_screens_and_its_pictures_are_small():
    assert len(read("README.md").splitlines()) <= 150
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", read("README.md"))
    assert len(pictures) >= 2
    assert all(os.path.getsize(os.path.join(ROOT, path)) < 200_000 for path in pictures)


def test_the_page_of_settings_is_current():
    assert read("docs/configuration.md") == make_configuration.configuration_page(), \
        "run: python docs/make_configuration.py"


def test_the_command_reference_is_current_and_the_same_on_every_machine(monkeypatch):
    monkeypatch.setenv("FLICKR_API_KEY", "secret")
    assert read("docs/commands.md") == make_commands.commands_page(), "run: python docs/make_commands.py"
    assert not re.search(r"here \d", read("docs/commands.md"))


def headings(page):
    return {re.sub(r"[^a-z0-9_ -]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
            for line in read(page).splitlines() if line.startswith("#")}


def test_links_between_pages_lead_somewhere():
    for page in pages():
        for target in re.findall(r"\]\(([^)]+)\)", read(page)):
            if not target.startswith("http"):
                path, _, heading = target.partition("#")
                path = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
                assert os.path.exists(os.path.join(ROOT, path)), (page, target)
                assert not heading or heading in headings(path), (page, target)
