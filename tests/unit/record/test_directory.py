"""The door to a run directory: what is written is listed, whole and verified; nothing else is touched."""

import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from instar.record import netcdf
from instar.record.config import RunConfig
from instar.record.contents import Contents, Damaged, Entry
from instar.record.directory import Directory, NoRoom
from instar.record.lock import InUse, held
from instar.record.store import Store


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "run", RunConfig())


def listed(root):
    return {e["path"]: e for e in map(json.loads, (root / "contents.jsonl").read_text().splitlines()) if "path" in e}


def dataset(value=1.0):
    return xr.Dataset({"a": ("pair", np.full(4, value))})


def measured(store, value=1.0, key="k"):
    path = store.measurement("lens", "ioi3", 0, 4)
    store.write_measurement(path, dataset(value), key)
    return path


def test_everything_that_is_written_is_listed_and_nothing_is_left_beside_it(store):
    path = measured(store)
    store.write_json(store.data("x.json"), {"a": float("nan")})
    with store.writing(store.checkpoint(0, 4), folder=True) as scratch:
        (scratch / "deep").mkdir(parents=True)
        (scratch / "deep" / "w.bin").write_bytes(b"123")
    own = listed(store.root)
    assert set(own) == {
        "config.yaml", "data/x.json", "measure/lens/ioi3/step-000004.nc", "checkpoints/step-000004/deep/w.bin"
    }  # fmt: skip
    assert own["measure/lens/ioi3/step-000004.nc"]["key"] == "k" and list(own) == sorted(own)
    assert store.has_measurement(path, "k") and not store.has_measurement(path, "other")
    assert {p.name for p in store.root.iterdir()} <= {
        ".lock", ".contents.lock", "config.yaml", "contents.jsonl", "data", "measure", "checkpoints"
    }  # fmt: skip


def test_a_folder_that_is_written_again_is_as_it_is_now(store):
    for names in (("a", "b"), ("b", "c")):
        with store.writing(store.checkpoint(0, 4), folder=True) as scratch:
            scratch.mkdir(exist_ok=True)
            for name in names:
                (scratch / name).write_text(" ".join(names))
    assert sorted(p.name for p in store.checkpoint(0, 4).iterdir()) == ["b", "c"]
    store.check_checkpoint(0, 4)
    (store.checkpoint(0, 4) / "modeling.py").write_text("")
    with pytest.raises(Damaged, match="does not list it"):
        store.check_checkpoint(0, 4)


def test_what_was_changed_is_not_read(store):
    path = measured(store)
    good = path.read_bytes()
    path.write_bytes(netcdf.as_bytes(dataset(2.0).assign_attrs(key="k")))
    with pytest.raises(Damaged, match=r"step-000004\.nc is damaged or was changed"):
        store.read_measurement("lens", "ioi3", 0, 4)
    assert not store.has_measurement(path, "k")
    for at in range(0, len(good), 97):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(Damaged):
            store.read_measurement("lens", "ioi3", 0, 4)
    path.write_bytes(good)
    assert store.read_measurement("lens", "ioi3", 0, 4) is not None


def test_a_list_that_was_cut_off_goes_on(store):
    measured(store)
    file = store.root / "contents.jsonl"
    file.write_bytes(file.read_bytes() + b'{"path": "measure/le')
    store.write_json(store.data("x.json"), 1)
    assert set(listed(store.root)) == {"config.yaml", "data/x.json", "measure/lens/ioi3/step-000004.nc"}


def test_several_processes_write_into_one_list(tmp_path):
    """As workers do for the one that holds the directory; each sees what the others made since."""
    owner, worker = Contents(tmp_path), Contents(tmp_path)
    owner.add((), config={})
    assert not worker.entries
    (tmp_path / "a").write_text("made")
    owner.add([Entry("a", 4, hashlib.sha256(b"made").hexdigest())])
    worker.check(tmp_path / "a")
    worker.add([Entry("b", 1, "x")])
    owner.settle()
    worker.add([Entry("c", 1, "x")])
    assert set(owner.entries) == set(worker.entries) == set(Contents(tmp_path).entries) == {"a", "b", "c"}


