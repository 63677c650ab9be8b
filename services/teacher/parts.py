"""What the routes are handed: the parts that `app.py` put together."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Final, TypeVar

import anyio
from anyio import to_thread
from fastapi import Depends, Request

from services.teacher.batchers import Batchers
from services.teacher.budgets import Budgets
from services.teacher.device import black, device_name
from services.teacher.models import Teachers
from services.teacher.settings import TeacherSettings
from shared.adapters.web.access import Caller
from shared.artefacts.owners import Owners
from shared.artefacts.store import ArtefactStore
from shared.contracts.teachers import Lane, TeacherDescription, TeacherView
from shared.datasets.images import ImageLimits
from shared.errors import DistillationError, TeacherNotFound

log = logging.getLogger(__name__)

_HEADER_BYTES: Final = 4096
"""Of a safetensors body, at most: what is left of the limit is pixels."""

T = TypeVar("T")


@dataclass
class Parts:
    """One of each; made when the service starts."""

    settings: TeacherSettings
    teachers: Teachers
    batchers: Batchers
    budgets: Budgets
    limiters: Mapping[Lane, anyio.CapacityLimiter]
    """Of what blocks (files, decoding, encoding) and so happens off the event loop; bulk takes no place from
    interactive requests."""
    warm: bool = field(default=False)
    """Whether the teachers that there were at the start are loaded and measured."""

    @property
    def image_limits(self) -> ImageLimits:
        """What one encoded image may cost."""
        return ImageLimits(size_bytes=self.settings.max_image_bytes, pixels=self.settings.max_image_pixels)

    def sees(self, caller: Caller, name: str) -> bool:
        """Tell whether a teacher of this name, if there is one, is there for the caller."""
        return caller.confined_to is None or self._owners.may_see("teachers", name, caller.confined_to)

    def need_seen(self, caller: Caller, name: str) -> None:
        """Raise `TeacherNotFound` where the teacher is another owner's, as where there is none."""
        if not self.sees(caller, name):
            raise TeacherNotFound(name)

    @cached_property
    def _owners(self) -> Owners:
        return ArtefactStore(self.settings.store_dir).owners

    async def aside(self, function: Callable[[], T], lane: Lane = "interactive") -> T:
        """Run a function that blocks on a thread; the event loop stays free."""
        return await to_thread.run_sync(function, limiter=self.limiters[lane])

    async def warm_up(self) -> None:
        """Load the newest teachers, as many as are held, and run them at the sizes of batches in use.

        One that cannot be loaded is logged: it must not keep the others from answering.
        """
        found = await self.aside(self.teachers.describe_all, "bulk")
        newest = sorted(found, key=lambda teacher: teacher.created_at, reverse=True)
        for teacher in newest[: self.settings.max_held]:
            try:
                _, model = await self.aside(partial(self.teachers.hold, teacher.name), "bulk")
                if not model.elsewhere:  # another machine is neither ours to warm nor to wait for
                    await self.batchers.of(model).ask(model, black(model, 1), temperature=1.0, lane="bulk")
            except DistillationError as error:
                log.warning("teacher not warmed up", extra={"teacher": teacher.name, "detail": str(error)})
            except Exception:  # whatever a library raises: its requests will be told
                log.exception("teacher not warmed up", extra={"teacher": teacher.name})
        self.warm = True
        log.info("warm", extra={"teachers": len(newest[: self.settings.max_held])})

    def lane_of(self, rows: int) -> Lane:
        """Return the lane of a request that names none."""
        return "interactive" if rows <= self.settings.interactive_rows else "bulk"

    def most_rows(self, teacher: TeacherDescription) -> int:
        """Return how many of its images one request may carry: by their number, and by their bytes."""
        fitting = (self.settings.max_body_bytes - _HEADER_BYTES) // teacher.preprocessing.input.values
        return max(1, min(self.settings.max_rows, fitting))

    def view(self, teacher: TeacherDescription) -> TeacherView:
        """Return a teacher as it is shown."""
        return TeacherView(
            name=teacher.name,
            digest=teacher.digest,
            classes=teacher.classes,
            input=teacher.preprocessing.input,
            model=teacher.model,
            tempers=teacher.tempers,
            test_accuracy=teacher.test_accuracy,
            device=device_name(self.teachers.device),
            precision=teacher.precision,
            most_rows=self.most_rows(teacher),
        )


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(_parts)]
