"""One request by the short way, from its head to its written answer."""

import logging
import time
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from services.gateway.access.audit import CODES, refused
from services.gateway.errors import STATUSES
from services.gateway.hot.apart import SMALL_PIXELS, is_small
from services.gateway.hot.asked import Asked, Options
from services.gateway.hot.forms import plain_form
from services.gateway.hot.heads import Head
from services.gateway.observability.ended import Ended
from services.gateway.routes.predictions import (
    IMAGE_TYPES,
    MULTIPART,
    PATH,
    STUDENT_HEADER,
    answer_apart,
    ask,
    charge_others,
    form_images,
    need_cascade,
    need_teacher,
    options_of,
)
from services.gateway.state import Gateway
from shared import logs
from shared.adapters.web.access import ANYBODY, Caller
from shared.adapters.web.boundary import Tally, request_id_of
from shared.adapters.web.problems import refusal
from shared.contracts.keys import Scope
from shared.errors import DistillationError, NoImages, UnsupportedMediaType
from shared.serving.images import EncodedImage, plain_pixels
from shared.serving.session import StudentSession

if TYPE_CHECKING:
    from services.gateway.hot.protocol import HotProtocol

log = logging.getLogger(__name__)

_STUDENT = STUDENT_HEADER.lower().encode()
_NO_FILE = (None,)

_tally = Tally(PATH, "POST")


