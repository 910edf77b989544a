"""Remove a model's downloaded files from the hub's cache after they were used."""

from collections.abc import Iterator
from contextlib import contextmanager

from annotate_transformer.ingest.models.names import Checkpoint


@contextmanager
def removed_after(checkpoint: Checkpoint) -> Iterator[None]:
    """Context manager: after the block, remove those revisions of the model that were downloaded during it.

    What was in the hub's cache before stays there, and so do files that other revisions share.
    """
    before = _downloaded(checkpoint)
    try:
        yield
    finally:
        if added := _downloaded(checkpoint) - before:
            from huggingface_hub import scan_cache_dir

            scan_cache_dir().delete_revisions(*added).execute()


def _downloaded(checkpoint: Checkpoint) -> set[str]:
    """Return the hashes of the model's commits that are in the hub's local cache."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    if checkpoint.is_local:
        return set()
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return set()
    return {
        revision.commit_hash
        for repository in repositories
        if repository.repo_type == "model" and repository.repo_id == checkpoint.path
        for revision in repository.revisions
    }
