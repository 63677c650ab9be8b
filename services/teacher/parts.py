"""What the routes are handed: the parts that `app.py` put together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import anyio
from anyio import to_thread
from fastapi import Depends, Request

from services.teacher.batching import Batcher
from services.teacher.device import device_name
from services.teacher.models import Teachers
from services.teacher.settings import TeacherSettings
from shared.contracts.teachers import TeacherDescription, TeacherView
from shared.datasets.images import ImageLimits
from shared.models.ensemble import StackedEnsemble

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """One of each; made when the service starts."""

    settings: TeacherSettings
    teachers: Teachers
    batcher: Batcher[StackedEnsemble]
    limiter: anyio.CapacityLimiter
    """Of what blocks (files, decoding, encoding) and so happens off the event loop."""

    @property
    def image_limits(self) -> ImageLimits:
        """What one encoded image may cost."""
        return ImageLimits(size_bytes=self.settings.max_image_bytes, pixels=self.settings.max_image_pixels)

    async def aside(self, function: Callable[[], T]) -> T:
        """Run a function that blocks on a thread; the event loop stays free."""
        return await to_thread.run_sync(function, limiter=self.limiter)

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
            most_rows=self.settings.max_rows,
        )


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(_parts)]
