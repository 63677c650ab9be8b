"""Teachers, as the artefact store describes them. The teacher service is the one that answers for them."""

from fastapi import APIRouter

from services.gateway import examples
from services.gateway.errors import STATUSES
from services.gateway.state import GatewayDep
from shared.adapters.web.problems import documented
from shared.contracts.teachers import TeacherDescription, TeacherDescriptions
from shared.errors import TeacherNotFound

router = APIRouter(prefix="/v1/teachers", tags=["teachers"])


@router.get("", summary="List teachers", responses={200: examples.answers(examples.TEACHERS)})
def list_teachers(gateway: GatewayDep) -> TeacherDescriptions:
    """Return all teachers by name, each as it is now."""
    return TeacherDescriptions(teachers=gateway.catalogue.teachers())


@router.get(
    "/{name}",
    summary="A teacher",
    responses={200: examples.answers(examples.TEACHER), **documented(STATUSES, TeacherNotFound)},
)
def show(name: str, gateway: GatewayDep) -> TeacherDescription:
    """Return the teacher's classes, input, architecture and digest."""
    return gateway.catalogue.teacher(name)
