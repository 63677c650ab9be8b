"""How a student does on the traffic, beside the one that is live."""

from anyio import from_thread
from fastapi import APIRouter

from services.gateway import examples
from services.gateway.errors import STATUSES
from services.gateway.observability import comparison
from services.gateway.state import CatalogueDep, GatewayDep
from shared.adapters.web.metrics import samples
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import needs
from shared.contracts.comparisons import StudentComparison
from shared.contracts.keys import Scope
from shared.errors import StudentNotFound

router = APIRouter(prefix="/v1/students", tags=["students"], dependencies=[needs(Scope.JOBS)])


@router.get(
    "/{version}/comparison",
    summary="How a student does on the traffic",
    responses={200: examples.answers(examples.COMPARISON), **documented(STATUSES, StudentNotFound)},
)
def compare(version: str, gateway: GatewayDep, catalogue: CatalogueDep) -> StudentComparison:
    """Return how often it disagreed with the live student and the teacher, what it took, and its drift.

    Counted since the gateway was started, over all its processes. What was not seen is null.
    """
    card = catalogue.student(version)
    from_thread.run_sync(gateway.counting.flush)
    live = gateway.live.version
    role = comparison.role_of(version, live, gateway.traffic.policy)
    return comparison.comparison(card, live, role, comparison.Counts(samples()))
