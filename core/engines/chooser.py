"""Which engine computes, MXNet or torch, and on which devices. Imports neither before it is chosen."""
import importlib
import importlib.util
import os
import platform
from typing import Any, List, Tuple

from core.engines.devices import Device, parse_devices
from core.engines.mxnet.gpu_libraries import has_gpu, serves
from core.errors import UserError
from core.io.logs import logger
from core.runtime.hardware import cpu_flags

_INSTALL = {"mxnet": "dependencies.txt", "torch": "dependencies-torch.txt"}


def resolve_devices(text: str, engine: str = "auto", backbone: str = "") -> List[Device]:
    """Devices for a device flag; they and the engine are logged.

    Args:
        text: GPU numbers such as "0" or "0,1,2,3"; "cpu"; or "cpu:N" for N data-parallel CPU devices.
        engine: setting of that name.
        backbone: of the network, where it is known.

    Returns:
        list of Device, all of one engine. Where the engine has no usable GPU, GPU numbers become the CPU, which is
        logged. In a process that torchrun started, this process's device.

    Raises:
        UserError: the text is none of these, names a GPU that this machine lacks, or the engine is not installed.
    """
    device_type, numbers = parse_devices(text)
    engine, why = choose_engine(text, engine, backbone)
    devices = load(engine, "backend").process_devices(device_type, numbers)
    logger.info("device: %s; engine: %s, %s", ", ".join(map(str, devices)), engine, why)
    return devices


def choose_engine(text: str, engine: str = "auto", backbone: str = "") -> Tuple[str, str]:
    """("mxnet" or "torch", why) for the arguments of `resolve_devices`.

    "auto" is MXNet where it is installed and serves the devices, and torch where it is not or does not, or where it
    is faster: a training step of the light network on two cores took 0.91 s on an Intel Xeon with AVX-512, 1.21 to 1.42
    with MXNet, and 0.93 s on an AMD EPYC with AVX2, 1.48 with MXNet; on an AMD EPYC with AVX-512 its scores of an image
    took 0.030 s, 0.047 with MXNet, and its maps for the co-segmentation 0.065 s, 0.109 with MXNet.

    Raises:
        UserError: as `resolve_devices`.
    """
    device_type, numbers = parse_devices(text)
    mxnet_serves = device_type == "gpu" and serves(numbers)
    installed = [name for name in _INSTALL if importlib.util.find_spec(name)]
    started = "TORCHELASTIC_RUN_ID" in os.environ
    if engine == "auto":
        if started:
            engine, why = "torch", "as torchrun started this"
        elif len(installed) < 2:
            engine = installed[0] if installed else "mxnet"
            why = "the only one that is installed"
        elif mxnet_serves:
            engine, why = "mxnet", "the default"
        elif device_type == "gpu" and (has_gpu() or _other_gpu()) and load("torch", "backend").gpus():
            engine, why = "torch", "as MXNet's build can't use this GPU"
        elif backbone == "efficientnet_lite2":
            engine, why = "torch", f"the faster one for {backbone} on CPUs"
        else:
            engine, why = "mxnet", "the faster one on CPUs"
    else:
        why = "as set"
    if engine not in installed:
        package = {"mxnet": "MXNet", "torch": "torch"}[engine]
        raise UserError(f"{package} is not installed: pip install -r {_INSTALL[engine]}"
                        + (f", or choose --engine {installed[0]}" if installed else f", or -r {_INSTALL['torch']}"))
    if started and engine != "torch":
        raise UserError(f"--engine {engine} is not for a process of torchrun: choose --engine torch")
    return engine, why


def load(engine: str, name: str) -> Any:
    """A module of an engine's package: its backend, network or steps."""
    return importlib.import_module(f"core.engines.{engine}.{name}")


def resolve_dtype(text: str, devices: List[Device], fastest: bool = False, backbone: str = "resnet50") -> str:
    """Type that the network computes in, for the setting dtype; it is logged.

    Args:
        fastest: auto is bfloat16 where it is faster: on some CPUs, and with torch on GPUs from Ampere on; otherwise it
            is float32 everywhere, so that results do not depend on the machine.
        backbone: of the network; bfloat16 on CPUs is for ResNet-50.

    Returns:
        "float32", "tf32", "bfloat16" or "float16"; or "int8", for which no engine is asked.

    Raises:
        UserError: the engine can't compute in that type on these devices.
    """
    if text == "int8":
        if any(device.type != "cpu" for device in devices):
            raise UserError("--dtype int8 is for CPUs: choose --gpu cpu, or another type")
        logger.info("computing in int8, as set%s", "" if {"avx512_vnni", "avx_vnni"} & cpu_flags() else
                    "; this CPU has no VNNI, without which int8 does not pay")
        return text
    return load(devices[0].engine, "backend").resolve_dtype(text, devices, fastest, backbone)


def _other_gpu() -> bool:
    """Whether the machine may have a GPU of AMD's or Apple's."""
    return os.path.exists("/dev/kfd") or (platform.system(), platform.machine()) == ("Darwin", "arm64")
