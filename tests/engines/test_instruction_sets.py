"""What oneDNN makes of the networks depends on the CPU's instruction sets: it must run, and be the same, with each."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from core.config import MODELS, Config
from core.engines.mxnet.steps import training_symbol
from core.network.fcn import BACKBONES, parameter_shapes
from core.network.snapshots import Snapshot
from core.runtime.hardware import cpu_flags

_BLOCK = 16  # channels that oneDNN keeps together with AVX-512
# Values of DNNL_MAX_CPU_ISA beside AVX2, and the flag of the CPUs that can take them; None: the variable is not set.
_INSTRUCTION_SETS = {"SSE41": "sse4_1", "AVX512_CORE": "avx512bw", "AVX512_CORE_VNNI": "avx512_vnni",
                     "AVX512_CORE_BF16": "avx512_bf16", "AVX512_CORE_AMX": "amx_bf16", None: "avx2"}

RUN = """
import sys
import numpy as np
from core.config import MODELS, Config
from core.engines.network import Network
from core.network import fcn
from core.engines.mxnet.steps import training_inputs, training_symbol
from core.engines.devices import Device
from core.engines.mxnet.backend import mx

def parameters(shapes):
    return {name: (rng.random(shape, np.float32) - 0.5) * np.float32((12 / np.prod(shape[1:])) ** 0.5)
            if name.endswith("weight") else np.full(shape, name.endswith(("gamma", "var")), np.float32)
            for name, shape in shapes.items()}

rng, results = np.random.default_rng(0), {}
for backbone in fcn.BACKBONES:
    for model in MODELS:
        config = Config(backbone=backbone, crop_size=64, batch_size=2, dropout=0)
        parts = [parameters(shapes) for shapes in fcn.parameter_shapes(model, config)]
        data = rng.normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
        labels = {"softmax_label": rng.integers(0, 21, (2, 64)), "g_logistic_label": rng.integers(0, 2, (2, 21, 1, 1))}
        inputs = [dict(shapes) for shapes in training_inputs(model, config, 2)]
        executor = training_symbol(model, config, 2).simple_bind(mx.cpu(), **inputs[0], **inputs[1])
        executor.copy_params_from(*({name: mx.nd.array(value) for name, value in part.items()} for part in parts))
        executor.forward(is_train=True, data=data, **{name: labels[name] for name in inputs[1]})
        executor.backward()
        name = f"{backbone} {model} "
        results[name + "probabilities"] = executor.outputs[0].asnumpy()
        for key in parts[0]:
            gradient = executor.grad_dict[key].asnumpy().ravel()
            results[name + key] = gradient[::len(gradient) // 1000 + 1]
        for dtype in sys.argv[2:]:
            network = Network(lambda ops: [fcn.probabilities(ops, model, config)], fcn.fold_batch_norms(*parts),
                              Device("mxnet"), dtype)
            results[name + dtype] = network.forward(data[0])()[0]
np.savez(sys.argv[1], **results)
"""


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_gradient_is_cut_within_a_block_of_channels(backbone, model):
    """That of a concatenation within another one comes without blocks."""
    symbol = training_symbol(model, Config(backbone=backbone), 1)
    nodes = json.loads(symbol.tojson())["nodes"]
    layers = symbol.get_internals()
    shapes = dict(zip(layers.list_outputs(), layers.infer_shape(data=(1, 3, 64, 64))[1]))
    for number, node in enumerate(nodes):
        users = {user["op"] for user in nodes if number in [source[0] for source in user["inputs"]]}
        if node["op"] == "Concat" and users != {"Concat"}:
            edges = np.cumsum([shapes[nodes[source[0]]["name"] + "_output"][1] for source in node["inputs"]])[:-1]
            assert not (edges % _BLOCK).any(), edges


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_map_of_the_exported_graph_is_joined_within_a_block_of_channels(backbone, model):
    onnx = pytest.importorskip("onnx")
    from core.inference.onnx_export import to_onnx
    config = Config(backbone=backbone)
    parameters = [{name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
                  for shapes in parameter_shapes(model, config)]
    graph = onnx.shape_inference.infer_shapes(to_onnx(Snapshot(config, model, 1, parameters, ""))).graph
    channels = {info.name: info.type.tensor_type.shape.dim[1].dim_value for info in graph.value_info
                if len(info.type.tensor_type.shape.dim) == 4}
    users = {name: node.op_type for node in graph.node for name in node.input}
    joins = [node for node in graph.node if node.op_type == "Concat" and node.input[0] in channels]
    assert bool(joins) == (backbone != "resnet50")
    for node in joins:
        edges = np.cumsum([channels[name] for name in node.input])[:-1]
        assert users[node.output[0]] == "Concat" or not (edges % _BLOCK).any(), edges


def run_with(instruction_set, folder):
    """Probabilities and gradients of all networks at their real widths, computed with these instructions."""
    environment = dict(os.environ, PYTHONPATH=ROOT, DNNL_MAX_CPU_ISA=instruction_set or "")
    if not instruction_set:
        del environment["DNNL_MAX_CPU_ISA"]
    narrow = ["bfloat16"] * ("avx512bw" in cpu_flags() and "512" in (instruction_set or "512"))
    path = str(folder / f"{instruction_set}.npz")
    done = subprocess.run([sys.executable, "-c", RUN, path, "float32", *narrow], env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert done.returncode == 0, done.stdout
    with np.load(path) as values:
        return dict(values)


@pytest.fixture(scope="module")
def with_avx2(tmp_path_factory):
    return run_with("AVX2", tmp_path_factory.mktemp("isa"))


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", _INSTRUCTION_SETS)
def test_every_network_trains_and_infers_with_every_instruction_set_alike(instruction_set, with_avx2, tmp_path):
    if _INSTRUCTION_SETS[instruction_set] not in cpu_flags():
        pytest.skip(f"left out: this CPU lacks {_INSTRUCTION_SETS[instruction_set]}")
    for name, found in run_with(instruction_set, tmp_path).items():
        expected = with_avx2[name.replace("bfloat16", "float32")]
        error, size = np.linalg.norm(found - expected), np.linalg.norm(expected)
        assert error <= (0.1 if "bfloat16" in name else 0.02) * size, f"{name}: {error} of {size}"
