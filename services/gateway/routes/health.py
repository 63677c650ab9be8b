"""Whether the process lives, whether requests should be sent to it, and what it has counted."""

from anyio import from_thread
from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from services.gateway.state import GatewayDep
from shared.adapters.web.metrics import exposition
from shared.contracts.health import Liveness, Readiness

router = APIRouter(tags=["health"])


@router.get("/health/live", summary="The process lives")
async def live() -> Liveness:
    """Depend on nothing, so that only a process that is stuck is restarted."""
    return Liveness()


@router.get(
    "/health/ready",
    summary="Requests may be sent here",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Draining, or the promoted student is not loaded"}},
)
async def ready(gateway: GatewayDep) -> Response:
    """Be ready unless the process stops or lacks the promoted student. Redis is only needed for jobs."""
    answer = Readiness(
        ready=gateway.live.ready and not gateway.draining.begun,
        student=gateway.live.version,
        draining=gateway.draining.begun,
        problem=gateway.live.problem,
    )
    return JSONResponse(answer.model_dump(), 200 if answer.ready else 503)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(gateway: GatewayDep) -> Response:
    """Return what this process, or all that share the port, have counted."""
    from_thread.run_sync(gateway.counting.flush)
    return exposition()
