"""Small data and a small network that the tests share."""
import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading

import make_sample
import numpy as np
import pytest
import yaml

from core.config import Config
from core.engines.devices import Device
from core.io.logs import logger

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
SCRIPTS = sorted(name for name in os.listdir(ROOT) if name.endswith(".py"))
CPUS = [Device("mxnet", "cpu", number) for number in range(3)]

TINY = {"width": 4, "units": (1, 1, 1, 1), "head_channels": 8, "head_dilation": 2, "global_channels": 8, "dropout": 0.0,
        "crop_size": 32, "batch_size": 4, "init_epoch_size": 3, "final_epoch_size": 3, "max_epoch": 3,
        "learning_rate": 0.01}


@pytest.fixture(autouse=True)
def own_log():
    """Each test logs as if it was the first one, whatever `start_log` did in those before it."""
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    for handler in set(logger.handlers) - set(before[0]):
        handler.close()
    logger.handlers[:], logger.propagate, level = before
    logger.setLevel(level)


@pytest.fixture
def tiny(tmp_path):
    """Config of a network of a few thousand parameters, below an empty folder."""
    return Config(root=str(tmp_path), **TINY)


@pytest.fixture
def sample(tmp_path):
    """Folder with a data set of 10 web images, 4 SBD images and 4 + 3 VOC images, drawn again for each test."""
    return draw_sample(tmp_path)


@pytest.fixture
def prepared(sample, tiny):
    """Config as `tiny`, of the folder of `sample`, in which create_dataset.py has run."""
    from core.dataset.create import create_dataset
    create_dataset(tiny, 1)
    return tiny


def draw_sample(folder):
    make_sample.make_web(str(folder / "dataset"), 0, 1, "web_labels")
    make_sample.make_voc(str(folder / "dataset"), 0, 4, 4, 3)
    return folder


@contextlib.contextmanager
def largest_file(size):
    """Let this process write files of at most `size` bytes in the block: beyond, the disk is full for it."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:  # before pytest itself writes again
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.fixture(scope="session")
def shared_server():
    from web_server import WebServer
    server = WebServer()
    yield server
    server.end()


@pytest.fixture
def server(shared_server, monkeypatch):
    """A web server that misbehaves, asked again without waiting."""
    for limit, seconds in (("_BACK_OFF", 0.01), ("_TIMEOUT", 4.0), ("_TOTAL_TIME", 5.0)):
        monkeypatch.setattr(f"core.web.downloader.{limit}", seconds)
    for seen in ("hits", "times", "agents", "asked", "files"):
        getattr(shared_server, seen).clear()
    shared_server.streamed = 0
    return shared_server


@pytest.fixture
def web_config(tmp_path):
    """Settings with which the local server answers fast."""
    from fetching import SETTINGS
    return Config(root=str(tmp_path), **SETTINGS)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def untrained(tiny):
    """Config as `tiny`, with a snapshot of epoch 2 of both models whose random weights tell classes apart."""
    save_untrained(tiny)
    return tiny


def save_untrained(config):
    """Save a snapshot of epoch 2 of both models whose random weights tell classes apart."""
    from core.engines.mxnet.network import inference_symbol
    from core.network.fcn import parameter_shapes
    from core.network.snapshots import save_snapshot
    rng = np.random.default_rng(3)
    for model in ("init", "final"):
        parts = parameter_shapes(model, config)
        values = [{name: _untrained(rng, name, shape).astype(np.float32) for name, shape in part.items()}
                  for part in parts]
        save_snapshot(config.layout, model, 2, config, inference_symbol(model, config).tojson(), *values)


def _untrained(rng, name, shape):
    if name.endswith(("_gamma", "_moving_var")):
        return np.ones(shape)
    if name.endswith(("_beta", "_bias", "_moving_mean")):
        return np.zeros(shape)
    return rng.normal(0, 0.02 if name == "conv1_weight" else np.sqrt(2 / np.prod(shape[1:])), shape)


def tiny_settings(folder):
    """Path of the folder's --config file of the tiny network."""
    path = folder / "tiny.yaml"
    if not path.exists():
        path.write_text(yaml.safe_dump({key: list(value) if isinstance(value, tuple) else value
                                        for key, value in TINY.items()}))
    return str(path)


def run_script(folder, name, *flags, status=0, killed_at=None, start=(), env=None):
    """Run a script of the project on the tiny network, in and below `folder`; returns stdout + stderr.

    Args:
        status: of its end; 2 comes with one line on stderr.
        killed_at: a moment of helpers/killing.py, at which the process is killed.
        start: flags of Python before the script.
    """
    killer = [os.path.join(ROOT, "tests", "helpers", "killing.py"), killed_at] if killed_at else []
    command = [*start, *killer, os.path.join(ROOT, name), "--config", tiny_settings(folder), *flags]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, cwd=str(folder), timeout=300, env=env)
    assert done.returncode == (-signal.SIGKILL if killed_at else status), done.stdout + done.stderr
    if status == 2:
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith(os.path.basename(name) + ": error: ")
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; the test is skipped where it is not installed."""
    from pages import start_browser
    started = start_browser()
    yield started
    started.quit()


@pytest.fixture
def serve():
    """Function that serves a web application, whose token is "secret", and gives its address."""
    from werkzeug.serving import make_server
    servers = []

    def start(app):
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/secret/"
    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()
