"""A checkpoint's files: in its folder, or fetched from a model hub into its cache. What cannot be had says why.

transformers' own loader gives one error for a missing file, a revision that does not exist and a connection that broke.
"""

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
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise FileNotFoundError(
            f"{where}: {wanted} could not be fetched ({reason}); what was fetched is kept, and the same command tries again"
        ) from None
