"""Kept images: how many there are, and their removal when consent is withdrawn."""

import time
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query

from services.gateway import examples
from services.gateway.errors import STATUSES
from services.gateway.state import Gateway, GatewayDep
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import needs
from shared.contracts.kept import KeptCollection, KeptDeleted, KeptList
from shared.contracts.keys import Scope
from shared.errors import Corrupt, DatasetNotFound, KeptNotFound

router = APIRouter(prefix="/v1/kept", tags=["kept images"], dependencies=[needs(Scope.ADMIN)])

_FOLLOWED = 3
"""Looks at the policy within which every process has seen a change of it."""


@router.get("", summary="List collections of kept images", responses={200: examples.answers(examples.KEPT)})
def list_kept(gateway: GatewayDep) -> KeptList:
    """Return what is kept, by name. `keeping` of the traffic policy begins a collection."""
    return KeptList(collections=tuple(gateway.store.kept.list()))


@router.get(
    "/{collection}",
    summary="A collection of kept images",
    responses={200: examples.answers(examples.KEPT_COLLECTION), **documented(STATUSES, KeptNotFound)},
)
def show(collection: str, gateway: GatewayDep) -> KeptCollection:
    """Return how many images it has, why they were kept, by which students, and since when."""
    return gateway.store.kept.show(collection)


@router.delete(
    "/{collection}",
    summary="Remove a collection of kept images",
    responses={200: examples.answers(examples.KEPT_DELETED), **documented(STATUSES, KeptNotFound)},
)
def delete(
    collection: str,
    gateway: GatewayDep,
    datasets: Annotated[
        bool, Query(description="Remove the datasets as well that its images were frozen into.")
    ] = False,
) -> KeptDeleted:
    """Remove every image of a collection, as when consent is withdrawn.

    Frozen datasets hold copies: the answer names them, and `datasets=true` removes them as well; jobs that
    name one of them then fail. Students that learned from the images stay; they hold none of them. Where the
    traffic policy goes on keeping under this name (`still_kept`), the collection begins anew: switch
    `keeping` off first. What was cut off can be asked again: with `datasets=true` a collection is not found
    only once no dataset holds an image of it either.
    """
    still_kept = _is_kept(collection, gateway)
    if not still_kept:
        # A process that has not seen yet that keeping was switched off may be writing its last images.
        time.sleep(_FOLLOWED * gateway.settings.promotion_poll_s)
    gateway.store.datasets.sweep()
    try:
        images = gateway.store.kept.delete(collection)
    except KeptNotFound:
        images, made = 0, _made_of(collection, gateway) if datasets else []
        if not made:
            raise
    else:
        made = _made_of(collection, gateway)
    if datasets:
        # The last first: what is left where this is cut off is still known to be made of the collection.
        for name in reversed(made):
            _delete(name, gateway)
    return KeptDeleted(
        name=collection,
        images=images,
        datasets=tuple(sorted(made)),
        datasets_removed=datasets,
        still_kept=still_kept,
    )


def _delete(name: str, gateway: Gateway) -> None:
    owners = gateway.store.owners
    # Held, or somebody else's of this name would lose its owner.
    with owners.held("datasets", name), suppress(DatasetNotFound):
        gateway.store.datasets.delete(name)
        owners.forget("datasets", name)


def _is_kept(collection: str, gateway: Gateway) -> bool:
    keeping = gateway.store.students.traffic().policy.keeping
    return keeping is not None and keeping.collection == collection


def _made_of(collection: str, gateway: Gateway) -> list[str]:
    """Return the datasets that hold images of a collection: frozen from it, then those from what was."""
    store = gateway.store.datasets
    frozen = {}
    for name in store.names():
        try:
            manifest = store.get(name)
        except (Corrupt, DatasetNotFound):
            continue
        if manifest.frozen is not None:
            frozen[name] = manifest.frozen
    made = [name for name, one in frozen.items() if one.collection == collection]
    while more := [name for name, one in frozen.items() if one.base in made and name not in made]:
        made += more
    return made
