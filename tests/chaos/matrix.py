"""Every route of the gateway, what it is asked with, and whose the thing is that it names.

`TABLE` is compared with the routes that the app has: a new one fails until it stands here, with the scope
that it should need. That is written by hand: who changes a route's scope changes it here, too, or is told.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from services.gateway.settings import GatewaySettings
from shared.adapters.web.scopes import scope_of
from shared.artefacts.checkpoints import CheckpointFolder
from shared.artefacts.datasets import Split
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import JobResult
from shared.contracts.keys import KeyRequest, Scope
from shared.jobs.memory_store import MemoryJobStore
from shared.transfer_set.store import TransferSetStore
from tests.support.gateway_in_process import image_file
from tests.support.jobs import teacher_spec
from tests.support.student_bundles import DIGITS, write_bundle
from tests.support.teachers_at_rest import publish_teacher
from tests.support.transfer_sets import write_set

Owner = Literal["ann", "bob", "nobody", "missing"]
"""Whose a thing is: the caller's, another's, of the time before keys; or it does not exist."""
OWNERS: tuple[Owner, ...] = ("ann", "bob", "nobody")

Request = tuple[str, str, dict[str, Any]]
"""Method, URL and what else `httpx` is told."""


class World:
    """An installation in which things can be made for an owner, each under a name of its own."""

    def __init__(self, settings: GatewaySettings, jobs: MemoryJobStore) -> None:
        self.store = ArtefactStore(settings.store_dir)
        self.sets = TransferSetStore(settings.transfer_sets_place, settings.transfer_sets_cache)
        self.jobs = jobs
        self._numbers = count(1)
        self._digits = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), dtype=np.uint8)

    def key(self, owner: str, *scopes: Scope) -> dict[str, str]:
        """Return the header with a new key."""
        made = self.store.keys.make(KeyRequest(name="a-key", owner=owner, scopes=scopes))
        return {"Authorization": f"Bearer {made.key}"}

    def dataset(self, owner: Owner) -> str:
        name = self._name()
        if owner != "missing":
            labels = np.arange(len(self._digits), dtype=np.int64) % 10
            every = Split(self._digits, labels)
            self.store.owners.add("datasets", name, _noted(owner))
            self.store.datasets.put(
                name, dict.fromkeys(("train", "validation", "test"), every), classes=DIGITS, source="noise"
            )
        return name

    def teacher(self, owner: Owner) -> str:
        name = self._name()
        if owner != "missing":
            self.store.owners.add("teachers", name, _noted(owner))
            publish_teacher(self.store, name)
        return name

    def student(self, owner: Owner) -> str:
        version = self._name()
        if owner != "missing":
            self.store.owners.add("students", version, _noted(owner))
            self.store.students.publish(version, lambda directory: _written(directory, version))
        return version

    def transfer_set(self, owner: Owner) -> str:
        number = next(self._numbers)
        if owner == "missing":
            return f"{number:064x}"
        digest = write_set(self.sets, teacher=f"teacher-{number}").digest
        self.store.owners.add("transfer_sets", digest, _noted(owner))
        return digest

    def job(self, owner: Owner, state: Literal["queued", "paused", "succeeded"] = "queued") -> str:
        job_id = f"j-{next(self._numbers):012d}"
        if owner == "missing":
            return job_id
        self.jobs.submit(job_id, teacher_spec(), owner=_noted(owner))
        if state == "paused":
            self.jobs.request_pause(job_id)
        elif state == "succeeded":
            folder = self.store.job(job_id).directory
            folder.mkdir(parents=True)
            (folder / "report.md").write_text("# Report\n")
            (folder / "report.json").write_text('{"plots": []}')
            CheckpointFolder(self.store.job(job_id).checkpoints / "training").save({"epoch": 1}, b"weights")
            grant = self.jobs.acquire(job_id, 30.0, 3)
            assert grant is not None
            self.jobs.succeed(job_id, grant.epoch, JobResult(teacher="big"))
        return job_id

    def _name(self) -> str:
        return f"thing-{next(self._numbers)}"


def _noted(owner: Owner) -> str | None:
    return None if owner == "nobody" else owner


def _written(directory: Any, version: str) -> None:
    write_bundle(directory, version)


@dataclass(frozen=True)
class Case:
    """One route.

    `kind` says what the owner decides. `thing`: it is not found unless it is the caller's. `list`: it is
    left out unless it is the caller's. `none`: nobody's thing is named.
    """

    kind: Literal["thing", "list", "none"]
    ask: Callable[[World, Owner], tuple[str, dict[str, Any]]]
    """Makes a thing for an owner, and returns a URL and what else is sent; with `list` the name is in it."""
    ok: frozenset[int] = frozenset({200})
    listed: Callable[[Any], list[str]] = field(default=lambda body: [])
    """Names in the answer of a list."""
    but: frozenset[int] = frozenset()
    """Answers that show that the caller came through, where the world has not what the route needs."""
    scope: Scope | None = None
    """That a caller should need; None where anybody may ask."""


def thing(url: str, make: Callable[[World, Owner], str], ok: int = 200, **sent: Any) -> Case:
    """Return the case of a route that names a thing in its path."""
    return Case("thing", lambda world, owner: (url.format(make(world, owner)), sent), frozenset({ok}))


def ordered(url: str, order: Callable[[World, Owner], dict[str, Any]], ok: int = 201) -> Case:
    """Return the case of a route that names a thing in its body."""
    return Case("thing", lambda world, owner: (url, {"json": order(world, owner)}), frozenset({ok}))


def listing(url: str, make: Callable[[World, Owner], str], member: str, name: str) -> Case:
    """Return the case of a list: `body[member][…][name]`."""

    def ask(world: World, owner: Owner) -> tuple[str, dict[str, Any]]:
        return url, {"made": make(world, owner)}

    return Case("list", ask, listed=lambda body: [one[name] for one in body[member]])


def plain(url: str, ok: int = 200, but: tuple[int, ...] = (), **sent: Any) -> Case:
    """Return the case of a route that names nobody's thing."""
    return Case("none", lambda world, owner: (url, sent), frozenset({ok}), but=frozenset(but))


