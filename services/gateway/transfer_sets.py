"""Transfer sets as the API shows them: what the store holds, joined with the names of datasets."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from services.gateway.catalogue import StoreCatalogue
from services.gateway.tar import TarEntry
from shared.artefacts.owners import Owners
from shared.contracts.transfer_sets import (
    TRANSFER_SET_SUMMARY,
    TransferSetCard,
    TransferSetPage,
    TransferSetSummary,
    TransferSetView,
)
from shared.errors import Corrupt, FileNotInBundle, TransferSetInUse, TransferSetNotFound
from shared.jobs.in_use import WantedSet, jobs_that_may_use, told
from shared.jobs.service import JobService
from shared.transfer_set.format import MANIFEST, TransferSetManifest
from shared.transfer_set.store import TransferSetStore

log = logging.getLogger(__name__)

CURSOR: Final = r"^[0-9]{1,18}-[0-9a-f]{64}$"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TransferSets:
    """Lists, shows, packs and deletes the finished sets of a store.

    Its methods take the catalogue as the caller sees it: a set that it does not see is not found.
    """

    def __init__(self, store: TransferSetStore, catalogue: StoreCatalogue, owners: Owners) -> None:
        """Say where the sets are.

        Args:
            store: of the sets.
            catalogue: of everything, whosever it is.
            owners: of the artefact store.
        """
        self._store = store
        self._catalogue = catalogue
        self._owners = owners

    def page(self, cursor: str | None, limit: int, seen: StoreCatalogue) -> TransferSetPage:
        """Return a page, newest first; a cursor names the last set of the page before, deleted or not."""
        below = _place_of(cursor) if cursor is not None else None
        manifests = sorted(self._store.manifests(seen.sees_transfer_set), key=_place, reverse=True)
        left = [manifest for manifest in manifests if below is None or _place(manifest) < below]
        shown, names = left[:limit], _datasets(seen)
        return TransferSetPage(
            transfer_sets=tuple(TransferSetView(**self._view(manifest, names)) for manifest in shown),
            next_cursor=_cursor(shown[-1]) if len(left) > limit else None,
        )

    def card(self, digest: str, seen: StoreCatalogue) -> TransferSetCard:
        """Return all that is known of a set; raises `TransferSetNotFound`."""
        _need(digest, seen)
        manifest = self._store.manifest(digest)
        files = self._store.files(digest)
        return TransferSetCard(
            **self._view(manifest, _datasets(seen)),
            files=tuple(files),
            summary=self._summary(digest) if TRANSFER_SET_SUMMARY in files else None,
        )

    def file(self, digest: str, name: str, seen: StoreCatalogue) -> Path:
        """Return where a file of a set lies on this machine.

        Raises:
            TransferSetNotFound: there is no such set.
            FileNotInBundle: it has no such file.
            Corrupt: a shard is damaged.
        """
        _need(digest, seen)
        return self._store.file(digest, name)

    def entries(self, digest: str, seen: StoreCatalogue) -> tuple[TransferSetManifest, list[TarEntry]]:
        """Return the files of a set as entries of a tar, in a folder of the set's name.

        The manifest comes last: a tar that was cut and unpacked nevertheless is never taken for whole.
        """
        _need(digest, seen)
        manifest = self._store.manifest(digest)
        files = self._store.set_files(digest)
        sizes = files.sizes()
        paths = {name: partial(files.fetch, name) for name in sizes}
        for shard in manifest.shards:
            if shard.file not in sizes:
                raise Corrupt(f"{digest}/{shard.file}")
            paths[shard.file] = partial(files.verified, shard.file, shard.sha256)
        names = sorted(sizes, key=lambda name: (name == MANIFEST, name))
        return manifest, [TarEntry(f"{digest}/{name}", sizes[name], paths[name]) for name in names]

    def delete(self, digest: str, jobs: JobService, seen: StoreCatalogue) -> None:
        """Remove a set, also one that was left unfinished or whose manifest is damaged.

        Where others have it as well, a caller who is confined to their own only gives it up; jobs of others
        that may use it are then not in the way.

        Raises:
            TransferSetNotFound: there is nothing of it.
            TransferSetInUse: jobs that may use it have not ended.
            JobStoreUnavailable: the jobs cannot be listed.
        """
        _need(digest, seen)
        if not self._store.files(digest):
            raise TransferSetNotFound(digest)
        try:
            inputs = self._store.manifest(digest).inputs
            wanted = WantedSet(digest, inputs.teacher, inputs.dataset_digest)
        except (TransferSetNotFound, Corrupt):
            wanted = WantedSet(digest, None, None)
        owner = seen.confined_to
        users = jobs_that_may_use(wanted, jobs, self._catalogue)
        if users:
            own = told(users, jobs, owner)
            if own or owner is None or self._owners.of("transfer_sets", digest) == {owner}:
                raise TransferSetInUse(digest, own)
        # Its owners first: nobody sees what is half gone, nor gets it back where others build it again.
        if owner is None:
            self._owners.forget("transfer_sets", digest)
        elif self._owners.give_up("transfer_sets", digest, owner):
            log.info("transfer set given up", extra={"digest": digest, "owner": owner})
            return
        self._store.delete(digest)
        log.info("transfer set deleted", extra={"digest": digest})

    def _view(self, manifest: TransferSetManifest, datasets: Mapping[str, str]) -> dict[str, object]:
        inputs = manifest.inputs
        return {
            "digest": manifest.digest,
            "created_at": manifest.created_at,
            "format": inputs.format,
            "teacher": inputs.teacher,
            "teacher_digest": inputs.teacher_digest,
            "dataset": datasets.get(inputs.dataset_digest),
            "dataset_digest": inputs.dataset_digest,
            "spec": inputs.spec,
            "tempers": inputs.tempers,
            "temperature": inputs.temperature,
            "images": inputs.rows,
            "views": inputs.spec.views,
            "rows": inputs.rows * inputs.spec.views,
            "shards": len(manifest.shards),
            "size_bytes": self._store.size_bytes(manifest.digest),
        }

    def _summary(self, digest: str) -> TransferSetSummary | None:
        try:
            return TransferSetSummary.model_validate_json(
                self._store.file(digest, TRANSFER_SET_SUMMARY).read_bytes()
            )
        except (ValidationError, FileNotInBundle, FileNotFoundError) as error:
            # The set itself is sound without: its figures are then shown as not known.
            log.warning("summary left out", extra={"digest": digest, "reason": str(error)})
            return None


def _need(digest: str, seen: StoreCatalogue) -> None:
    if not seen.sees_transfer_set(digest):
        raise TransferSetNotFound(digest)


def _datasets(seen: StoreCatalogue) -> dict[str, str]:
    """Return the names of stored datasets by their digest; of several of one content the first."""
    try:
        datasets = seen.datasets()
    except Corrupt as error:
        # A damaged dataset is told of where datasets are asked for; here it only costs names.
        log.warning("names of datasets left out", extra={"reason": str(error)})
        return {}
    return {one.manifest.digest: one.name for one in reversed(datasets) if one.manifest is not None}


def _place(manifest: TransferSetManifest) -> tuple[int, str]:
    """Return where a set stands in the list: microseconds since 1970, and its digest."""
    return (manifest.created_at - _EPOCH) // timedelta(microseconds=1), manifest.digest


def _cursor(manifest: TransferSetManifest) -> str:
    microseconds, digest = _place(manifest)
    return f"{microseconds}-{digest}"


def _place_of(cursor: str) -> tuple[int, str]:
    microseconds, _, digest = cursor.partition("-")
    return int(microseconds), digest
