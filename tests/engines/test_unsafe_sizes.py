"""The rule for input sizes that are not safe in bfloat16, and what it keeps from happening on a CPU with AMX."""
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import CPUS, ROOT
from networks import TRAINED as SMALL
from networks import random_parameters

from core.config import Config
from core.engines.mxnet import network as mxnet_network
from core.engines.mxnet.network import inference_symbol, unsafe_convolutions
from core.network import fcn
from core.runtime.hardware import cpu_flags

SIZES = range(8, 401, 8)


def cells(size, stride):
    return -(-size // stride)


@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
@pytest.mark.parametrize("model, strides", [("init", (4, 8)), ("final", (4, 8, 16, 32))])
def test_every_map_of_an_unsafe_size_is_found_at_every_stride(model, strides, stride_on):
    symbol = inference_symbol(model, Config(**SMALL, stride_on=stride_on), folded=True)
    found = set()
    for height in SIZES:
        for width in {height, 192, 256, 48}:
            products = {cells(height, stride) * cells(width, stride) for stride in strides}
            unsafe = unsafe_convolutions(symbol, (1, 3, height, width))
            assert bool(unsafe) == bool(products & {33, 36, 39, 42, 45, 48}), (height, width)
            found.update(unsafe)
    assert {"res2a_branch2c", "res3a_branch1", "score"} <= found
    assert {"res4a_branch1_g", "res5a_branch2c_g"} <= found or model == "init"
    assert not any(name.endswith(("2b", "2b_g", "conv1")) for name in found), "3 x 3 convolutions are safe"


def test_the_light_network_is_computed_in_float32_whatever_its_size():
    symbol = inference_symbol("final", Config(**{**SMALL, "backbone": "efficientnet_lite2"}), folded=True)
    found = unsafe_convolutions(symbol, (1, 3, 64, 64))  # no 1 x 1 convolution of an unsafe size
    assert len(found) == 21 + 6 and all("_depthwise" in name for name in found)


def test_the_images_of_a_batch_count_one_by_one():
    symbol = inference_symbol("init", Config(**SMALL))
    assert unsafe_convolutions(symbol, (2, 3, 48, 48)) == unsafe_convolutions(symbol, (1, 3, 48, 48)) != []
    assert unsafe_convolutions(symbol, (3, 3, 16, 16)) == []  # 3 x 12 cells


@pytest.mark.parametrize("dtype, computed_in_float32", [("bfloat16", [True, False, True, True, False]),
                                                        ("float16", [False] * 5)])
def test_a_network_bound_for_an_unsafe_size_computes_in_float32(rng, monkeypatch, dtype, computed_in_float32):
    """A network of twice the scores stands for the one in bfloat16, which this CPU may be unable to run."""
    monkeypatch.setattr(mxnet_network, "convert", lambda symbol, _: symbol * 2)
    config = Config(**SMALL)
    args, aux = ({name: value.astype(np.float32) for name, value in part.items()}
                 for part in random_parameters("final", config, rng))
    network = mxnet_network.Network(lambda ops: [fcn.probabilities(ops, "final", config)],
                                    fcn.fold_batch_norms(args, aux), CPUS[0], dtype)
    for size, in_float32 in zip([(48, 48), (64, 64), (192, 256), (192, 224), (200, 200)], computed_in_float32):
        total = network.forward(np.zeros((3,) + size, np.float32))()[0].sum(0)
        np.testing.assert_allclose(total, 1 if in_float32 else 2, rtol=1e-5)


SCORE = """
import numpy as np
from core.config import Config
from core.engines.mxnet import network as mxnet_network
from core.network import fcn
from core.inference.segmenter import Segmenter
from core.network.fcn import parameter_shapes
from core.network.snapshots import Snapshot
from core.engines.devices import Device
config, rng = Config(units=(1, 1, 1, 1)), np.random.default_rng(0)
parts = tuple({name: (rng.normal(0, 0.02, shape) + name.endswith(("gamma", "var"))).astype(np.float32)
               for name, shape in shapes.items()} for shapes in parameter_shapes(%r, config))
for size in %s:
    print(size, flush=True)
    segmenter = Segmenter(Snapshot(config, %r, 0, parts, ""), [Device("mxnet")], "bfloat16")
    for _ in range(2):
        assert np.isfinite(segmenter.scores(rng.integers(0, 256, (*size, 3)).astype(np.uint8))).all()
"""


@pytest.mark.slow
@pytest.mark.skipif("amx_bf16" not in cpu_flags(), reason="this CPU has no AMX")
@pytest.mark.parametrize("model", ["init", "final"])
def test_no_size_harms_a_process_on_a_cpu_with_amx(model):
    sizes = [(size, size) for size in SIZES] + [(192, 256), (224, 168), (48, 64), (72, 40), (160, 288)]
    done = subprocess.run([sys.executable, "-c", SCORE % (model, sizes, model)], env=dict(os.environ, PYTHONPATH=ROOT),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert done.returncode == 0, done.stdout