PNG = {"content": image_file(), "headers": {"Content-Type": "image/png"}}
PIXELS = {
    "json": {
        "inputs": [
            {"name": "images", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [0] * 784},
        ]
    }
}
UPLOAD = {"data": {"name": "../no-name"}, "files": [("files", ("a.zip", b"no zip"))]}
"""Is refused for its name: by then the caller has come through."""
KEY = {"name": "a-key", "owner": "bob", "scopes": ["predict"]}

_student, _dataset, _teacher, _set = World.student, World.dataset, World.teacher, World.transfer_set


def _key(world: World) -> str:
    return world.store.keys.make(KeyRequest.model_validate(KEY)).id


def _succeeded(world: World, owner: Owner) -> str:
    return world.job(owner, "succeeded")


def _paused(world: World, owner: Owner) -> str:
    return world.job(owner, "paused")


def _order(world: World, owner: Owner) -> dict[str, Any]:
    return {"kind": "teacher", "name": world.teacher("missing"), "dataset": world.dataset(owner)}


def _set_order(world: World, owner: Owner) -> dict[str, Any]:
    return {"name": "views", "teacher": world.teacher(owner), "dataset": "mnist-5k"}


def _ensemble_order(world: World, owner: Owner) -> dict[str, Any]:
    members = [world.teacher(owner), world.teacher(owner)]
    return {"name": world.teacher("missing"), "source": {"kind": "ensemble", "members": members}}


def _check(world: World, owner: Owner) -> tuple[str, dict[str, Any]]:
    return f"/v1/teachers/{world.teacher(owner)}/check", {"json": {"dataset": "mnist-5k"}}


def needing(scope: Scope | None, cases: dict[tuple[str, str], Case]) -> dict[tuple[str, str], Case]:
    """Return these routes with the scope that they should need; None for public ones."""
    return {route: replace(case, scope=scope) for route, case in cases.items()}


