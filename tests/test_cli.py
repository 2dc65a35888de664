"""What all scripts do with flags that are wrong, with an interruption and without a console."""
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPTS

from core.cli import Parser, run
from core.config import Config
from core.errors import UserError
from core.io.logs import logger, start_log


@pytest.mark.parametrize("flags, message", [
    (("--output", ""), "--output is empty"), (("--output=",), "--output is empty"), (("",), "an argument is empty"),
    (("a", "--outptu", "b"), "did you mean --output?"), (("--", ""), None)])
def test_wrong_flags_are_reported_in_one_line(capsys, flags, message):
    parser = Parser("x.py")
    parser.add_argument("--output")
    parser.add_argument("paths", nargs="*")
    if message is None:
        assert parser.parse_args(flags).paths == [""]
        return
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(flags)
    message_text = capsys.readouterr().err
    assert ended.value.code == 2 and message_text.count("\n") == 1 and message in message_text


@pytest.mark.parametrize("way_on", [(), ("--resume continues",)])
def test_an_interruption_reports_the_way_on(capsys, way_on):
    def main():
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as ended:
        run(main, *way_on)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted; %s\n" % (way_on or ("the same command continues from here",))


def test_a_mistake_is_reported_where_standard_output_is_closed(capsys, monkeypatch):
    def main():
        raise UserError("the mistake")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2 and "error: the mistake" in capsys.readouterr().err


def test_training_says_that_it_needs_resume():
    code = "import sys, core.cli\ncore.cli.run = lambda main, way_on: print(way_on)\n" \
           "exec(compile(open('train_seg_model.py').read(), 'x', 'exec'), {'__name__': '__main__'})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, universal_newlines=True)
    assert "--resume" in done.stdout


def run_without(package, script, *flags):
    """Run a script in a Python that lacks a package."""
    code = "import runpy, sys; sys.modules[sys.argv[1]] = None; sys.argv = sys.argv[2:]; sys.path.insert(0, '.'); " \
           "runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code, package, script, *flags], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_package_is_reported_in_one_line(script):
    done = run_without("numpy", script, "--help")
    assert done.returncode == 2 and done.stderr == (
        f"{script}: error: the package numpy is missing: pip install -r dependencies.txt, or activate the environment "
        "that has it\n")


@pytest.mark.parametrize("package", ["cv2", "yaml", "PIL", "tqdm"])
def test_each_missing_package_is_named(package):
    assert f"the package {package} is missing" in run_without(package, "create_dataset.py", "--jobs", "1").stderr


def test_a_missing_module_of_the_project_is_no_users_mistake():
    def main():
        import core.nothing  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        run(main)


NASTY = "\x1b[2Jname\x07\x9b1m\r\n\u202egnp.jpg"
SHOWN = r"\x1b[2Jname\x07\x9b1m\r\n\u202egnp.jpg"


def test_control_characters_of_names_are_escaped_in_errors(capsys):
    def main():
        raise UserError(f"{NASTY} can't be read".replace("\n", ""))
    with pytest.raises(SystemExit):
        run(main)
    with pytest.raises(SystemExit):
        Parser("x.py").parse_args([NASTY])
    shown = capsys.readouterr().err
    assert SHOWN.replace(r"\n", "") in shown and SHOWN in shown
    assert shown.count("\n") == 2 and shown.replace("\n", "").isprintable()


def test_control_characters_of_names_are_escaped_in_the_log(tmp_path, capsys):
    start_log(str(tmp_path / "x.log"), Config())
    logger.warning("%s is left out", NASTY)
    logger.warning("1_\udcff.jpg")
    text = (tmp_path / "x.log").read_text()
    for shown in (text, capsys.readouterr().out):
        assert f"{SHOWN} is left out\n" in shown and "1_\\udcff.jpg" in shown and shown.replace("\n", "").isprintable()
