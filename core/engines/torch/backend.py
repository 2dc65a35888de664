"""The one module that imports torch, and its devices and number formats."""
import atexit
import contextlib
import os
import socket
import sys
from typing import Iterator, List, NamedTuple

import joblib
import numpy as np

from core.engines.devices import Device, check_numbers, explaining_engine_errors, parse_devices
from core.errors import UserError
from core.io.logs import logger
from core.runtime.hardware import SLOW_BFLOAT16, cpu_flags, has_fast_bfloat16, processes_here, torchrun_number

try:
    import torch
except (ImportError, OSError) as error:
    raise UserError(f"torch can't be loaded: {error}; it is installed by: pip install -r dependencies-torch.txt"
                    ) from error

_LOCAL_RANK, _LOCAL_SIZE = torchrun_number("LOCAL_RANK", 0), processes_here()
torch.set_num_threads(max(1, joblib.cpu_count(only_physical_cores=True) // _LOCAL_SIZE))
torch.backends.cudnn.allow_tf32 = False  # unlike PyTorch's default; matrix products don't use it by default
_BFLOAT16_GPUS = (8, 0)  # compute capability from which on it is fast: Ampere
_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def gpus() -> int:
    """Number of GPUs: NVIDIA's or AMD's, or the one of Apple's."""
    return torch.cuda.device_count() or int(torch.backends.mps.is_available())


def process_devices(device_type: str, numbers: List[int]) -> List[Device]:
    """Devices of this process, as `engines.resolve_devices` gives them.

    A process that torchrun started has one: that of its number among `numbers`, or counted from a single one.

    Args:
        device_type: "cpu" or "gpu".
    """
    available = gpus()
    if device_type == "gpu" and not available:
        logger.info("no usable GPU for this build of torch: using the CPU")
        device_type, numbers = "cpu", [0]
    if _LOCAL_SIZE > 1 and len(numbers) not in (1, _LOCAL_SIZE):
        raise UserError(f"torchrun started {_LOCAL_SIZE} processes here, and {len(numbers)} devices are named: one for "
                        "each is expected")
    if _LOCAL_SIZE > 1:
        numbers = [numbers[0] + _LOCAL_RANK if len(numbers) == 1 else numbers[_LOCAL_RANK]]
    if device_type == "cpu":
        return [Device("torch", "cpu", number) for number in numbers]
    check_numbers(numbers, available)
    return [Device("torch", "gpu" if torch.cuda.is_available() else "mps", number) for number in numbers]


def device_count(text: str) -> int:
    """Number of devices of a device flag, as `process_devices` would give them."""
    device_type, numbers = parse_devices(text)
    return len(numbers) if device_type == "cpu" or gpus() else 1


class ProcessGroup(NamedTuple):
    """This process among those that share every batch, and its device."""
    rank: int
    size: int
    device: torch.device

    def of_first(self, values: np.ndarray) -> np.ndarray:
        """A float32 array of the process of rank 0; every process calls this once."""
        first = torch.tensor(values, device=self.device)
        torch.distributed.broadcast(first, 0)
        return first.cpu().numpy()


@contextlib.contextmanager
def process_group(text: str) -> Iterator[ProcessGroup]:
    """Give the group of processes that the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT name, as torchrun
    sets them.

    A process that ends the block with an error leaves at once: the others may wait for it. After a good end, they wait
    for each other, as one may still be saving.

    Args:
        text: device flag.

    Raises:
        UserError: a variable is missing or wrong, or the processes can't meet.
    """
    device = process_devices(*parse_devices(text))[0]
    if device.type == "gpu":
        torch.cuda.set_device(device.number)
    missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(f"RANK is set, as torchrun does, and {', '.join(missing)} not: unset RANK, or start this with "
                        "torchrun")
    try:
        socket.getaddrinfo(os.environ["MASTER_ADDR"], None)  # torch would ask for minutes
        torch.distributed.init_process_group("nccl" if device.type == "gpu" else "gloo")
    except (OSError, RuntimeError, ValueError) as error:
        variables = " ".join(f"{name}={os.environ[name]}" for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR",
                                                                       "MASTER_PORT"))
        raise UserError(f"the processes of the job can't meet, as {variables} say: {str(error).splitlines()[0]}"
                        ) from error
    try:
        yield ProcessGroup(torch.distributed.get_rank(), torch.distributed.get_world_size(), torch_device(device))
        with explaining_engine_errors("waiting for the other processes", "start fewer of them"):
            torch.distributed.barrier()
    except BaseException as error:
        atexit.register(_leave, 2 if isinstance(error, UserError) else 1)
        raise
    torch.distributed.destroy_process_group()


def _leave(status):
    """End the process at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def torch_device(device: Device) -> torch.device:
    return torch.device("cuda", device.number) if device.type == "gpu" else torch.device(device.type)


def number_format(dtype: str) -> torch.dtype:
    """Type for what `resolve_dtype` gives; "tf32" lets GPUs round the factors of float32 products to 10 bits."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    return _TYPES.get(dtype, torch.float32)


def memory_format(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """Order of the axes in memory in which convolutions are fastest."""
    channels_last = device.type == "cpu" or dtype != torch.float32
    return torch.channels_last if channels_last else torch.contiguous_format


def resolve_dtype(text: str, devices: List[Device], fastest: bool = False, backbone: str = "resnet50") -> str:
    """As `engines.resolve_dtype`."""
    on_cpu = any(device.type == "cpu" for device in devices)
    fast = has_fast_bfloat16("amx_bf16" in cpu_flags(), backbone)
    if text in ("float16", "tf32") and on_cpu:
        raise UserError(f"--dtype {text} is for GPUs; on a CPU choose float32 or bfloat16")
    if text == "auto":
        text, why = "float32", "for the same results on every machine"
        if fastest and on_cpu and fast:
            text, why = "bfloat16", "faster on this CPU; --dtype float32 gives the scores of other machines"
        elif fastest and all(device.type == "gpu" and torch.cuda.get_device_capability(device.number) >= _BFLOAT16_GPUS
                             for device in devices):
            text, why = "bfloat16", "faster on this GPU; --dtype float32 computes as CPUs do"
    else:
        why = "as set" + (SLOW_BFLOAT16 if text == "bfloat16" and on_cpu and not fast else "")
    logger.info("computing in %s, %s", text, why)
    return text
