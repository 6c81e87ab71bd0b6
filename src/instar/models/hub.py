"""The model hub's cache: which commit a revision is, and making room behind a long series.

Once the hub has not answered, this process asks it no more and goes on with what is in the cache.

A hundred checkpoints of a series fill a disk. What this process fetched may be evicted once it is measured; what was in
the cache before is left there.
"""

from pathlib import Path

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from transformers.utils.hub import cached_file

from instar.models.read import ADAPTER, quiet


def commit(name: str, revision: str | None) -> str:
    """The commit of a revision, which is what identifies its weights. Fetches its configuration, nothing large.

    Raises:
        OSError: no such repository or revision, or the hub cannot be reached.
    """
    return _snapshot(name, revision).name


def holds_weights(name: str, revision: str | None) -> bool:
    """Whether the cache already has weights of this revision."""
    try:
        return any(_snapshot(name, revision).glob("*.safetensors"))
    except OSError:
        return False


def evict(name: str, revision: str | None) -> None:
    """Remove a revision from the cache; files that other revisions share stay."""
    found = _snapshot(name, revision).name
    scan_cache_dir().delete_revisions(found).execute()


def _snapshot(name: str, revision: str | None) -> Path:
    """The cache's folder of a revision. A model has a config.json; an adapter by itself another file."""
    try:
        try:
            file = _fetched(name, "config.json", revision)
        except OSError as error:
            if not isinstance(error.__cause__, RemoteEntryNotFoundError):
                raise
            file = _fetched(name, ADAPTER, revision)
    except OSError as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            # Every later question would be asked six times over half a minute, and a series asks a hundred.
            constants.HF_HUB_OFFLINE = True
        raise
    return file.parent


def _fetched(name: str, file: str, revision: str | None) -> Path:
    with quiet():
        return Path(str(cached_file(name, file, revision=revision)))