class Exchange:
    """A request and its answer. It has what uvicorn's protocol asks of an exchange that is under way."""

    __slots__ = (
        "_began",
        "_caller",
        "_gateway",
        "_head",
        "_identifier",
        "_protocol",
        "_student",
        "disconnected",
        "keep_alive",
        "pieces",
        "response_complete",
    )

    def __init__(self, protocol: "HotProtocol", gateway: Gateway, head: Head, caller: Caller) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = not protocol.last
        self.pieces: list[bytes] = []
        self._began = time.perf_counter()
        self._protocol = protocol
        self._gateway = gateway
        self._head = head
        self._caller = caller
        self._identifier = request_id_of(head.identifier)
        self._student: StudentSession | None = None

    @property
    def began(self) -> float:
        """`time.perf_counter()` when its head had come."""
        return self._began

    @property
    def message_event(self) -> "Exchange":
        """What uvicorn's protocol sets when the connection is lost."""
        return self

    def set(self) -> None:
        """Do nothing: nobody waits for a message here."""

    def answer(self) -> None:
        """Answer now, or with the next call of the student."""
        try:
            head, caller = self._head, self._caller
            if caller is not ANYBODY:
                self._gateway.limits.take(caller, 1)
                caller.need(Scope.PREDICT)
            options = options_of(head.query, head.deadline, self._began)
            if options.threshold:
                need_cascade(caller, options)
            data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
            self.pieces = []
            if head.media_type is not None and _is_form(head.media_type):
                settings = self._gateway.settings
                images = plain_form(
                    head.media_type,
                    data,
                    most_images=settings.max_images,
                    most_bytes=settings.max_image_bytes,
                )
                if images is None:
                    self._apart(self._answer_form(head.media_type, data, options))
                else:
                    self._answer_images(images, options)
                return
            if not data:
                raise NoImages("the body is empty")
            self._answer_images((EncodedImage(data),), options)
        except Exception as error:  # noqa: BLE001 - the last line of defence, as the boundary is
            self._done(error)

    def _answer_images(self, images: Sequence[EncodedImage], options: Options) -> None:
        if len(images) > 1:
            charge_others(self._gateway, self._caller, len(images))
        self._student = student = self._gateway.traffic.student(self._head.key)
        if options.threshold:
            need_teacher(self._gateway, self._caller, student)
        if len(images) == 1 and self._ask_plain(student, images[0], options):
            return
        if is_small(student, images):
            ask(self._gateway, student, images, options, self._done)
        else:
            self._apart(self._answer_apart(student, images, options))

    def _apart(self, answering: Coroutine[Any, Any, None]) -> None:
        task = self._protocol.loop.create_task(answering)
        tasks = self._protocol.tasks  # uvicorn waits for them when it stops
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _ask_plain(self, student: StudentSession, image: EncodedImage, options: Options) -> bool:
        """Ask about an image that comes as the student takes it, or return False; as `ask` does."""
        gateway = self._gateway
        plain = student.plain_png
        if plain.image_pixels > SMALL_PIXELS or not plain.begins(image.data):
            return False
        gateway.batches.need_room(student, 1)
        decoding = time.perf_counter()
        pixels = plain_pixels(image.data, plain, gateway.image_limits)
        if pixels is None:
            return False
        decode_s = time.perf_counter() - decoding
        threshold = options.threshold
        if threshold is None:
            threshold = gateway.traffic.threshold(student)
        gateway.batches.submit(
            Asked(
                student,
                (pixels,),
                _NO_FILE if image.file is None else (image.file,),
                options,
                decode_s=decode_s,
                done=self._done,
                threshold=threshold,
            )
        )
        return True

    def count(self, status: int) -> None:
        """Count the answer, with all those of this turn of the event loop."""
        if _tally.add(status, time.perf_counter() - self._began):
            self._protocol.loop.call_soon(_tally.count)

    async def _answer_form(self, media_type: bytes, data: bytes, options: Options) -> None:
        """Answer a form that is not as plain as can be, read as the app reads it."""

        async def receive() -> Message:
            return {"type": "http.request", "body": data, "more_body": False}

        try:
            request = Request({"type": "http", "headers": [(b"content-type", media_type)]}, receive)
            self._answer_images(await form_images(request, self._gateway.settings), options)
        except Exception as error:  # noqa: BLE001 - see above
            self._done(error)

    async def _answer_apart(
        self, student: StudentSession, images: Sequence[EncodedImage], options: Options
    ) -> None:
        try:
            answer = await answer_apart(self._gateway, student, images, options)
        except Exception as error:  # noqa: BLE001 - see above
            self._done(error)
        else:
            self._done(answer)

    def _done(self, found: bytes | Exception) -> None:
        if isinstance(found, Exception):
            self._refuse(found)
            return
        assert self._student is not None
        self._send(200, _answer_head(self._protocol.server_state.default_headers, self._student), found)

    def _refuse(self, error: Exception) -> None:
        token = logs.request_id.set(self._identifier)
        try:
            response = refusal(error, STATUSES)
            if response.status_code == 500 and not isinstance(error, DistillationError):
                log.error("unhandled error", extra={"path": PATH}, exc_info=error)
            if response.status_code in CODES:
                refused(response.status_code, self._caller, "POST", PATH, PATH.encode())
        finally:
            logs.request_id.reset(token)
        headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
        default = self._protocol.server_state.default_headers
        head = _lines(response.status_code, [*default, *headers])
        self._send(response.status_code, head, bytes(response.body))

    def tell(self, status: int, sent_bytes: int = 0) -> None:
        """Tell those who watch that the request has ended."""
        for watcher in self._gateway.watchers:
            watcher.ended(self._ended(status, sent_bytes))

    def _ended(self, status: int, sent_bytes: int) -> Ended:
        head, student = self._head, self._student
        answered = student is not None and status < HTTPStatus.BAD_REQUEST
        return Ended(
            began=self._began,
            ended=time.perf_counter(),
            request_id=self._identifier,
            method="POST",
            path=PATH,
            route=PATH,
            query=head.query,
            status=status,
            # Those that left before their request was whole have pieces still.
            received_bytes=sum(map(len, self.pieces)) if self.pieces else head.length,
            sent_bytes=sent_bytes,
            student=student.version if student is not None and answered else None,
            traceparent=head.traceparent,
            tracestate=head.tracestate,
            key_id=self._caller.key_id,
        )

    def _send(self, status: int, head: bytes, body: bytes) -> None:
        protocol = self._protocol
        self.response_complete = True
        self.count(status)
        self.tell(status, len(body))
        if self.disconnected:
            return
        ends = b"" if self.keep_alive else b"connection: close\r\n"
        protocol.transport.write(
            b"%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (head, len(body), self._identifier.encode(), ends, body)
        )
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


_answers: tuple[object, object, bytes] = (None, None, b"")
"""The head of the last answer, with the default headers and the student that it was made of."""


def _answer_head(default: list[tuple[bytes, bytes]], student: StudentSession) -> bytes:
    """Return what all answers of a student within a second have in common; the date is new each second."""
    global _answers
    made_of, of, head = _answers
    if made_of is not default or of is not student:
        version = student.version.encode()
        head = _lines(200, [*default, (b"content-type", b"application/json"), (_STUDENT, version)])
        _answers = default, student, head
    return head


def _is_form(media_type: bytes) -> bool:
    """Tell a form from an image; raise `UnsupportedMediaType` where it is neither."""
    given = media_type.decode("latin-1").partition(";")[0].strip().lower()
    if given and given not in (MULTIPART, *IMAGE_TYPES):
        raise UnsupportedMediaType(given, (*IMAGE_TYPES, MULTIPART))
    return given == MULTIPART


def _lines(status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % pair for pair in headers)
