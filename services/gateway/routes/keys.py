"""API keys: make one, look at them, revoke one. Only an administrator has use of this."""

from fastapi import APIRouter, Response, status

from services.gateway import examples
from services.gateway.errors import STATUSES, UNREADABLE
from services.gateway.state import Gateway, GatewayDep
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import ScopedRoute, needs
from shared.contracts.keys import KeyList, KeyMade, KeyRequest, KeyView, Scope
from shared.errors import BodyTooLarge, KeyNotFound, StoreFull

router = APIRouter(
    prefix="/v1/keys", tags=["keys"], dependencies=[needs(Scope.ADMIN)], route_class=ScopedRoute
)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    summary="Make a key",
    responses={
        201: examples.located(examples.KEY_MADE),
        400: UNREADABLE,
        **documented(STATUSES, BodyTooLarge, StoreFull),
    },
)
def make(wanted: KeyRequest, response: Response, gateway: GatewayDep) -> KeyMade:
    """Make a key for an owner. The answer shows `key`, which nothing shows a second time.

    It is valid in this process at once, in all others within half a second.
    """
    made = gateway.store.keys.make(wanted)
    _follow(gateway)
    response.headers["Location"] = f"/v1/keys/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("", summary="List keys, the oldest first", responses={200: examples.answers(examples.KEYS)})
def list_keys(gateway: GatewayDep) -> KeyList:
    """Return all keys without their secrets, those that expired or were revoked among them."""
    return KeyList(keys=gateway.store.keys.list())


@router.get(
    "/{key_id}",
    summary="A key",
    responses={200: examples.answers(examples.KEY), **documented(STATUSES, KeyNotFound)},
)
def show(key_id: str, gateway: GatewayDep) -> KeyView:
    """Return for whom the key acts, what it allows, and until when."""
    return gateway.store.keys.show(key_id)


@router.delete(
    "/{key_id}",
    summary="Revoke a key",
    responses={200: examples.answers(examples.KEY_REVOKED), **documented(STATUSES, KeyNotFound, StoreFull)},
)
def revoke(key_id: str, gateway: GatewayDep) -> KeyView:
    """Let the key allow nothing any more: in this process at once, in all others within half a second.

    It stays in the list, so that its id in a log can be told. What its owner has stays as it is.
    """
    revoked = gateway.store.keys.revoke(key_id)
    _follow(gateway)
    return revoked


def _follow(gateway: Gateway) -> None:
    if gateway.ring is not None:
        gateway.ring.refresh()
