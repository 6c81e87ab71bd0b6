"""Measurements in memory: a file is opened once, a changed one again, and nobody writes into what others read."""

import os

import numpy as np
import pytest
import xarray as xr

from instar.record import netcdf


def dataset(values: list[float]) -> xr.Dataset:
    return xr.Dataset({"x": ("pair", np.array(values)), "name": ("pair", [f"p{v}" for v in values])}, attrs={"n": 1})


def read(path) -> list[float]:
    with netcdf.opened(path) as found:
        return found["x"].values.tolist()


def test_a_small_file_is_opened_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    path, opens = tmp_path / "one.nc", []
    path.write_bytes(netcdf.as_bytes(dataset([1.0, 2.0])))
    real = xr.open_dataset
    monkeypatch.setattr(xr, "open_dataset", lambda *a, **k: opens.append(1) or real(*a, **k))
    assert [read(path), read(path)] == [[1.0, 2.0]] * 2 and len(opens) == 1
    then = path.stat()
    path.write_bytes(netcdf.as_bytes(dataset([3.0, 4.0])))
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns + 1))
    assert read(path) == [3.0, 4.0] and len(opens) == 2


def test_a_damaged_file_is_not_taken_for_the_one_in_memory(tmp_path):
    path = tmp_path / "one.nc"
    path.write_bytes(netcdf.as_bytes(dataset([1.0])))
    assert read(path) == [1.0]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        read(path)


def test_what_is_in_memory_cannot_be_written_into(tmp_path):
    path = tmp_path / "one.nc"
    path.write_bytes(netcdf.as_bytes(dataset([1.0, 2.0])))
    with netcdf.opened(path) as found, pytest.raises(ValueError, match="read-only"):
        found["x"].values[0] = 9
    with netcdf.opened(path) as found:
        found.attrs["n"], found["more"] = 2, ("pair", [0, 0])
    with netcdf.opened(path) as found:
        assert found.attrs["n"] == 1 and "more" not in found


def test_no_more_is_kept_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(netcdf, "SMALL", 10_000)
    monkeypatch.setattr(netcdf, "KEPT", 20_000)
    monkeypatch.setattr(netcdf, "_kept", type(netcdf._kept)())
    for i in range(5):
        path = tmp_path / f"{i}.nc"
        path.write_bytes(netcdf.as_bytes(xr.Dataset({"x": ("pair", np.arange(1000.0))})))
        assert read(path)[-1] == 999
    (tmp_path / "large.nc").write_bytes(netcdf.as_bytes(xr.Dataset({"x": ("pair", np.arange(2000.0))})))
    assert len(read(tmp_path / "large.nc")) == 2000
    assert [key[0][-4:] for key in netcdf._kept] == ["3.nc", "4.nc"]


def test_fewer_digits_are_the_nearest_numbers_that_have_them():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=4000) * 10.0 ** rng.integers(-30, 30, 4000)).astype(np.float32)
    short = netcdf.rounded(values, 10)
    mantissa, exponent = np.frexp(values.astype(float))
    # Eleven digits with the first one, ties to even, as numpy rounds.
    np.testing.assert_array_equal(short, np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent).astype(np.float32))
    assert np.abs(short / values - 1).max() <= 2**-11
    odd = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, np.finfo(np.float32).max], np.float32)
    np.testing.assert_array_equal(netcdf.rounded(odd, 10), odd)


def packed(values: np.ndarray) -> xr.Dataset:
    made = xr.Dataset({"score": (("pair", "edge"), values), "other": ("pair", np.arange(len(values), dtype=float))})
    made["score"].encoding |= netcdf.PACKED
    return made


def test_what_is_packed_is_half_and_comes_back_as_it_was(tmp_path):
    path = tmp_path / "one.nc"
    values = netcdf.rounded(np.random.default_rng(0).normal(size=(20, 30_000)), 10)
    path.write_bytes(netcdf.as_bytes(packed(values)))
    assert path.stat().st_size < 0.6 * values.nbytes
    with netcdf.opened(path) as found:
        np.testing.assert_array_equal(found["score"].values, values)


def test_what_would_be_too_dense_to_be_read_is_written_as_it_is(tmp_path):
    path, values = tmp_path / "one.nc", np.zeros((40, 30_000), np.float32)
    path.write_bytes(netcdf.as_bytes(packed(values)))
    assert path.stat().st_size > values.nbytes
    with netcdf.opened(path) as found:
        assert not found["score"].values.any()
