"""The model hub's cache: which commit a revision is, and making room behind a long series.

A hundred checkpoints of a series fill a disk. What this process fetched may be evicted once it is measured; what was in
the cache before is left there.
"""

from pathlib import Path

from huggingface_hub import scan_cache_dir
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
    with quiet():
        file = cached_file(name, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
        return Path(str(file or cached_file(name, ADAPTER, revision=revision))).parent
