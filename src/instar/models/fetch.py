"""A checkpoint's files: in its folder, or fetched from a model hub into its cache. What cannot be had says why.

transformers' own loader gives one error for a missing file, a revision that does not exist and a connection that broke.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError

from instar.models.accounts import converting, shards_of

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(name: str, revision: str | None) -> list[Path]:
    """The safetensors files of whole weights, by transformers' names.

    Raises:
        FileNotFoundError: where there are none, or one of them could not be fetched.
    """
    try:
        return [fetched_file(name, revision, WHOLE)]
    except FileNotFoundError as missing:
        try:
            index = fetched_file(name, revision, INDEX)
        except FileNotFoundError:
            raise missing from None
    return [fetched_file(name, revision, shard) for shard in shards_of(index)]


def fetched_file(name: str, revision: str | None, wanted: str) -> Path:
    """One file.

    Raises:
        FileNotFoundError: with the reason, and the command that makes it where only a pickle can be there.
    """
    if Path(name).is_dir():
        if (Path(name) / wanted).exists():
            return Path(name) / wanted
        raise FileNotFoundError(f"{name} holds no {wanted}")
    where = f"{name}@{revision}" if revision else name
    try:
        return Path(hf_hub_download(name, wanted, revision=revision))
    except RemoteEntryNotFoundError:
        raise FileNotFoundError(
            f"{where} holds no {wanted}. If it has a .bin, convert it where you trust it:\n  "
            f"{converting(name, wanted, revision)}"
        ) from None
    except Exception as error:  # the hub's client has errors of its own, and those of the library it sends with
        raise FileNotFoundError(
            f"{where}: {wanted} could not be fetched ({first_line(error)}); what was fetched is kept, and the same command "
            "tries again"
        ) from None


def first_line(error: Exception) -> str:
    """What an error says first."""
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars and chatter."""
    from transformers.utils import logging as chatter

    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
