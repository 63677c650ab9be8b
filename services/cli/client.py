"""A small typed client of the public API: one method an endpoint, problem documents as errors."""

import ipaddress
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from services.cli.errors import CommandFailed, GatewayRefused, GatewayUnreachable
from services.cli.sse import read_events
from shared.contracts.base import Contract
from shared.contracts.datasets import DatasetList, DatasetView
from shared.contracts.findings import TeacherCheckOrder
from shared.contracts.jobs import FINAL_STATES, JobEvent, JobEventKind, JobPage, JobState, JobView
from shared.contracts.predictions import PredictionAnswer
from shared.contracts.problems import Problem
from shared.contracts.reports import Report
from shared.contracts.specs import JobSpec, TransferSetJobSpec
from shared.contracts.students import LiveStudent, StudentCard, StudentList
from shared.contracts.teachers import TeacherDescription, TeacherDescriptions
from shared.contracts.transfer_sets import TransferSetCard, TransferSetPage

ContractT = TypeVar("ContractT", bound=Contract)

PATIENCE_S: Final = 60.0
"""How long `follow` keeps trying while nothing answers."""
_SILENCE_S: Final = 60.0
"""A stream of events that is silent for longer is opened anew."""
_PASSING: Final = frozenset({429, 502, 503, 504})
_REPORT: TypeAdapter[Report] = TypeAdapter(Report)


