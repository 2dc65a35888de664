"""What a GPU build of MXNet needs before it is imported: NVIDIA's libraries, as pip installs them, and a driver.

dependencies-gpu.txt installs the libraries into site-packages/nvidia, where the system's loader does not look. Once
they are loaded for all to see, MXNet's library finds them by name. Does not import mxnet.
"""
import ctypes
import importlib.metadata
import os
import re
import sys
from typing import Iterable, List, Optional, Sequence, Set

from core.errors import UserError

# Each after those that it needs: package below nvidia/, file.
LIBRARIES = (
    ("cuda_runtime", "libcudart.so.11.0"), ("cuda_nvrtc", "libnvrtc.so.11.2"), ("nvtx", "libnvToolsExt.so.1"),
    ("cublas", "libcublasLt.so.11"), ("cublas", "libcublas.so.11"), ("cufft", "libcufft.so.10"),
    ("curand", "libcurand.so.10"), ("cusparse", "libcusparse.so.11"), ("cusolver", "libcusolver.so.11"),
    ("nccl", "libnccl.so.2"), ("cudnn", "libcudnn_ops_infer.so.8"), ("cudnn", "libcudnn_ops_train.so.8"),
    ("cudnn", "libcudnn_cnn_infer.so.8"), ("cudnn", "libcudnn_cnn_train.so.8"), ("cudnn", "libcudnn_adv_infer.so.8"),
    ("cudnn", "libcudnn_adv_train.so.8"), ("cudnn", "libcudnn.so.8"))
_OLDEST_CUDA = 11000  # CUDA 11.0 as cuDriverGetVersion returns it
_CAPABILITIES = range(5, 9)  # major numbers that the wheels contain code for: 5.0, 6.0, 7.0, 8.0, 8.6, and no PTX
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def prepare_gpu_build() -> None:
    """Load what the installed build of MXNet needs; nothing for the CPU build.

    Raises:
        UserError: two builds are installed, a library can't be loaded, or a GPU build has no driver or one too old.
    """
    builds = sorted(installed_builds())
    if len(builds) > 1:
        raise UserError(f"{' and '.join(builds)} are installed over each other: pip uninstall -y {' '.join(builds)}, "
                        "then pip install -r dependencies.txt for CPUs or dependencies-gpu.txt for GPUs")
    if not any("-cu" in name for name in builds):
        return
    back = f"or change to the CPU build: pip uninstall -y {builds[0]}, then pip install -r dependencies.txt"
    driver = _driver()
    if driver is None:
        raise UserError(f"{builds[0]} needs NVIDIA's driver, and this machine has none (libcuda.so.1): install it, "
                        f"{back}")
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value < _OLDEST_CUDA:
        major, minor = version.value // 1000, version.value % 1000 // 10
        raise UserError(f"NVIDIA's driver supports CUDA {major}.{minor}, and {builds[0]} needs 11.0: install a newer "
                        f"driver, {back}")
    load_libraries()


def installed_builds() -> Set[str]:
    """Names of the installed packages that bring the module mxnet: mxnet, mxnet-cu117..."""
    names = (distribution.metadata["Name"] or "" for distribution in importlib.metadata.distributions())
    normalized = {name.lower().replace("_", "-") for name in names}
    return {name for name in normalized if re.fullmatch("mxnet(-(cu[0-9]+)?(mkl|native)?)?", name)}


def load_libraries(folders: Optional[Sequence[str]] = None) -> List[str]:
    """Load NVIDIA's libraries from the folder nvidia of each of `folders`, sys.path by default.

    Those that are not there are left to the system's loader.

    Returns:
        paths of the libraries that were loaded.

    Raises:
        UserError: one can't be loaded.
    """
    loaded = []
    for package, name in LIBRARIES:
        places = (os.path.join(folder, "nvidia", package, "lib", name)
                  for folder in (sys.path if folders is None else folders))
        path = next(filter(os.path.exists, places), None)
        if path:
            try:
                ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise UserError(f"{path} can't be loaded ({error}): pip install --force-reinstall -r "
                                "dependencies-gpu.txt") from error
            loaded.append(path)
    return loaded


def check_capabilities(numbers: Iterable[int]) -> None:
    """Check that MXNet's wheels hold code for these GPUs.

    Raises:
        UserError: a GPU is too new, as Hopper and later ones are, or too old.
    """
    driver = _driver()
    if driver is None or driver.cuInit(0):
        return
    for number in numbers:
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        if any((driver.cuDeviceGet(ctypes.byref(device), number),
                driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
                driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device))):
            continue
        if major.value not in _CAPABILITIES:
            raise UserError(f"GPU {number} has compute capability {major.value}.{minor.value}; MXNet's wheels contain "
                            f"code for {_CAPABILITIES[0]}.0 to {_CAPABILITIES[-1]}.9 (Maxwell to Ada) only: choose "
                            "another GPU, or cpu")


def serves(numbers: Iterable[int]) -> bool:
    """Whether the installed build of MXNet can use these GPUs, as far as the driver knows them."""
    try:
        check_capabilities(numbers)
    except UserError:
        return False
    return has_gpu() and any("-cu" in name for name in installed_builds())


def has_gpu() -> bool:
    """Whether the driver knows a GPU, whether or not MXNet's build is for GPUs."""
    driver, count = _driver(), ctypes.c_int()
    return bool(driver and not driver.cuInit(0) and not driver.cuDeviceGetCount(ctypes.byref(count)) and count.value)


def _driver():
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
