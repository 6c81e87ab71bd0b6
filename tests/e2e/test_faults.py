"""Kills, full disks, two processes, tampered runs, strangers' runs: nothing run, nothing lost, nothing believed.

Every command is a process, forked from this one (tests/forked.py). The rule that most of them are held to: a command ends
with the unbroken run's files, byte for byte, or is refused in a sentence and leaves the directory as it was.
"""

import json
import os
import re
import resource
import shutil
import signal
import stat
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import instar as library
from forked import SMALLEST, configured, copy, differing, files, instar, start
from instar.record import lock, store
from instar.record.contents import NAME as CONTENTS
from instar.record.contents import sha256
from instar.workflow import stages

LENS = "measure/attribution/ioi3/step-000002.nc"
WEIGHTS = "checkpoints/step-000002/model.safetensors"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return configured(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def unbroken(config, tmp_path_factory) -> Path:
    """A run that nothing happened to. Nobody may change it."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    instar("run", config, "--out", out)
    return out


@pytest.fixture
def run(unbroken, tmp_path) -> Path:
    return copy(unbroken, tmp_path / "out")


def again(config: Path, run: Path, unbroken: Path) -> None:
    """The same command ends with the unbroken run's files."""
    instar("run", config, "--out", run)
    assert differing(run, unbroken) == []


# Kills

MOMENTS = ("data/train.jsonl", "checkpoints/step-000002", "checkpoints/index.json", LENS, "summary.json")


@pytest.mark.slow
def ended(out: Path) -> bool:
    """Whether the run's own page is there; on the way it has one that says how far it is."""
    page = out / "report" / "index.html"
    return page.exists() and '"under_way":""' in page.read_text()


def test_five_kills_and_the_same_command(config, unbroken, tmp_path):
    """While data, weights, an index, measurements and the page are written."""
    out = tmp_path / "out"
    for moment in MOMENTS:
        running = start("run", config, "--out", out)
        assert running.until((out / moment).exists), running.said
        running.kill()
        assert running.code == -signal.SIGKILL and not ended(out)
        # The dead owner's name is still there, and its hold is not.
        assert json.loads((out / lock.NAME).read_text())["process"] == running.pid
    again(config, out, unbroken)
    assert not (out / lock.NAME).exists()


# Full disks

FULL = {
    "data": (("",), 10_000, "data/"),
    "train": (("checkpoints", "measure", "report", "summary.json"), 2_000_000, "checkpoints/step-000000"),
    "measure": (("measure", "report", "summary.json"), 15_000, "measure/"),
    "compare": (("report", "summary.json"), 30_000, "summary.json"),
    "report": (("report",), 500_000, "report/index.html"),
}


def largest(size: int):
    """No file may grow beyond so many bytes: a full disk, as far as a process can tell."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def without(run: Path, *names: str) -> None:
    for name in names:
        (shutil.rmtree if (run / name).is_dir() else os.unlink)(run / name)


@pytest.mark.parametrize("stage", FULL)
def test_a_full_disk_is_a_sentence_and_leaves_no_half_file(config, unbroken, run, stage):
    gone, size, named = FULL[stage]
    without(run, *gone)
    before = files(run) if run.exists() else {}
    done = instar("run", config, "--out", run, ok=False, before=largest(size))
    assert (
        f"error: {run / named}" in done.said
        and " could not be written (" in done.said
        and "File too large" in done.said
    )
    assert "MB are free there" in done.said and "goes on" in done.said
    there = files(run)
    assert not [name for name in there if ".partial" in name]
    whole = files(unbroken)
    assert [n for n in there if n not in before and n != CONTENTS and there[n] != whole[n]] == []
    again(config, run, unbroken)


@pytest.mark.parametrize("command", ["measure", "compare", "report"])
def test_a_full_disk_for_the_list_itself(config, unbroken, run, command):
    """What cannot be listed is not put in its place."""
    without(run, "measure/drift", "report", *(("summary.json",) if command != "report" else ()))
    done = instar(command, run, ok=False, before=largest((run / CONTENTS).stat().st_size))
    assert str(run) in done.said, done.said
    again(config, run, unbroken)


@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MB: three checkpoints of 3.7 MB do not fit."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=8M none '{place}' 2>/dev/null") != 0:
        pytest.skip("this machine allows no mounting; RLIMIT_FSIZE stands for full disks in the other tests")
    yield place
    os.system(f"umount '{place}'")


def test_space_is_asked_for_before_it_is_needed_and_a_disk_without_any_is_named(config, unbroken, disk):
    out = disk / "out"
    said = instar("train", config, "--out", out, ok=False).said
    assert "training with 3 checkpoints needs about 11 MB" in said and not (out / "checkpoints").exists()
    with (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            try:
                filler.write(b"0" * 4096)
            except OSError:
                break
    done = instar("run", config, "--out", out, ok=False)
    assert f"error: {out}" in done.said.replace(str(disk / "out/"), str(out)), done.said
    (disk / "filler").unlink()
    os.system(f"mount -o remount,size=64M '{disk}'")
    again(config, out, unbroken)


# Two processes


def test_a_second_process_is_refused_and_names_the_first(config, unbroken, tmp_path):
    out = tmp_path / "out"
    first = start("run", config, "--out", out)
    assert first.until((out / "checkpoints/step-000000").exists), first.said
    for words in (("run", config, "--out", out), ("measure", out), ("report", config, "--out", out)):
        said = instar(*words, ok=False).said
        assert f"process {first.pid} on {os.uname().nodename}" in said, said
        assert f"instar run {config} --out {out}" in said and "wait until it ends" in said
    assert first.wait().code == 0, first.said
    assert differing(out, unbroken) == []


def test_another_machines_owner_is_believed_until_its_name_is_removed(config, unbroken, run):
    owner = {"host": "elsewhere", "process": 1, "began": "yesterday", "command": "instar run"}
    (run / lock.NAME).write_text(json.dumps(owner))
    said = instar("run", config, "--out", run, ok=False).said
    assert "process 1 on elsewhere, since yesterday" in said and f"remove {run / lock.NAME}" in said
    (run / lock.NAME).unlink()
    again(config, run, unbroken)


# Tampering


def signed(run: Path) -> None:
    """What a stranger would do who knows the list: every entry is made to fit."""
    lines = [json.loads(line) for line in (run / CONTENTS).read_text().splitlines()]
    for entry in lines[1:]:
        if (run / entry["path"]).exists():
            entry |= {"size": (run / entry["path"]).stat().st_size, "sha256": sha256(run / entry["path"])}
    (run / CONTENTS).write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


def value(run: Path) -> None:
    with h5py.File(run / LENS, "a") as file:
        name = next(n for n in file if file[n].dtype.kind == "f" and file[n].ndim > 1)
        file[name][...] *= 10


def flipped(name: str):
    def flip(run: Path) -> None:
        content = bytearray((run / name).read_bytes())
        content[len(content) // 2] ^= 1
        (run / name).write_bytes(content)

    return flip


def other_weights(run: Path) -> None:
    shutil.copyfile(run / WEIGHTS.replace("2/", "4/"), run / WEIGHTS)


def cut(run: Path) -> None:
    (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:1000])


def row(run: Path) -> None:
    rows = (run / "data/ioi3.giver1.jsonl").read_text().splitlines(keepends=True)
    (run / "data/ioi3.giver1.jsonl").write_text("".join([*rows[:3], rows[2], *rows[4:]]))


def summary(**changes: object):
    def change(run: Path) -> None:
        found = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(found | changes))

    return change


def source(run: Path) -> None:
    """A row of a training says that its weights are elsewhere."""
    index = json.loads((run / "checkpoints/index.json").read_text())
    index["steps"][1]["source"] = str(run.parent / "elsewhere")
    (run / "checkpoints/index.json").write_text(json.dumps(index))


def added(run: Path) -> None:
    (run / "checkpoints/step-000002/modeling_x.py").write_text("x = 1\n")


TAMPERED = {
    "a value": (LENS, value),
    "a bit of a measurement": (LENS, flipped(LENS)),
    "a bit of the weights": (WEIGHTS, flipped(WEIGHTS)),
    "a bit of a tokenizer": (
        "checkpoints/step-000000/tokenizer.json",
        flipped("checkpoints/step-000000/tokenizer.json"),
    ),
    "another step's weights": (WEIGHTS, other_weights),
    "half of the weights": (WEIGHTS, cut),
    "a row": ("data/ioi3.giver1.jsonl", row),
    "a bit of the rows trained on": ("data/train.jsonl", flipped("data/train.jsonl")),
    "an answer": ("summary.json", summary(answer={"kind": "formed", "headline": "p < 0.0001"})),
    "a schema": ("summary.json", summary(schema=99)),
    "a row's source": ("checkpoints/index.json", source),
    "a file": ("checkpoints/step-000002/modeling_x.py", added),
    "the page": ("report/index.html", flipped("report/index.html")),
}


SELDOM = (
    "a bit of a tokenizer",
    "half of the weights",
    "a schema",
    "a bit of the rows trained on",
    "a bit of a measurement",
)


@pytest.mark.parametrize("what", [pytest.param(w, marks=pytest.mark.storm if w in SELDOM else ()) for w in TAMPERED])
def test_what_was_changed_is_found_and_never_believed(config, unbroken, run, what):
    name, change = TAMPERED[what]
    change(run)
    found = instar("verify", run, "--sample", 0, ok=False).said
    assert str(run / name) in found.replace("\\", ""), found
    damaged = files(run)
    # The page says so, and is written elsewhere; the run is not touched.
    reported = instar("report", run, "--out", run.parent / "page", ok=None)
    if name.startswith(("data", "measure")) and name != "data/train.jsonl":
        page = (run.parent / "page/report/index.html").read_text()
        assert reported.code == 0 and "not verified" in reported.said and "not verified" in page
    assert files(run) == damaged
    done = instar("run", config, "--out", run, ok=None)
    if done.code == 0:
        # A no-op reads no weights: only `verify` looks at them.
        ignored = ("checkpoints",) if "bit" in what or "weights" in what else ()
        assert [n for n in differing(run, unbroken) if not n.startswith(ignored)] == [], "believed"
    else:
        assert str(run / name) in done.said or "give another --out" in done.said, done.said
        # Nothing is lost: as it was, the same command ends with the same.
        (shutil.copyfile(unbroken / name, run / name) if what != "a file" else (run / name).unlink())
        again(config, run, unbroken)


def test_a_sound_run_verifies(unbroken):
    before = files(unbroken)
    said = instar("verify", unbroken).said
    assert "4 measurements made again: all as they were written" in said
    assert files(unbroken) == before


@pytest.mark.parametrize("what", ["another step's weights", "a row's source", "a value"])
def test_verify_finds_what_was_signed_too(run, what):
    """The list was made to fit: measuring again tells, or what else names the file's hash."""
    TAMPERED[what][1](run)
    signed(run)
    if what == "a row's source":
        # A training's row has no source of its own: it is not looked at.
        assert instar("verify", run, "--sample", 2).said.endswith("all as they were written")
        return
    # Every measurement, for one of them alone was changed.
    instar("verify", run, "--sample", 99, ok=False)


# Strangers' code


CODE = "from pathlib import Path\nPath({!r}).touch()\n"
COMMANDS = ("run", "train", "evaluate", "measure", "compare", "report", "verify")


def stranger(run: Path, **parts: dict) -> None:
    own = yaml.safe_load((run / "config.yaml").read_text())
    own |= {name: own[name] | changes for name, changes in parts.items()}
    (run / "config.yaml").write_text(yaml.safe_dump(own))
    head, *entries = (run / CONTENTS).read_text().splitlines(keepends=True)
    (run / CONTENTS).write_text("".join([json.dumps(json.loads(head) | {"config": own}) + "\n", *entries]))


@pytest.mark.parametrize("listed", [True, False])
def test_a_strangers_model_code_is_not_run(run, tmp_path, listed):
    marker = tmp_path / "RAN"
    for step in (0, 2, 4):
        folder = run / f"checkpoints/step-{step:06d}"
        (folder / "modeling_x.py").write_text(CODE.format(str(marker)) + "class X: pass\n")
        model = json.loads((folder / "config.json").read_text())
        model["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoModel"), "modeling_x.X")
        (folder / "config.json").write_text(json.dumps(model))
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        tokenizer["auto_map"] = {"AutoTokenizer": ["modeling_x.X", "modeling_x.X"]}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    stranger(run, model={"trust_remote_code": True})
    shutil.rmtree(run / "measure/evaluate")
    signed(run) if listed else (run / CONTENTS).unlink()
    for words in (
        *((command, run) for command in COMMANDS),
        *((c, run / "config.yaml", "--out", run) for c in COMMANDS[:5]),
    ):
        done = instar(*words, ok=None)
        assert not marker.exists(), words
        if words[0] in ("evaluate", "measure", "compare", "run"):
            assert "--trust-remote-code" in done.said or "failed" in done.said, done.said
    with suppress(ValueError):
        library.load_run(run).model(2)
    assert not marker.exists()