class GatewayClient:
    """The gateway's public API. Every method may raise `GatewayRefused` or `GatewayUnreachable`.

    Args:
        base_url: scheme, host and port.
        transport: another transport than the network, for tests.
        timeout_s: longest silence inside one request, in seconds.
    """

    def __init__(
        self, base_url: str, *, transport: httpx.BaseTransport | None = None, timeout_s: float = 60.0
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url,
            transport=transport,
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            # No proxy stands between a machine and itself, whatever the environment says.
            trust_env=not _is_local(self.base_url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- jobs ---

    def submit(self, spec: JobSpec | bytes, idempotency_key: str | None = None) -> JobView:
        """Submit a job; bytes go as they are, so that the gateway is the one who judges them.

        A key is made up where none is given, so that one lost answer can be asked for again safely.
        """
        return self._submit("/v1/jobs", spec, idempotency_key)

    def _submit(self, path: str, spec: JobSpec | bytes, idempotency_key: str | None) -> JobView:
        body = spec if isinstance(spec, bytes) else spec.model_dump_json().encode()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key or secrets.token_hex(16),
        }
        try:
            return self._ask(JobView, "POST", path, content=body, headers=headers)
        except GatewayUnreachable:
            return self._ask(JobView, "POST", path, content=body, headers=headers)

    def job(self, job_id: str) -> JobView:
        """Return the job as it is."""
        return self._ask(JobView, "GET", f"/v1/jobs/{quote(job_id, safe='')}")

    def jobs(
        self,
        *,
        state: JobState | None = None,
        kind: str | None = None,
        parent: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> JobPage:
        """Return a page of jobs, newest first; with `parent` only those that this job made."""
        filters = {
            "state": state.value if state else None, "kind": kind, "parent": parent,
            "limit": limit, "cursor": cursor,
        }  # fmt: skip
        parameters = {name: value for name, value in filters.items() if value is not None}
        return self._ask(JobPage, "GET", "/v1/jobs", params=parameters)

    def cancel(self, job_id: str) -> JobView:
        """Ask for a job's end."""
        return self._ask(JobView, "POST", f"/v1/jobs/{quote(job_id, safe='')}/cancel")

    def report(self, job_id: str) -> Report:
        """Return the report of a succeeded job."""
        response = self._send(
            "GET", f"/v1/jobs/{quote(job_id, safe='')}/report", headers={"Accept": "application/json"}
        )
        try:
            return _REPORT.validate_json(response.content)
        except ValidationError as error:
            raise _not_understood(response) from error

    def report_markdown(self, job_id: str) -> str:
        """Return the same report as Markdown."""
        path = f"/v1/jobs/{quote(job_id, safe='')}/report"
        return self._send("GET", path, headers={"Accept": "text/markdown"}).text

    def report_file(self, job_id: str, name: str) -> bytes:
        """Return one of the files that a report lists, such as a plot."""
        path = f"/v1/jobs/{quote(job_id, safe='')}/report/files/{quote(name, safe='')}"
        return self._send("GET", path).content

    def follow(
        self, job_id: str, *, after: str | None = None, patience_s: float = PATIENCE_S
    ) -> Iterator[JobEvent]:
        """Yield the job's events, from its first (or from behind `after`) to the one that ends it.

        A broken stream is taken up behind the last event seen. Nothing is yielded twice.

        Raises:
            GatewayUnreachable: nothing answered for `patience_s` seconds.
        """
        last = after
        failing_since: float | None = None
        pause_s = 0.2
        while True:
            try:
                with self._open_events(job_id, last) as response:
                    failing_since = None
                    for message in read_events(response.iter_bytes()):
                        event = JobEvent.model_validate_json(message.data)
                        last, pause_s = event.id, 0.2
                        yield event
                        if ends(event):
                            return
                # A stream that closed without the end: either the job ended before `after`, or it was cut.
                if self.job(job_id).state in FINAL_STATES:
                    return
            except (httpx.TransportError, GatewayUnreachable, GatewayRefused) as error:
                if isinstance(error, GatewayRefused) and error.status not in _PASSING:
                    raise
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > patience_s:
                    raise GatewayUnreachable(self.base_url, _reason(error)) from error
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)

    @contextmanager
    def _open_events(self, job_id: str, after: str | None) -> Iterator[httpx.Response]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        path = f"/v1/jobs/{quote(job_id, safe='')}/events"
        timeout = httpx.Timeout(_SILENCE_S, connect=5.0)
        with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.is_error:
                response.read()
                raise refusal(response)
            yield response

    # --- predictions, students, teachers, datasets ---

    def predict(self, images: Sequence[Path], *, top: int | None = None) -> PredictionAnswer:
        """Return one prediction an image, in this order."""
        files = [("images", (path.name, path.read_bytes(), "application/octet-stream")) for path in images]
        parameters = {"top": top} if top is not None else {}
        return self._ask(PredictionAnswer, "POST", "/v1/predictions", files=files, params=parameters)

    def students(self) -> StudentList:
        """Return all students, newest first."""
        return self._ask(StudentList, "GET", "/v1/students")

    def student(self, version: str) -> StudentCard:
        """Return a student's card."""
        return self._ask(StudentCard, "GET", f"/v1/students/{quote(version, safe='')}")

    def promote(self, version: str) -> LiveStudent:
        """Let this student answer predictions."""
        return self._ask(LiveStudent, "POST", f"/v1/students/{quote(version, safe='')}/promote")

    def rollback(self) -> LiveStudent:
        """Let the student answer that was live before."""
        return self._ask(LiveStudent, "POST", "/v1/students/rollback")

    def teachers(self) -> TeacherDescriptions:
        """Return all teachers, each as it is now."""
        return self._ask(TeacherDescriptions, "GET", "/v1/teachers")

    def teacher(self, name: str) -> TeacherDescription:
        """Return a teacher as it is now."""
        return self._ask(TeacherDescription, "GET", f"/v1/teachers/{quote(name, safe='')}")

    def add_teacher(
        self, order: bytes, files: Mapping[str, Path], sent: Callable[[int], None] | None = None
    ) -> JobView:
        """Bring a teacher; return the job that reads it.

        Args:
            order: name, source and the rest as JSON; it goes as it is, for the gateway to judge.
            files: what is uploaded with it, by the name that each is sent under.
            sent: is told how many more bytes of the files have gone out.
        """
        if not files:
            headers = {"Content-Type": "application/json"}
            return self._ask(JobView, "POST", "/v1/teachers", content=order, headers=headers)
        with ExitStack() as opened:
            parts: list[Any] = [("teacher", (None, order, "application/json"))]
            for name, path in files.items():
                file = opened.enter_context(path.open("rb"))
                parts.append(("files", (name, _Told(file, sent) if sent is not None else file)))
            return self._ask(JobView, "POST", "/v1/teachers", files=parts, timeout=600.0)

    def check_teacher(self, name: str, order: TeacherCheckOrder) -> JobView:
        """Have a teacher tried on a dataset; return the job."""
        path = f"/v1/teachers/{quote(name, safe='')}/check"
        headers = {"Content-Type": "application/json"}
        return self._ask(JobView, "POST", path, content=order.model_dump_json(), headers=headers)

    def datasets(self) -> DatasetList:
        """Return all datasets, built-in ones too."""
        return self._ask(DatasetList, "GET", "/v1/datasets")

    def add_dataset(self, name: str, files: Sequence[Path]) -> DatasetView:
        """Upload a dataset: one zip, idx files, or Parquet files."""
        opened = [path.open("rb") for path in files]
        try:
            parts = [("files", (path.name, file)) for path, file in zip(files, opened, strict=True)]
            return self._ask(
                DatasetView, "POST", "/v1/datasets", data={"name": name}, files=parts, timeout=600.0
            )
        finally:
            for file in opened:
                file.close()

    # --- transfer sets ---

    def build_transfer_set(
        self, spec: TransferSetJobSpec | bytes, idempotency_key: str | None = None
    ) -> JobView:
        """Submit the job that builds a transfer set; bytes and the key as `submit` takes them."""
        return self._submit("/v1/transfer-sets", spec, idempotency_key)

    def transfer_sets(self, *, limit: int | None = None, cursor: str | None = None) -> TransferSetPage:
        """Return a page of transfer sets, newest first."""
        parameters = {
            name: value for name, value in (("limit", limit), ("cursor", cursor)) if value is not None
        }
        return self._ask(TransferSetPage, "GET", "/v1/transfer-sets", params=parameters)

    def transfer_set(self, digest: str) -> TransferSetCard:
        """Return all that is known of a transfer set."""
        return self._ask(TransferSetCard, "GET", _transfer_set(digest))

    def download_transfer_set(self, digest: str, file: BinaryIO) -> int:
        """Write the tar of a transfer set to a file while it arrives; return how many bytes it has.

        Raises:
            GatewayUnreachable: the answer broke off; what was written is not whole.
            OSError: the file takes no more.
        """
        written = 0
        try:
            with self._http.stream("GET", f"{_transfer_set(digest)}/download") as response:
                if response.is_error:
                    response.read()
                    raise refusal(response)
                for piece in response.iter_bytes():
                    written += file.write(piece)
        except httpx.TransportError as error:
            raise GatewayUnreachable(self.base_url, _reason(error)) from error
        return written

    def delete_transfer_set(self, digest: str) -> None:
        """Delete a transfer set; refused while a job may use it."""
        self._send("DELETE", _transfer_set(digest))

    # --- one request, one contract or one error ---

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise GatewayUnreachable(self.base_url, _reason(error)) from error
        if response.is_error:
            raise refusal(response)
        return response

    def _ask(self, answer: type[ContractT], method: str, path: str, **options: Any) -> ContractT:
        response = self._send(method, path, **options)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise _not_understood(response) from error


class _Told:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, told: Callable[[int], None]) -> None:
        self._file = file
        self._told = told

    def fileno(self) -> int:
        """Return what the length is asked of."""
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        data = self._file.read(size)
        self._told(len(data))
        return data


def ends(event: JobEvent) -> bool:
    """Say whether this event is the job's last."""
    return event.kind is JobEventKind.STATE and event.data.get("state") in {s.value for s in FINAL_STATES}


def refusal(response: httpx.Response) -> GatewayRefused:
    """Turn an error response into an error; what is no problem document keeps its status and first words."""
    wait = response.headers.get("Retry-After", "")
    retry_after_s = float(wait) if wait.isdigit() else None
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return GatewayRefused(
            response.status_code,
            f"http-{response.status_code}",
            f"{response.request.url} answered {response.text[:200]!r}",
            "Is it the gateway that listens there?",
            retry_after_s,
        )
    return GatewayRefused(response.status_code, problem.code, problem.detail, problem.remedy, retry_after_s)


def _transfer_set(digest: str) -> str:
    return f"/v1/transfer-sets/{quote(digest, safe='')}"


def _not_understood(response: httpx.Response) -> CommandFailed:
    return CommandFailed(
        "answer-not-understood",
        f"{response.request.url} answered something else than its contract says",
        "Are command line and gateway of the same version?",
    )


def _reason(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
