"""MXNet's format of named arrays: written and read as MXNet itself does."""
import os
import struct

import numpy as np
import pytest
from conftest import largest_file

from core.engines.mxnet.backend import mx
from core.errors import UserError
from core.io.files import read_bytes
from core.network.params_files import read_params, write_params

TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")


@pytest.fixture
def arrays(rng):
    found = {f"arg:{kind}": rng.integers(0, 100, (3, 1, 2)).astype(kind) for kind in TYPES}
    return {**found, "aux:turned": rng.random((5, 4), np.float32).T, "record:\u00e4 {\"a\": 1}": np.zeros(1, "float32")}


def test_files_equal_those_of_mxnet_to_the_last_bit(tmp_path, arrays):
    write_params(str(tmp_path / "ours"), arrays)
    mx.nd.save(str(tmp_path / "theirs"), {name: mx.nd.array(value, dtype=value.dtype)
                                          for name, value in arrays.items()})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_arrays_come_back_as_they_were(tmp_path, arrays):
    write_params(str(tmp_path / "a"), arrays)
    found = read_params(str(tmp_path / "a"))
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype and found[name].flags.writeable
        np.testing.assert_array_equal(found[name], value)


def test_bfloat16_is_read_as_float32(tmp_path):
    numbers = np.array([1.5, -3, 0.25], "<f4").view("<u4") >> 16
    (tmp_path / "a").write_bytes(struct.pack("<QQQIiiqiii", 0x112, 0, 1, 0xF993FAC9, 0, 1, 3, 1, 0, 12)
                                 + numbers.astype("<u2").tobytes() + struct.pack("<QQ", 1, 1) + b"a")
    found = read_params(str(tmp_path / "a"))["a"]
    assert found.dtype == np.float32 and found.tolist() == [1.5, -3, 0.25]


@pytest.mark.parametrize("shape", [struct.pack("<III", 2, 2, 3), struct.pack("<IIqq", 0xF993FAC8, 2, 2, 3)],
                         ids=["before 0.11", "before 1.0"])
def test_files_of_old_releases_are_read(tmp_path, shape):
    (tmp_path / "a").write_bytes(struct.pack("<QQQ", 0x112, 0, 1) + shape + struct.pack("<iii", 2, 0, 0)
                                 + np.arange(6, dtype="<f4").tobytes() + struct.pack("<QQ", 1, 1) + b"a")
    assert read_params(str(tmp_path / "a"))["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("value", [np.float32(1), np.zeros((0, 3), np.float32)])
def test_what_mxnet_could_not_read_is_not_written(tmp_path, value):
    write_params(str(tmp_path / "a"), {"a": np.ones(2)})
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(ValueError, match="b of shape .* has no place in a .params file"):
        write_params(str(tmp_path / "a"), {"b": np.asarray(value)})
    assert (tmp_path / "a").read_bytes() == before and os.listdir(str(tmp_path)) == ["a"]


@pytest.mark.parametrize("missing", [1, 100, 5000, 200000])
def test_arrays_that_do_not_fit_leave_the_old_file_however_little_is_missing(tmp_path, missing):
    path = str(tmp_path / "x.params")
    write_params(path, {"a": np.ones((300, 300), np.float32), "record": np.zeros(1, np.float32)})
    before = read_bytes(path)
    with largest_file(len(before) - missing), pytest.raises(UserError, match="x.params can't be written"):
        write_params(path, {"a": np.zeros((300, 300), np.float32), "record": np.zeros(1, np.float32)})
    assert read_bytes(path) == before and os.listdir(str(tmp_path)) == ["x.params"]


def test_every_cut_is_noticed(tmp_path):
    write_params(str(tmp_path / "a"), {"a": np.ones(2), "b": np.ones((1, 2), "float32")})
    content = (tmp_path / "a").read_bytes()
    for kept in range(len(content)):
        (tmp_path / "a").write_bytes(content[:kept])
        with pytest.raises(UserError, match="a is damaged, or not an MXNet parameter file: "):
            read_params(str(tmp_path / "a"))
    (tmp_path / "a").write_bytes(content + b"x")
    with pytest.raises(UserError, match="1 bytes follow its end"):
        read_params(str(tmp_path / "a"))
