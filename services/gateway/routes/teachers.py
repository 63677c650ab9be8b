"""Teachers: those that the artefact store describes, new ones from outside, and whether one is any good.

The teacher service is the one that answers for them. Nothing here runs a model: jobs do.
"""

from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response, status

from services.gateway import examples
from services.gateway.errors import STATUSES, TOO_MUCH, UNREADABLE
from services.gateway.parts import media_type
from services.gateway.state import CallerDep, CatalogueDep, GatewayDep
from services.gateway.uploads.teachers import (
    check_without_files,
    discard,
    order_of,
    read_words,
    take_in_teacher,
)
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import ScopedRoute, needs
from shared.contracts.findings import TeacherCheckOrder
from shared.contracts.jobs import JobView
from shared.contracts.keys import Scope
from shared.contracts.specs import TeacherCheckSpec
from shared.contracts.teachers import TeacherDescription, TeacherDescriptions
from shared.errors import (
    ArchitectureInvalid,
    BodyTooLarge,
    ClassMismatch,
    DatasetNotFound,
    IncomingNotFound,
    InputMismatch,
    InvalidEnsemble,
    InvalidModelFiles,
    JobStoreUnavailable,
    MalformedBody,
    OipHostNotAllowed,
    PickleRefused,
    QueueFull,
    StoreFull,
    TeacherDoesNotTemper,
    TeacherExists,
    TeacherNotFound,
    UnsupportedMediaType,
)

router = APIRouter(prefix="/v1/teachers", tags=["teachers"], route_class=ScopedRoute)

JSON = "application/json"
MULTIPART = "multipart/form-data"

_SPEC_REF = {"$ref": "#/components/schemas/TeacherImportSpec"}
_BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["teacher", "files"],
                    "properties": {
                        "teacher": _SPEC_REF,
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "The files of the model under the names that its kind of source "
                            "has (model.safetensors, config.json, model.onnx, …), or one zip of them.",
                        },
                    },
                },
                "encoding": {"teacher": {"contentType": JSON}},
            },
            JSON: {
                "schema": _SPEC_REF,
                "examples": {
                    "oip": {
                        "summary": "A server that speaks the Open Inference Protocol",
                        "value": examples.OIP_ORDER.model_dump(mode="json", exclude_defaults=True),
                    },
                    "ensemble": {
                        "summary": "An ensemble of teachers that are here",
                        "value": examples.ENSEMBLE_ORDER.model_dump(mode="json", exclude_defaults=True),
                    },
                },
            },
        },
    }
}


@router.post(
    "",
    dependencies=[needs(Scope.UPLOAD)],
    status_code=status.HTTP_201_CREATED,
    summary="Bring a teacher",
    openapi_extra=_BODIES,
    responses={
        201: examples.located(examples.IMPORT_JOB),
        **documented(
            STATUSES,
            InvalidModelFiles,
            ArchitectureInvalid,
            PickleRefused,
            ClassMismatch,
            InputMismatch,
            InvalidEnsemble,
            OipHostNotAllowed,
            TeacherDoesNotTemper,
            MalformedBody,
            BodyTooLarge,
            UnsupportedMediaType,
            DatasetNotFound,
            TeacherNotFound,
            TeacherExists,
            IncomingNotFound,
            QueueFull,
            StoreFull,
            *TOO_MUCH,
            JobStoreUnavailable,
        ),
    },
)
async def add(
    request: Request,
    response: Response,
    gateway: GatewayDep,
    caller: CallerDep,
    catalogue: CatalogueDep,
) -> JobView:
    """Take in a model that was trained elsewhere, and submit the job that reads, tries and publishes it.

    As a form: the field `teacher` with the order as JSON, then the files. As plain JSON where nothing is
    uploaded: a folder of the store, a server, an ensemble. No pickle is read, whatever its name. Sending the
    same model again makes the same teacher; another one under a name of one's own becomes its new current.
    """
    given = media_type(request)
    if given == MULTIPART:
        order = await take_in_teacher(request, gateway, catalogue)
    elif given == JSON:
        order = order_of(await read_words(request, gateway.settings.max_body_bytes))
        await anyio.to_thread.run_sync(check_without_files, order, gateway, catalogue)
    else:
        raise UnsupportedMediaType(given or None, (MULTIPART, JSON))
    try:
        job, _ = await anyio.to_thread.run_sync(
            gateway.jobs.submit, order, None, caller.owner, catalogue, caller.key_id
        )
    except BaseException:
        await anyio.to_thread.run_sync(discard, order, gateway)
        raise
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


@router.get(
    "",
    dependencies=[needs(Scope.JOBS)],
    summary="List teachers",
    responses={200: examples.answers(examples.TEACHERS)},
)
def list_teachers(catalogue: CatalogueDep) -> TeacherDescriptions:
    """Return one's own teachers by name, each as it is now; an administrator's list has everybody's."""
    return TeacherDescriptions(teachers=catalogue.teachers())


@router.get(
    "/{name}",
    dependencies=[needs(Scope.JOBS)],
    summary="A teacher",
    responses={200: examples.answers(examples.TEACHER), **documented(STATUSES, TeacherNotFound)},
)
def show(name: str, catalogue: CatalogueDep) -> TeacherDescription:
    """Return the teacher's classes, input, model, precision, origin and digest."""
    return catalogue.teacher(name)


@router.post(
    "/{name}/check",
    dependencies=[needs(Scope.JOBS)],
    status_code=status.HTTP_201_CREATED,
    summary="Check a teacher on a dataset",
    responses={
        201: examples.located(examples.CHECK_JOB),
        400: UNREADABLE,
        **documented(
            STATUSES, TeacherNotFound, DatasetNotFound, BodyTooLarge, *TOO_MUCH, JobStoreUnavailable
        ),
    },
)
def check(
    name: str,
    order: TeacherCheckOrder,
    response: Response,
    gateway: GatewayDep,
    caller: CallerDep,
    catalogue: CatalogueDep,
) -> JobView:
    """Submit the job that tries a teacher on a dataset; its report is a list of what was found."""
    teacher = catalogue.teacher(name)
    spec = TeacherCheckSpec(name=teacher.name, dataset=order.dataset, claimed_accuracy=order.claimed_accuracy)
    job, _ = gateway.jobs.submit(spec, owner=caller.owner, catalogue=catalogue, key_id=caller.key_id)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job
