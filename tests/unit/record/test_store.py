"""The run directory: whole files or none, and measurements that know what decided them."""

import numpy as np
import pytest
import xarray as xr

from instar.record.config import RunConfig, TrainConfig
from instar.record.files import read_json, whole, write_json, write_text
from instar.record.store import Store, step_name


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "run", RunConfig())


def leftovers(root):
    return list(root.rglob(".partial-*"))


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "first")

    def fail():
        with whole(path) as scratch:
            scratch.write_text("half")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "first" and not leftovers(tmp_path)


def test_folders_are_replaced_whole(tmp_path):
    for content in ("one", "two"):
        with whole(tmp_path / "folder", folder=True) as scratch:
            (scratch / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"] and not leftovers(tmp_path)


def test_opening_sweeps_up_after_a_kill(store):
    scrap = store.root / ".partial" / "0123" / "x.nc"
    scrap.parent.mkdir(parents=True)
    scrap.write_text("half")
    Store.create(store.root, RunConfig())
    assert not leftovers(store.root)


def test_nan_becomes_null_and_arrays_become_lists(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": np.float32(1.5), "c": (1, np.inf)})
    assert read_json(tmp_path / "x.json") == {"a": None, "b": 1.5, "c": [1, None]}


def test_a_measurement_is_found_by_its_key_only(store):
    path = store.measurement("lens", "ioi3", 0, 8)
    assert path.relative_to(store.root).as_posix() == "measure/lens/ioi3/step-000008.nc"
    data = xr.Dataset({"x": ("pair", np.arange(3.0))}, attrs={"names": ["a", "b"], "n": 3})
    store.write_measurement(path, data, "key-1")
    assert store.has_measurement(path, "key-1") and not store.has_measurement(path, "key-2")
    path.write_bytes(path.read_bytes()[:100])
    assert not store.has_measurement(path, "key-1")


def test_a_series_is_in_the_order_of_its_steps(store):
    for step in (16, 0, 8):
        store.write_measurement(
            store.measurement("lens", "t", 0, step), xr.Dataset({"x": ("pair", np.full(2, step))}), "k"
        )
    series = store.series("lens", "t")
    assert series["step"].values.tolist() == [0, 8, 16]
    assert series["x"].transpose("step", "pair").values[:, 0].tolist() == [0, 8, 16]
    assert store.series("lens", "other") is None


def test_further_seeds_have_their_own_folders(tmp_path):
    store = Store.create(tmp_path, RunConfig(train=TrainConfig(seeds=(3, 4))))
    assert store.checkpoint(3, 8) == tmp_path / "checkpoints" / step_name(8)
    assert store.checkpoint(4, 8) == tmp_path / "checkpoints" / "seed-4" / step_name(8)
    assert store.measurement("lens", "t", 4, 8).parent.name == "seed-4"


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a run directory: it has no config"):
        Store.open(tmp_path)
