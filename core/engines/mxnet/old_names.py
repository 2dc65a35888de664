"""Names that MXNet 1.9.1 uses and that later numpy and Python no longer have. Does not import mxnet.

numpy 1.24 removed numpy.bool, numpy 2 removed some thirty further names, and Python 3.12 removed distutils, which
setuptools still carries. They are put back while mxnet is imported; afterwards other packages see numpy as it is.
"""
import contextlib
import sys
import types
import warnings
from typing import Iterator

import numpy as np

_SAME_AS = {  # old name -> the expression in today's names
    "bool": np.bool_, "float_": np.float64, "complex_": np.complex128, "string_": np.bytes_, "unicode_": np.str_,
    "product": np.prod, "cumproduct": np.cumprod, "alltrue": np.all, "sometrue": np.any, "round_": np.round,
    "row_stack": np.vstack, "PINF": np.inf, "NINF": -np.inf, "Inf": np.inf, "Infinity": np.inf, "infty": np.inf,
    "NaN": np.nan, "NAN": np.nan, "PZERO": 0.0, "NZERO": -0.0, "trapz": getattr(np, "trapezoid", None),
    "in1d": lambda one, other, **options: np.isin(np.ravel(one), other, **options),
    "msort": lambda array: np.sort(array, axis=0),
    "asfarray": lambda array, dtype=np.float64: np.asarray(array, dtype),
}
# Financial functions, which numpy 1.20 removed: mxnet.numpy only hands them on.
_GONE = ("mirr", "npv", "pmt", "ppmt", "pv", "rate")


@contextlib.contextmanager
def old_names() -> Iterator[None]:
    """Give numpy the names that it lacks, and Python distutils, in the block, in which mxnet is imported.

    After the block mxnet's modules keep a view of numpy of their own that has them.
    """
    names = {**_SAME_AS, **dict.fromkeys(_GONE, _gone)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy 1 warns of names that it will remove
        missing = {name: value for name, value in names.items() if not hasattr(np, name)}
    vars(np).update(missing)
    try:
        with warnings.catch_warnings():
            # distutils.version, and names that numpy 1 still has
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            import setuptools  # noqa: F401  brings distutils back on Python 3.12

            yield
    finally:
        for name in missing:
            delattr(np, name)
    _give_view("mxnet", missing)


def _give_view(package, missing):
    view = types.ModuleType("numpy", np.__doc__)
    vars(view).update(vars(np), **missing)
    vars(view)["__getattr__"] = lambda name: getattr(np, name)  # submodules that are imported later
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == package]:
        for name, value in list(vars(module).items()):
            if value is np:
                setattr(module, name, view)


def _gone(*_, **__):
    raise NotImplementedError("numpy has no financial functions any more")