def test_a_strangers_task_is_not_run(run, tmp_path, monkeypatch):
    marker = tmp_path / "RAN"
    (run / "t.py").write_text(CODE.format(str(marker)))
    monkeypatch.chdir(run.parent)
    stranger(run, tasks={"new": "out/t.py"})
    for command in COMMANDS:
        instar(command, "out", ok=None)
        instar(command, "out/config.yaml", "--out", "out", ok=None) if command != "verify" else None
        assert not marker.exists(), command
    # Where its rows are there nobody asks for it; where they are not, its code is asked for.
    (run / "data/prepared.json").unlink()
    refused = instar("train", "out", ok=False).said
    assert "is Python code that the run directory's configuration names" in refused and "--trust-tasks" in refused
    assert library.load_run(run).summary["new"] == "ioi3"
    assert not marker.exists()
    instar("train", "out", "--trust-tasks", ok=False)
    assert marker.exists()


# Links

UNUSED = ("compare", "measure/evaluate", "checkpoints/step-000002")


PARTS = (".partial", CONTENTS, "measure/evaluate", "checkpoints/step-000002")
FURTHER = ("checkpoints", "measure", "report", "data", "compare", lock.NAME, lock.HELD, "config.yaml", "summary.json")


@pytest.mark.parametrize("part", [*PARTS, *(pytest.param(name, marks=pytest.mark.storm) for name in FURTHER)])
def test_a_link_in_a_run_is_not_followed(run, tmp_path, part):
    elsewhere = tmp_path / "elsewhere"
    folder = part in ("compare", ".partial") or (run / part).is_dir()
    if folder:
        (run / part).rename(elsewhere) if (run / part).exists() else elsewhere.mkdir()
        (elsewhere / "mine.nc").write_text("a week of work")
        (elsewhere / "step-000500").mkdir()
    elif (run / part).exists():
        (run / part).rename(elsewhere)
    else:
        elsewhere.write_text("a week of work")
    (run / part).symlink_to(elsewhere)
    before = files(elsewhere) if folder else elsewhere.read_bytes()
    for words in (
        ("run", run),
        ("report", run),
        ("compare", run),
        ("run", configured(tmp_path), "--out", run, "--replace"),
    ):
        done = instar(*words, ok=None)
        assert (files(elsewhere) if folder else elsewhere.read_bytes()) == before, words
        assert (run / part).is_symlink() and "mine.nc" not in done.said, done.said
        # What a command has no need of may be whatever it is.
        assert (done.code == 1 and f"{run / part} is a link" in done.said) or part in UNUSED, done.said


