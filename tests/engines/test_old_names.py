"""MXNet finds the names that numpy and Python dropped; nobody else does."""
import contextlib
import subprocess
import sys

import numpy as np
from conftest import ROOT

from core.engines.mxnet.old_names import old_names


def output(code):
    """Output of Python code that runs in a process of its own, warnings included."""
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_names_are_in_numpy_only_while_mxnet_is_imported():
    before = set(vars(np))
    with old_names():
        assert np.bool is np.bool_ or np.bool is bool
        assert np.float_ is np.float64 and np.PINF == np.inf and np.alltrue([1, 1])
        assert np.in1d([[1, 2]], [2]).tolist() == [False, True]
        assert np.trapz([1, 1, 1]) == 2 and np.msort([[2], [1]]).tolist() == [[1], [2]]
        assert np.asfarray([1]).dtype == np.float64 and np.product([2, 3]) == 6
    assert set(vars(np)) == before
    with contextlib.suppress(ImportError), old_names():
        raise ImportError
    assert set(vars(np)) == before, "nor where the import fails"


def test_mxnet_is_imported_without_a_warning_and_leaves_numpy_as_it_was():
    code = ("import numpy as np, cv2, numba, scipy.stats, sklearn.base, setuptools\n"
            "before = set(vars(np))\n"
            "print('== imports')\n"
            "from core.engines.mxnet import backend\n"
            "print('== new:', *sorted({'bool', 'float_', 'PINF', 'trapz', 'npv'} & (set(vars(np)) - before)))")
    assert output(code).split("== imports\n")[1].strip() == "== new:"