def test_interrupted_and_unbroken_lists_are_equal(tmp_path):
    texts = []
    for name, order in (("a", "xyz"), ("b", "zyxyx")):
        store = Store.create(tmp_path / name, RunConfig())
        for letter in order:
            store.write_json(store.data(f"{letter}.json"), letter)
        store.write_json(store.data("gone.json"), 0)
        store.forget(store.data("gone.json"))
        texts.append((store.root / "contents.jsonl").read_text())
    assert texts[0] == texts[1]


@given(
    st.text(max_size=20)
    | st.sampled_from(["..", ".", "a/b", "/etc", "x/../../y", "", "~", "a\0b", "con.", "-", "a" * 300])
)
def test_no_name_leads_out(name):
    root = Directory(Path("/nowhere/run"))
    with suppress(ValueError):
        path = root.place("data", name)
        assert path.parent == root.root / "data" and path.name == name and ".." not in path.parts


def test_links_are_not_followed(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.nc").write_text("mine")
    (store.root / "measure").symlink_to(outside)
    for act in (
        lambda: store.measurement("lens", "ioi3", 0, 4),
        lambda: store.write_json(store.root / "measure" / "x.json", 1),
        lambda: store.here.forget(store.root / "measure" / "mine.nc"),
    ):
        with suppress(ValueError):
            act()
    assert [p.name for p in outside.iterdir()] == ["mine.nc"]
    (store.root / "measure").unlink()
    (store.root / ".partial").symlink_to(outside)
    with pytest.raises(ValueError, match="is a link"):
        store.write_json(store.data("x.json"), 1)
    assert (outside / "mine.nc").exists()


def test_a_list_that_leads_out_removes_nothing(store, tmp_path):
    (tmp_path / "mine").write_text("mine")
    line = {"path": "checkpoints/../../mine", "size": 4, "sha256": "x"}
    with (store.root / "contents.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match="expected up to"):
        store.forget(store.root / "checkpoints", store.root / "config.yaml")
    assert (tmp_path / "mine").exists()


def test_other_things_are_not_adopted(tmp_path):
    mine = tmp_path / "mine" / "checkpoints" / "step-500" / "model.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_text("a week")
    with pytest.raises(ValueError, match="is no run directory .* and not empty"):
        Store.create(tmp_path / "mine", RunConfig())
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["checkpoints"]
    store = Store.create(tmp_path / "run", RunConfig())
    foreign = store.root / "data" / "notes.json"
    foreign.parent.mkdir()
    foreign.write_text("mine")
    with pytest.raises(ValueError, match="instar did not write it"):
        store.write_json(store.data("notes.json"), 1)
    store.forget(store.root / "data", foreign)
    assert foreign.read_text() == "mine"


def test_another_format_is_refused_by_name(store):
    file = store.root / "contents.jsonl"
    file.write_text(file.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(ValueError, match="has format 7 of run directories"):
        store.read_json(store.root / "config.yaml")


def test_a_directory_of_before_the_list_is_listed_as_it_is(store):
    path = measured(store)
    (store.root / "contents.jsonl").unlink()
    (store.root / "measure" / "mine.txt").write_text("mine")
    assert store.read_measurement("lens", "ioi3", 0, 4) is not None
    with store.owned():
        assert store.has_measurement(path, "k")
    assert set(listed(store.root)) == {"config.yaml", "measure/lens/ioi3/step-000004.nc"}


HOLD = """
import sys; from pathlib import Path; from instar.record.lock import held
with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()
"""


def test_one_process_at_a_time_and_a_dead_one_holds_nothing(store):
    command = [sys.executable, "-c", HOLD, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(InUse, match=rf"process {other.pid} on .*: wait until it ends"):
            measured(store)
        other.send_signal(signal.SIGKILL)
    assert json.loads((store.root / "lock").read_text())["process"] == other.pid
    measured(store)
    assert not (store.root / "lock").exists()


def test_a_process_of_another_machine_is_named(store):
    owner = {"host": "elsewhere", "process": 7, "began": "yesterday", "command": "instar run"}
    (store.root / "lock").write_text(json.dumps(owner))
    with pytest.raises(InUse, match="process 7 on elsewhere, since yesterday"), held(store.root):
        pass


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half(store):
    path, before = measured(store), listed(store.root)
    good = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
    try:
        with pytest.raises(NoRoom, match=r"step-000004\.nc could not be written .* MB are free"):
            measured(store, 3.0, "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == good and listed(store.root) == before and not (store.root / ".partial").exists()
    with pytest.raises(NoRoom, match="training needs about"):
        store.need(1e18, "training")


def linked(file, kind, tmp_path):
    """A measurement of which a variable is elsewhere."""
    with h5py.File(file, "w") as made:
        made["b"] = np.arange(4.0)
        if kind == "external storage":
            made.create_dataset("a", (4,), "f8", external=[(str(tmp_path / "secret"), 0, 32)])
        elif kind == "external link":
            made["a"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")
        elif kind == "soft link":
            made["a"] = h5py.SoftLink("/b")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (4,))
            made.create_virtual_dataset("a", layout)
        elif kind == "dense":
            made.create_dataset("a", data=np.zeros((2000, 2000)), compression="gzip")
        elif kind == "other compression":
            made.create_dataset("a", data=np.zeros(4), compression="lzf")
        elif kind == "bomb":
            made.create_dataset("a", (40_000, 400_000), "f8", chunks=(100, 100))
        else:
            made.create_group("a")["secret"] = 1


@pytest.mark.parametrize(
    "kind",
    ["external storage", "external link", "soft link", "virtual", "bomb", "dense", "other compression", "group"],
)
def test_a_netcdf_reads_no_other_file_and_declares_what_it_holds(kind, tmp_path):
    (tmp_path / "secret").write_bytes(b"TOP-SECRET" * 10)
    linked(tmp_path / "x.nc", kind, tmp_path)
    with (
        pytest.raises(ValueError, match=r"x\.nc is no measurement, or damaged"),
        netcdf.opened(tmp_path / "x.nc") as found,
    ):
        found.load()


def mutants(good, count):
    rng = random.Random(0)
    for n in range(count):
        bad = bytearray(good)
        for _ in range(16 if n % 4 == 1 else 1):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        yield bytes(bad[: rng.randrange(len(bad))] if n % 4 == 0 else bad)


def test_a_damaged_measurement_is_a_sentence(tmp_path):
    """Also where there is no list to compare it with; HDF5 itself checks little, so some are read."""
    path, outcomes = tmp_path / "x.nc", set()
    for content in mutants(netcdf.as_bytes(dataset().assign_attrs(key="k", text="some")), 200):
        path.write_bytes(content)
        for read in (netcdf.attributes, lambda file: read_all(file)):
            try:
                read(path)
                outcomes.add("read")
            except ValueError as error:
                outcomes.add(str(path) in str(error))
    assert outcomes == {"read", True}


def read_all(path):
    with netcdf.opened(path) as found:
        return found.load()


@pytest.mark.parametrize("name", ["contents.jsonl", "data/prepared.json", "summary.json", "checkpoints/index.json"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_damaged_record_is_a_sentence(store, name, signed):
    store.write_json(
        store.data("prepared.json"), {"key": "k", "counterfactuals": {"ioi2": ["abc"], "ioi3": ["giver1"]}}
    )
    store.write_json(store.summary, {"schema": 3, "verdict": None, "tasks": {}})
    store.write_index(0, {"key": "k", "steps": [{"step": 0, "sha256": "x"}], "health": []})
    measured(store)
    file, outcomes = store.root / name, set()
    content = file.read_bytes()
    for bad in (b"", b"{}", b"[]", b"null", b"7", b"[" * 100_000, b'{"a":' * 5000, *mutants(content, 60)):
        file.write_bytes(bad)
        if signed and name != "contents.jsonl":
            store.contents.add([Entry(name, len(bad), hashlib.sha256(bad).hexdigest())])
        for read in (
            store.prepared,
            store.read_summary,
            store.index,
            lambda: store.read_measurement("lens", "ioi3", 0, 4),
        ):
            try:
                read()
                outcomes.add("read")
            except (ValueError, FileNotFoundError) as error:
                outcomes.add(str(store.root) in str(error))
    assert outcomes == {"read", True}
