"""Which engine computes: by what is installed, what serves the device, and what started the process."""
import os
import subprocess
import sys
import types

import pytest
from conftest import ROOT

from core.engines import chooser
from core.engines.chooser import choose_engine
from core.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """A machine by what is set: installed engines, whether MXNet's build serves the GPU, and torch's count of GPUs."""
    machine = types.SimpleNamespace(installed=["mxnet", "torch"], served=False, gpus=0, asked=[])

    def load(engine, name):
        machine.asked.append(engine)
        return types.SimpleNamespace(gpus=lambda: machine.gpus)
    monkeypatch.setattr(chooser.importlib.util, "find_spec", lambda name: name in machine.installed or None)
    monkeypatch.setattr(chooser, "serves", lambda numbers: machine.served)
    monkeypatch.setattr(chooser, "has_gpu", lambda: machine.gpus > 0)
    monkeypatch.setattr(chooser, "_other_gpu", lambda: False)
    monkeypatch.setattr(chooser, "load", load)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return machine


def test_auto_is_mxnet_where_it_serves_the_device_and_torch_where_it_does_not(machine):
    assert choose_engine("cpu") == ("mxnet", "the faster one on CPUs")
    assert choose_engine("0") == ("mxnet", "the faster one on CPUs") and not machine.asked  # nothing is imported
    machine.gpus = 1
    assert choose_engine("0") == ("torch", "as MXNet's build can't use this GPU")
    assert choose_engine("cpu:2")[0] == "mxnet"
    machine.served = True
    assert choose_engine("0,1") == ("mxnet", "the default")


def test_auto_computes_the_light_network_with_torch(machine):
    for device in ("0", "cpu"):
        assert choose_engine(device, backbone="efficientnet_lite2")[0] == "torch"
    for given, backbone in (("auto", ""), ("auto", "resnet50"), ("mxnet", "efficientnet_lite2")):
        assert choose_engine("cpu", given, backbone)[0] == "mxnet"
    machine.installed = ["mxnet"]
    assert choose_engine("cpu", backbone="efficientnet_lite2")[0] == "mxnet"


@pytest.mark.parametrize("engine, other", [("mxnet", "torch"), ("torch", "mxnet")])
def test_the_only_engine_is_taken_and_a_missing_one_is_named(machine, engine, other):
    machine.installed = [engine]
    assert choose_engine("0") == (engine, "the only one that is installed")
    assert choose_engine("0", engine) == (engine, "as set")
    with pytest.raises(UserError, match=f"is not installed: pip install .*or choose --engine {engine}"):
        choose_engine("0", other)
    machine.installed = []
    with pytest.raises(UserError, match="MXNet is not installed: pip install -r dependencies.txt, or -r dependencies"):
        choose_engine("cpu")


def test_processes_of_torchrun_take_torch(machine, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert choose_engine("cpu") == ("torch", "as torchrun started this")
    with pytest.raises(UserError, match="choose --engine torch"):
        choose_engine("cpu", "mxnet")


def test_no_engine_is_imported_before_it_is_chosen():
    code = ("import sys, core.cosegmentation.cosegment, core.evaluation.ranking, core.inference.predict_media\n"
            "import core.cosegmentation.feature_maps, core.inference.onnx_export, core.network.base_model\n"
            "import core.training.train, core.training.workers\n"
            "print([name for name in ('mxnet', 'torch') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE,
                          universal_newlines=True, timeout=100)
    assert done.stdout.strip() == "[]"
