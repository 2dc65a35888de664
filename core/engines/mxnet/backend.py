"""The one module that imports mxnet, and its devices and number formats.

MXNet 1.9.1, the last release, was written for older numpy and Python: see `old_names`. Only one thread may call MXNet.
"""
import ctypes
import os
import sys
from typing import List, Set

import joblib

from core.engines.devices import Device, check_numbers
from core.engines.mxnet.gpu_libraries import check_capabilities, has_gpu, prepare_gpu_build
from core.engines.mxnet.old_names import old_names
from core.errors import UserError
from core.io.logs import logger
from core.runtime.hardware import SLOW_BFLOAT16, cpu_flags, has_fast_bfloat16

os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
# Each device steps by itself and keeps its momentum where core.training.checkpoint can read it.
os.environ["MXNET_UPDATE_ON_KVSTORE"] = "0"
# Unset, MXNet takes half of the cores that it sees, for fear of hyper-threads.
os.environ.setdefault("OMP_NUM_THREADS", str(joblib.cpu_count(only_physical_cores=True)))

# Linux on x86-64, the only system whose CPU flags name AMX (arch/x86/include/uapi/asm/prctl.h).
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


def _enable_amx(flags: Set[str]) -> bool:
    """Let oneDNN use the tile registers for bfloat16, where the CPU has them and Linux grants them.

    Without the grant the first tile instruction would end the process (SIGILL).

    Returns:
        whether oneDNN will use them.
    """
    if not {"amx_tile", "amx_bf16"} <= flags:
        return False
    libc = ctypes.CDLL(None)
    if libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) != 0:
        return False
    return os.environ.setdefault("DNNL_MAX_CPU_ISA", "AVX512_CORE_AMX").upper() == "AVX512_CORE_AMX"


_HAS_AMX = _enable_amx(cpu_flags())
prepare_gpu_build()
try:
    with old_names():
        import mxnet as mx
        from mxnet.contrib import amp  # noqa: F401
except ImportError as error:
    then = "" if sys.version_info < (3, 13) else ", then: pip install --no-deps mxnet==1.9.1"
    raise UserError(f"{error}; the packages are installed by: pip install -r dependencies.txt{then}") from error
except OSError as error:  # a library that MXNet's needs
    raise UserError(f"MXNet can't be loaded: {error}; on Debian and Ubuntu: apt-get install libgomp1 libquadmath0; for "
                    "GPUs: pip install -r dependencies-gpu.txt") from error


def context(device: Device) -> mx.Context:
    return mx.gpu(device.number) if device.type == "gpu" else mx.cpu(device.number)


def process_devices(device_type: str, numbers: List[int]) -> List[Device]:
    """Devices of this process, as `engines.resolve_devices` gives them.

    Args:
        device_type: "cpu" or "gpu".
    """
    if device_type == "cpu":
        return [Device("mxnet", "cpu", number) for number in numbers]
    available = _gpus()
    if not available:
        hint = (" (the GPU of this machine needs the build of dependencies-gpu.txt, or torch: dependencies-torch.txt)"
                if has_gpu() else "")
        logger.info("no usable GPU for this build of MXNet: using the CPU%s", hint)
        return [Device("mxnet")]
    check_numbers(numbers, available)
    check_capabilities(numbers)
    return [Device("mxnet", "gpu", number) for number in numbers]


def resolve_dtype(text: str, devices: List[Device], fastest: bool = False, backbone: str = "resnet50") -> str:
    """As `engines.resolve_dtype`."""
    on_cpu, fast = any(device.type == "cpu" for device in devices), has_fast_bfloat16(_HAS_AMX, backbone)
    if text == "tf32":
        raise UserError("--dtype tf32 is for --engine torch; choose float32 or another type")
    if text == "float16" and on_cpu:
        raise UserError("--dtype float16 is for GPUs; on a CPU choose float32 or bfloat16")
    if text == "bfloat16" and not on_cpu:
        raise UserError("--dtype bfloat16 is for CPUs; on a GPU choose float32 or float16")
    if text == "bfloat16" and "avx512bw" not in cpu_flags():
        raise UserError("--dtype bfloat16 needs a CPU with AVX-512; choose float32")
    if text == "bfloat16" and backbone != "resnet50":
        raise UserError("--dtype bfloat16 is for ResNet-50: MXNet computes depthwise convolutions in float32; choose "
                        "float32, or --engine torch")
    if text != "auto":
        logger.info("computing in %s, as set%s", text, SLOW_BFLOAT16 if text == "bfloat16" and not fast else "")
        return text
    if on_cpu and fast and fastest:
        logger.info("computing in bfloat16, about twice as fast as float32 on this CPU or faster; --dtype float32 "
                    "gives the scores of other machines")
        return "bfloat16"
    logger.info("computing in float32, for the same results on every machine%s",
                "; on this CPU --dtype bfloat16 is about twice as fast or faster" if on_cpu and fast else "")
    return "float32"


def _gpus():
    try:
        return mx.context.num_gpus()
    except mx.MXNetError as error:
        logger.info("MXNet can't query the GPUs: %s", str(error).strip().splitlines()[-1])
        return 0
