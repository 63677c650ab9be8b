"""The store of transfer sets: a folder or, by URL, an object store; both alike to whoever uses them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.tensors import Array
from shared.errors import Corrupt, FileNotInBundle, TransferSetNotFound
from shared.transfer_set.format import MANIFEST, TransferSetInputs, TransferSetManifest
from shared.transfer_set.known import KnownAnswers
from shared.transfer_set.places import Folder, Place, SetFiles
from shared.transfer_set.reader import TransferSet, read_manifest, read_shard
from shared.transfer_set.remote import Remote
from shared.transfer_set.selection import Selection
from shared.transfer_set.writer import TransferSetWriter

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_FILE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


class TransferSetStore:
    """Transfer sets by their digest. Making one touches neither disk nor network."""

    def __init__(self, url: str, cache: Path, *, pause: Callable[[float], None] | None = None) -> None:
        """Say where the sets are.

        Args:
            url: a folder's path, a `file://` URL, or any that fsspec knows, such as `s3://bucket/folder`.
            cache: a folder of this machine for copies of what lies elsewhere. Whatever is in it may be
                removed while nobody reads it.
            pause: waits so many seconds, or raises where there is no time; what is at a URL that does not
                answer is then asked for again, for `remote.PATIENCE_S`. None gives up at once.
        """
        self.url = url
        self._cache = cache
        self._place = _place_of(url, cache, pause)

    def digests(self) -> list[str]:
        """Return the digests of all finished sets, sorted; those of an older format among them."""
        return [digest for digest in self._place.digests() if self.is_finished(digest)]

    def is_finished(self, digest: str) -> bool:
        """Tell whether all shards of a set were written."""
        return _DIGEST.fullmatch(digest) is not None and MANIFEST in self._place.files(digest).names()

    def manifest(self, digest: str) -> TransferSetManifest:
        """Return what a finished set is made of.

        Raises:
            TransferSetNotFound: there is none, it is not finished, or its format is not read any more.
            Corrupt: its manifest contradicts itself.
        """
        if _DIGEST.fullmatch(digest) is None:
            raise TransferSetNotFound(digest)
        try:
            return read_manifest(self._place.files(digest))
        except FileNotFoundError:
            raise TransferSetNotFound(digest) from None

    def manifests(self, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[TransferSetManifest]:
        """Yield the manifests of all finished sets; what cannot be read is passed over.

        Args:
            wanted: tells of a digest whether its manifest is; the others are not opened.
        """
        for digest in filter(wanted, self._place.digests()):
            try:
                yield self.manifest(digest)
            except (TransferSetNotFound, Corrupt):
                continue

    def open(self, digest: str) -> TransferSet:
        """Read a finished set.

        Raises:
            TransferSetNotFound: there is none.
            Corrupt: a file is not what the manifest says; it is named.
        """
        if _DIGEST.fullmatch(digest) is None:
            raise TransferSetNotFound(digest)
        try:
            return TransferSet.open(self._place.files(digest))
        except FileNotFoundError:
            raise TransferSetNotFound(digest) from None

    def shards(self, digest: str) -> Iterator[dict[str, Array]]:
        """Yield the columns of each shard, mapped and not copied, once its digest was compared.

        Raises:
            TransferSetNotFound: there is no such set.
            Corrupt: a shard is missing, or not what the manifest says; it is named.
        """
        manifest, files = self.manifest(digest), self._place.files(digest)
        for shard in manifest.shards:
            yield read_shard(files, shard, manifest.inputs)

    def writer(
        self,
        inputs: TransferSetInputs,
        *,
        images: NDArray[np.uint8],
        selection: Selection,
        known: KnownAnswers | None = None,
        shard_rows: int | None = None,
    ) -> TransferSetWriter:
        """Return what fills the set of these inputs; see `TransferSetWriter`."""
        files = self._place.files(inputs.digest)
        return TransferSetWriter(
            files, inputs, images=images, selection=selection, known=known, shard_rows=shard_rows
        )

    def known(self, inputs: TransferSetInputs) -> KnownAnswers:
        """Return what the other sets of the store know of what a set of these inputs asks."""
        stored = ((manifest, self._place.files(manifest.digest)) for manifest in self.manifests())
        return KnownAnswers(stored, inputs, self._cache)

    def set_files(self, digest: str) -> SetFiles:
        """Return the files of a set that need not be finished, nor begun.

        Raises:
            TransferSetNotFound: that is no digest.
        """
        if _DIGEST.fullmatch(digest) is None:
            raise TransferSetNotFound(digest)
        return self._place.files(digest)

    def files(self, digest: str) -> list[str]:
        """Return the names of a set's files, sorted; none where it is not there."""
        return self._place.files(digest).names() if _DIGEST.fullmatch(digest) else []

    def file(self, digest: str, name: str) -> Path:
        """Return where this machine has a file of a set; its digest is compared where the manifest lists it.

        Raises:
            TransferSetNotFound: there is no such set.
            FileNotInBundle: it has no such file.
            Corrupt: a shard is not what the manifest says.
        """
        manifest = self.manifest(digest)
        files = self._place.files(digest)
        for shard in manifest.shards:
            if shard.file == name:
                return files.verified(name, shard.sha256)
        if _FILE.fullmatch(name) and name in files.names():
            return files.fetch(name)
        raise FileNotInBundle(f"transfer set {digest[:12]}", name, tuple(files.names()))

    def put_file(self, digest: str, name: str, data: bytes) -> None:
        """Store a file beside the shards, such as a summary, in place of what may be there.

        Raises:
            ValueError: the name is none, or that of a shard or of the manifest.
            StoreFull: there is no room; what was there stays.
        """
        if not _DIGEST.fullmatch(digest) or not _FILE.fullmatch(name):
            raise ValueError(f"no file of a transfer set: {digest}/{name}")
        if name == MANIFEST or name.startswith("shard-"):
            raise ValueError(f"{name} is written by the writer of the set alone")
        self._place.files(digest).put(name, data)

    def sizes(self, digest: str) -> dict[str, int]:
        """Return how many bytes each file of a set has, by name, sorted; none where it is not there."""
        return self._place.files(digest).sizes() if _DIGEST.fullmatch(digest) else {}

    def size_bytes(self, digest: str) -> int:
        """Return how much all files of a set take; 0 where it is not there."""
        return sum(self.sizes(digest).values())

    def delete(self, digest: str) -> None:
        """Remove a set, finished or not: the manifest first, so that nobody takes for whole what is not.

        Raises:
            TransferSetNotFound: there is nothing of it.
        """
        if _DIGEST.fullmatch(digest) is None or digest not in self._place.digests():
            raise TransferSetNotFound(digest)
        self._place.files(digest).remove(MANIFEST)
        self._place.remove(digest)


def _place_of(url: str, cache: Path, pause: Callable[[float], None] | None) -> Place:
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return Folder(Path(unquote(parts.path) if parts.scheme else url))
    return Remote(url, cache, pause)