# netCDF


def external(file: h5py.File, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    file.create_dataset(name, shape, "f8", external=[(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)])


def linked(file: h5py.File, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other[name] = np.full(shape, 7.0)
    file[name] = h5py.ExternalLink(str(tmp_path / "secret.h5"), name)


def virtual(file: h5py.File, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other[name] = np.full(shape, 7.0)
    layout = h5py.VirtualLayout(shape, "f8")
    layout[...] = h5py.VirtualSource(str(tmp_path / "secret.h5"), name, shape)
    file.create_virtual_dataset(name, layout)


def huge(file: h5py.File, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    file.create_dataset(name, (40_000, 400_000), "f8", chunks=(100, 100))


SAYS = {external: "in another file", linked: "is a link", virtual: "in another file", huge: "declare 128,0"}


@pytest.mark.parametrize("how", [external, linked, virtual, huge], ids=lambda how: how.__name__)
@pytest.mark.parametrize("listed", [True, pytest.param(False, marks=pytest.mark.storm)])
def test_a_measurement_reads_nothing_else(run, tmp_path, how, listed):
    (tmp_path / "secret").write_bytes(b"TOP-SECRET" * 1000)
    with h5py.File(run / LENS, "a") as file:
        name = next(n for n in file if file[n].dtype.kind == "f" and file[n].ndim > 1)
        shape = file[name].shape
        del file[name]
        how(file, tmp_path, name, shape)
    signed(run) if listed else (run / CONTENTS).unlink()
    before = files(run)
    with pytest.raises(ValueError, match=re.escape(str(run / LENS))):
        library.load_run(run).measure("attribution", "ioi3")
    assert files(run) == before
    (run / "summary.json").unlink()
    said = instar("compare", run, ok=False).said
    assert str(run / LENS) in said and SAYS[how] in said, said
    assert not (run / "summary.json").exists()


# Other configurations, other folders, other versions


def test_another_configuration_is_refused_with_its_keys_and_replaces_when_told(unbroken, run, tmp_path):
    other = configured(tmp_path, train=SMALLEST["train"] | {"learning_rate": 1e-4})
    before = files(run)
    for command in ("run", "train", "measure", "evaluate", "compare", "report"):
        said = instar(command, other, "--out", run, ok=False).said
        assert "train.learning_rate: 0.0001 (there: 0.0003)" in said, said
        assert files(run) == before
    assert "--replace makes anew" in instar("run", other, "--out", run, ok=False).said
    instar("run", other, "--out", run, "--replace")
    instar("run", other, "--out", tmp_path / "fresh")
    assert differing(run, tmp_path / "fresh") == []


def test_a_folder_of_other_things_is_not_adopted(config, tmp_path):
    mine = tmp_path / "mine"
    (mine / "checkpoints/step-000500").mkdir(parents=True)
    (mine / "checkpoints/step-000500/model.safetensors").write_text("a week of compute")
    (mine / "measure").mkdir()
    (mine / "measure/mine.nc").write_text("mine")
    before = files(mine)
    for words in (("run", config), ("train", config), ("demo",), ("run", config, "--replace")):
        assert "not empty" in instar(*words, "--out", mine, ok=False).said
    assert files(mine) == before and not (mine / lock.HELD).exists()


def test_files_that_instar_did_not_write_stay(config, unbroken, run, tmp_path):
    """In a run's own folders, too, and whatever is replaced."""
    mine = {
        "notes.md": "",
        "measure/evaluate/ioi3/step-000099.nc": "",
        "checkpoints/mine/model.safetensors": "",
        "data/x.jsonl": "",
    }
    other = configured(tmp_path, train=SMALLEST["train"] | {"learning_rate": 1e-4})
    for name in mine:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    for words in (("run", config), ("run", other, "--replace")):
        instar(*words, "--out", run, ok=None)
        assert all((run / name).read_text() == "mine" for name in mine)


def times(run: Path, *parts: str) -> dict[str, int]:
    return {
        p.relative_to(run).as_posix(): p.stat().st_mtime_ns
        for part in parts
        for p in (run / part).rglob("*")
        if p.is_file()
    }


def test_an_upgrade_makes_nothing_anew(config, run):
    """Another version, another digest: what decided the results is what counts."""
    for path in (run / "checkpoints/index.json", run / CONTENTS):
        path.write_text(re.sub(r"instar \d+\.\d+\.\d+", "instar 0.2.9", path.read_text()))
    index = json.loads((run / "checkpoints/index.json").read_text())
    (run / "checkpoints/index.json").write_text(json.dumps(index | {"key": "of before"}))
    signed(run)
    before = times(run, "checkpoints", "data", "measure")
    instar("run", config, "--out", run)
    after = times(run, "checkpoints", "data", "measure")
    assert {n for n in before if after[n] != before[n]} <= {"measure/failed.json"}


def test_new_numbers_of_a_stage_are_measured_and_no_others(config, run):
    before = times(run, "checkpoints", "data", "measure")
    raised = dict(stages.NUMERICS)

    def upgrade() -> None:
        stages.NUMERICS["attribution"] = raised["attribution"] + 1

    instar("run", config, "--out", run, before=upgrade)
    after = times(run, "checkpoints", "data", "measure")
    anew = {n for n in before if after[n] != before[n]} - {"measure/failed.json"}
    assert anew == {n for n in before if n.startswith("measure/attribution")} and len(anew) == 6
    assert raised == stages.NUMERICS


def test_another_format_is_refused_by_name(run):
    listed = (run / CONTENTS).read_text().replace(f'"format": {store.Contents and 1}', '"format": 99')
    (run / CONTENTS).write_text(listed)
    before = files(run)
    for command in ("run", "report", "verify"):
        assert "has format 99 of run directories" in instar(command, run, ok=False).said
    assert files(run) == before


# A run that may only be read


@pytest.fixture
def readonly(run):
    """As another user sees it."""
    for path in (run, *run.rglob("*")):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222 | (0o555 if path.is_dir() else 0o444))
    for folder in run.parents:
        if folder.owner() == run.owner() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    yield run
    for path in (run, *run.rglob("*")):
        path.chmod(path.stat().st_mode | 0o700)


def test_a_run_that_is_only_read_is_reported_elsewhere(readonly, tmp_path):
    (elsewhere := tmp_path / "elsewhere").mkdir()
    elsewhere.chmod(0o777)
    nobody = (lambda: (os.setgid(65534), os.setuid(65534))) if os.getuid() == 0 else (lambda: None)
    before = times(readonly, ".")
    for command, made in (("report", "report/index.html"), ("compare", "summary.json"), ("evaluate", "summary.json")):
        said = instar(command, readonly, "--out", elsewhere / command, before=nobody).said
        assert (elsewhere / command / made).exists() and str(elsewhere / command / made) in said, said
        refused = instar(command, readonly, ok=None, before=nobody)
        assert refused.code == 0 or ("ermission denied" in refused.said and str(readonly) in refused.said), refused.said
    assert times(readonly, ".") == before