TABLE: dict[tuple[str, str], Case] = {
    # Public: health, metrics, the description of the API.
    **needing(
        None,
        {
            ("GET", "/openapi.json"): plain("/openapi.json"),
            ("GET", "/docs"): plain("/docs"),
            ("GET", "/docs/oauth2-redirect"): plain("/docs/oauth2-redirect"),
            ("GET", "/redoc"): plain("/redoc"),
            ("GET", "/health/live"): plain("/health/live"),
            ("GET", "/health/ready"): plain("/health/ready"),
            ("GET", "/metrics"): plain("/metrics"),
            ("GET", "/v2/health/live"): plain("/v2/health/live"),
            ("GET", "/v2/health/ready"): plain("/v2/health/ready"),
        },
    ),
    # The student that answers everybody, and any other of one's own.
    **needing(
        Scope.PREDICT,
        {
            ("POST", "/v1/predictions"): plain("/v1/predictions", **PNG),
            ("GET", "/v2"): plain("/v2"),
            ("GET", "/v2/models/{name}"): plain("/v2/models/digits"),
            ("GET", "/v2/models/{name}/ready"): plain("/v2/models/digits/ready"),
            ("POST", "/v2/models/{name}/infer"): plain("/v2/models/digits/infer", **PIXELS),
            ("GET", "/v2/models/{name}/versions/{version}"): thing("/v2/models/digits/versions/{}", _student),
            ("GET", "/v2/models/{name}/versions/{version}/ready"): thing(
                "/v2/models/digits/versions/{}/ready", _student
            ),
            ("POST", "/v2/models/{name}/versions/{version}/infer"): thing(
                "/v2/models/digits/versions/{}/infer", _student, **PIXELS
            ),
        },
    ),
    # Jobs, and reading and deleting what is one's own.
    **needing(
        Scope.JOBS,
        {
            ("GET", "/v1/students"): listing("/v1/students", _student, "students", "version"),
            ("GET", "/v1/students/{version}"): thing("/v1/students/{}", _student),
            ("DELETE", "/v1/students/{version}"): thing("/v1/students/{}", _student, 204),
            ("GET", "/v1/students/{version}/files/{name}"): thing(
                "/v1/students/{}/files/model.onnx", _student
            ),
            ("GET", "/v1/students/{version}/comparison"): thing("/v1/students/{}/comparison", _student),
            ("POST", "/v1/jobs"): ordered("/v1/jobs", _order),
            ("GET", "/v1/jobs"): listing("/v1/jobs?limit=100", World.job, "jobs", "id"),
            ("GET", "/v1/jobs/{job_id}"): thing("/v1/jobs/{}", World.job),
            ("POST", "/v1/jobs/{job_id}/cancel"): thing("/v1/jobs/{}/cancel", World.job),
            ("POST", "/v1/jobs/{job_id}/pause"): thing("/v1/jobs/{}/pause", World.job),
            ("POST", "/v1/jobs/{job_id}/resume"): thing("/v1/jobs/{}/resume", _paused),
            ("GET", "/v1/jobs/{job_id}/events"): thing("/v1/jobs/{}/events", _succeeded),
            ("GET", "/v1/jobs/{job_id}/checkpoint"): thing("/v1/jobs/{}/checkpoint", _succeeded),
            ("GET", "/v1/jobs/{job_id}/report"): thing("/v1/jobs/{}/report", _succeeded),
            ("GET", "/v1/jobs/{job_id}/report/files/{name}"): thing(
                "/v1/jobs/{}/report/files/report.md", _succeeded
            ),
            ("GET", "/v1/datasets"): listing("/v1/datasets", _dataset, "datasets", "name"),
            ("GET", "/v1/datasets/{name}"): thing("/v1/datasets/{}", _dataset),
            ("GET", "/v1/teachers"): listing("/v1/teachers", _teacher, "teachers", "name"),
            ("GET", "/v1/teachers/{name}"): thing("/v1/teachers/{}", _teacher),
            ("POST", "/v1/teachers/{name}/check"): Case("thing", _check, frozenset({201})),
            ("POST", "/v1/transfer-sets"): ordered("/v1/transfer-sets", _set_order),
            ("GET", "/v1/transfer-sets"): listing(
                "/v1/transfer-sets?limit=100", _set, "transfer_sets", "digest"
            ),
            ("GET", "/v1/transfer-sets/{digest}"): thing("/v1/transfer-sets/{}", _set),
            ("DELETE", "/v1/transfer-sets/{digest}"): thing("/v1/transfer-sets/{}", _set, 204),
        },
    ),
    # What comes from outside.
    **needing(
        Scope.UPLOAD,
        {
            ("POST", "/v1/datasets"): plain("/v1/datasets", but=(422,), **UPLOAD),
            ("POST", "/v1/teachers"): ordered("/v1/teachers", _ensemble_order),
        },
    ),
    # All that shows what a teacher says.
    **needing(
        Scope.TEACH,
        {
            ("GET", "/v1/transfer-sets/{digest}/files/{name}"): thing(
                "/v1/transfer-sets/{}/files/manifest.json", _set
            ),
            ("GET", "/v1/transfer-sets/{digest}/download"): thing("/v1/transfer-sets/{}/download", _set),
        },
    ),
    # Who answers, what is kept of it, who has keys.
    **needing(
        Scope.ADMIN,
        {
            ("POST", "/v1/students/{version}/promote"): thing("/v1/students/{}/promote", _student),
            ("POST", "/v1/students/rollback"): plain("/v1/students/rollback", but=(409,)),
            ("GET", "/v1/traffic"): plain("/v1/traffic"),
            ("PUT", "/v1/traffic"): plain("/v1/traffic", json={}),
            ("DELETE", "/v1/traffic"): plain("/v1/traffic"),
            ("POST", "/v1/keys"): plain("/v1/keys", 201, json=KEY),
            ("GET", "/v1/keys"): plain("/v1/keys"),
            ("GET", "/v1/keys/{key_id}"): Case("none", lambda world, owner: (f"/v1/keys/{_key(world)}", {})),
            ("DELETE", "/v1/keys/{key_id}"): Case(
                "none", lambda world, owner: (f"/v1/keys/{_key(world)}", {})
            ),
            ("GET", "/v1/kept"): plain("/v1/kept"),
            ("GET", "/v1/kept/{collection}"): plain("/v1/kept/unsure", but=(404,)),
            ("DELETE", "/v1/kept/{collection}"): plain("/v1/kept/unsure", but=(404,)),
        },
    ),
}


def routes_of(app: FastAPI) -> dict[tuple[str, str], Scope | None]:
    """Return the scope of every route of an app, by method and path."""
    found = {}
    for route in _walk(app.routes):
        assert isinstance(route, Route | APIRoute), f"{route} is no route that this test knows"
        for method in (route.methods or set()) - {"HEAD"}:
            found[method, route.path] = scope_of(route)
    return found


def _walk(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from _walk(included.routes)


def essence(answer: Any, *names: str) -> str:
    """Return the body of a refusal without what differs from request to request."""
    body = json.dumps({**answer.json(), "request_id": ""}, sort_keys=True)
    for name in sorted(filter(None, names), key=len, reverse=True):
        body = body.replace(name, "…")
    return body
