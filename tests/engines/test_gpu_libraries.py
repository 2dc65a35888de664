"""NVIDIA's libraries, driver and GPUs, all of them made by the C compiler here."""
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from core.engines.chooser import resolve_devices
from core.engines.devices import Device
from core.engines.mxnet import gpu_libraries
from core.engines.mxnet.backend import mx
from core.errors import UserError

COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which(os.environ.get("CXX", "c++"))
DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return number >= 2; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capabilities[2][2] = {{8, 9}, {9, 0}};
    *value = capabilities[device][attribute - 75];
    return 0;
}
"""


def compile_library(path, source, *needs):
    """A library; the ones that it needs are in its list by file name, but not where to find them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = path.parent / "source.c"
    code.write_text(source)
    subprocess.run([COMPILER, "-shared", "-fPIC", "-x", "c", str(code), "-x", "none", *map(str, needs), "-o",
                    str(path), "-Wl,-soname," + path.name, "-Wl,--no-as-needed"], check=True)
    code.unlink()
    return path


@pytest.fixture
def driver(tmp_path):
    """Function that puts a driver with an Ada and a Hopper GPU in place, of a version of CUDA."""
    def make(version=11070):
        compile_library(tmp_path / "driver" / "libcuda.so.1", "#define VERSION %d%s" % (version, DRIVER))
        return str(tmp_path / "driver")
    return make


def python(code, path=(), libraries=""):
    """Output of Python code that runs in a process of its own."""
    done = subprocess.run([sys.executable, "-c", "from core.engines.mxnet.gpu_libraries import *\n" + code],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=100,
                          env=dict(os.environ, PYTHONPATH=os.pathsep.join([ROOT, *map(str, path)]),
                                   LD_LIBRARY_PATH=libraries))
    return done.stdout.strip()


def installed(folder, *names):
    """Note packages down in `folder` as pip does."""
    for name in names:
        note = folder / ("%s-1.9.1.dist-info" % name) / "METADATA"
        note.parent.mkdir(parents=True)
        note.write_text("Metadata-Version: 2.1\nName: %s\nVersion: 1.9.1\n" % name)


def test_libraries_in_site_packages_let_a_library_load_that_needs_them_by_name(tmp_path):
    nvidia = tmp_path / "site-packages" / "nvidia"
    light = compile_library(nvidia / "cublas" / "lib" / "libcublasLt.so.11", "int light() { return 40; }")
    blas = compile_library(nvidia / "cublas" / "lib" / "libcublas.so.11",
                           "int light(); int blas() { return light() + 1; }", light)
    cudnn = compile_library(nvidia / "cudnn" / "lib" / "libcudnn.so.8",
                            "int blas(); int cudnn() { return blas() + 1; }", blas)
    mxnet = compile_library(tmp_path / "mxnet" / "libmxnet.so", "int cudnn(); int train() { return cudnn(); }", cudnn)
    load = "import ctypes; print(ctypes.CDLL(%r).train())" % str(mxnet)
    assert "cannot open shared object file" in python(load, [tmp_path / "site-packages"])
    assert python("load_libraries()\n" + load, [tmp_path / "site-packages"]) == "42"
    assert python("print([path[%d:] for path in load_libraries()])" % (len(str(nvidia)) + 1),
                  [tmp_path / "nothing", tmp_path / "site-packages"]) == str(
        ["cublas/lib/libcublasLt.so.11", "cublas/lib/libcublas.so.11", "cudnn/lib/libcudnn.so.8"])


def test_a_damaged_library_is_named(tmp_path):
    path = tmp_path / "nvidia" / "nccl" / "lib" / "libnccl.so.2"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a library")
    with pytest.raises(UserError, match="libnccl.so.2 can't be loaded.*force-reinstall"):
        gpu_libraries.load_libraries([str(tmp_path)])


def test_every_library_of_the_dependencies_is_loaded():
    with open(os.path.join(ROOT, "dependencies-gpu.txt")) as file:
        packages = {line.split("==")[0] for line in file if line.startswith("nvidia-")}
    assert packages == {"nvidia-%s-cu11" % package.replace("_", "-") for package, _ in gpu_libraries.LIBRARIES}


def test_a_gpu_build_without_driver_is_reported(monkeypatch):
    monkeypatch.setattr(gpu_libraries, "installed_builds", lambda: {"mxnet-cu117"})
    monkeypatch.setattr(gpu_libraries, "_driver", lambda: None)
    with pytest.raises(UserError, match="mxnet-cu117 needs NVIDIA's driver, and this machine has none.*CPU build"):
        gpu_libraries.prepare_gpu_build()


def test_a_driver_that_is_too_old_is_reported_and_a_newer_one_loads_the_libraries(driver):
    code = """
from core.engines.mxnet import gpu_libraries
gpu_libraries.installed_builds = lambda: {"mxnet-cu117"}
gpu_libraries.load_libraries = lambda: print("loaded")
try:
    prepare_gpu_build()
except UserError as error:
    print(error)"""
    assert "driver supports CUDA 10.2, and mxnet-cu117 needs 11.0" in python(code, libraries=driver(10020))
    assert python(code, libraries=driver(11070)) == python(code, libraries=driver(12040)) == "loaded"


def test_a_gpu_without_code_in_the_wheels_is_reported(driver):
    code = """
print(has_gpu())
check_capabilities([0])
try:
    check_capabilities([0, 1])
except UserError as error:
    print(error)"""
    text = python(code, libraries=driver())
    assert text.startswith("True\nGPU 1 has compute capability 9.0; MXNet's wheels contain code for 5.0 to 8.9")
    assert python("print(has_gpu()); check_capabilities([0, 1])") == "False"


def test_devices_are_checked_before_use(monkeypatch):
    checked = []
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 4)
    monkeypatch.setattr("core.engines.mxnet.backend.check_capabilities", checked.append)
    assert resolve_devices("0,2", "mxnet") == [Device("mxnet", "gpu", 0), Device("mxnet", "gpu", 2)]
    assert checked == [[0, 2]]


def test_two_builds_of_mxnet_end_in_one_line(tmp_path):
    installed(tmp_path, "mxnet_cu117", "mxnet_something")
    done = subprocess.run([sys.executable, os.path.join(ROOT, "eval_loop.py"), "--model", "init", "--root",
                           str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          env=dict(os.environ, PYTHONPATH=str(tmp_path)), timeout=100)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "mxnet and mxnet-cu117 are installed over each other: pip uninstall -y mxnet mxnet-cu117" in done.stderr
