"""The gateway's public API: a function an endpoint, which says what is sent and how the answer is read.

`Client` and `AsyncClient` have a method for each, of the same name and parameters. The words here are theirs.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import httpx
from pydantic import TypeAdapter

from shared.client.bodies import Form, Part
from shared.client.call import Call, Sink, contract, nothing, one_of
from shared.client.images import Encoded, Images, encoded, one_or_list
from shared.contracts.base import Contract
from shared.contracts.comparisons import StudentComparison
from shared.contracts.datasets import DatasetList, DatasetView
from shared.contracts.findings import TeacherCheckOrder
from shared.contracts.health import Liveness, Readiness
from shared.contracts.jobs import JobPage, JobState, JobView
from shared.contracts.kept import KeptCollection, KeptDeleted, KeptList
from shared.contracts.keys import KeyList, KeyMade, KeyRequest, KeyView
from shared.contracts.predictions import PredictionAnswer
from shared.contracts.reports import Report
from shared.contracts.specs import JobSpec, TeacherImportSpec, TransferSetJobSpec
from shared.contracts.students import LiveStudent, StudentCard, StudentList
from shared.contracts.teachers import TeacherDescription, TeacherDescriptions
from shared.contracts.traffic import TrafficPolicy, TrafficView
from shared.contracts.transfer_sets import TransferSetCard, TransferSetPage

_REPORT: Final[TypeAdapter[Report]] = TypeAdapter(Report)
_JSON: Final = {"Content-Type": "application/json"}
_UPLOAD_S: Final = 600.0
"""Longest silence after an upload: the gateway looks at every image of a dataset before it answers."""
_BYTES: Final = "application/octet-stream"

# --- jobs --------------------------------------------------------------------------------------------------


def submit(spec: JobSpec | bytes, idempotency_key: str | None = None) -> Call[JobView]:
    """Submit a job; bytes go as they are, so that the gateway is the one who judges them.

    A key is made up where none is given, so that one lost answer can be asked for again safely.
    """
    return _submit("/v1/jobs", spec, idempotency_key)


def job(job_id: str) -> Call[JobView]:
    """Return the job as it is."""
    return Call("GET", "/v1/jobs/{job_id}", contract(JobView), {"job_id": job_id})


def jobs(
    *,
    state: JobState | None = None,
    kind: str | None = None,
    parent: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[JobPage]:
    """Return a page of jobs, newest first; with `parent` only those that this job made."""
    query = {
        "state": state.value if state else None, "kind": kind, "parent": parent,
        "limit": limit, "cursor": cursor,
    }  # fmt: skip
    return Call("GET", "/v1/jobs", contract(JobPage), query=query)


def cancel(job_id: str) -> Call[JobView]:
    """Ask for a job's end, and for that of its child jobs."""
    return Call("POST", "/v1/jobs/{job_id}/cancel", contract(JobView), {"job_id": job_id})


def pause(job_id: str) -> Call[JobView]:
    """Ask a job to make a checkpoint and leave its worker until `resume`; its child jobs as well."""
    return Call("POST", "/v1/jobs/{job_id}/pause", contract(JobView), {"job_id": job_id})


def resume(job_id: str) -> Call[JobView]:
    """End a job's pause, and that of its child jobs."""
    return Call("POST", "/v1/jobs/{job_id}/resume", contract(JobView), {"job_id": job_id})


def report(job_id: str) -> Call[Report]:
    """Return the report of a succeeded job."""
    return _report(job_id, "application/json", one_of(_REPORT))


def report_markdown(job_id: str) -> Call[str]:
    """Return the same report as Markdown."""
    return _report(job_id, "text/markdown", lambda response: response.text)


def report_file(job_id: str, name: str) -> Call[bytes]:
    """Return one of the files that a report lists, such as a plot."""
    names = {"job_id": job_id, "name": name}
    return Call("GET", "/v1/jobs/{job_id}/report/files/{name}", _content, names)


def checkpoint(job_id: str, file: BinaryIO) -> Call[int]:
    """Write the newest checkpoint of a job's training to `file`, as safetensors; return its size in bytes.

    Raises:
        GatewayUnreachable: the answer broke off; what was written is not whole.
        OSError: the file takes no more.
    """
    return _download("/v1/jobs/{job_id}/checkpoint", {"job_id": job_id}, file)


def events(job_id: str, after: str | None) -> Call[None]:
    """Open the stream of a job's events; both clients have `follow` for it."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    return Call("GET", "/v1/jobs/{job_id}/events", nothing, {"job_id": job_id}, headers=headers)


# --- predictions -------------------------------------------------------------------------------------------


def predict(
    images: Images,
    *,
    top: int | None = None,
    cascade: float | Literal["off"] | None = None,
    deadline_s: float | None = None,
    canary_key: str | None = None,
) -> Call[PredictionAnswer]:
    """Ask the live student about one image, or about several in one request.

    Args:
        images: encoded bytes (PNG, JPEG, WebP), a file, or uint8 pixels (H x W, H x W x 1 or H x W x 3); or
            a sequence of these. `predict_many` is for more than one request takes.
        top: how many classes to name an image; the gateway names five where it is left out.
        cascade: the teacher answers where the student's confidence is below this, 0 to 1; "off" for never.
            Left out, the traffic policy decides.
        deadline_s: seconds after which the answer is of no use; then `DeadlineMissed` is raised.
        canary_key: what the caller calls itself: the same key gets the same student while a canary runs.

    Raises:
        InvalidImage: an image is neither bytes nor a path nor such pixels.
    """
    given = one_or_list(images)
    taken = [encoded(one) for one in given] if isinstance(given, list) else encoded(given)
    return predictions(taken, top=top, cascade=cascade, deadline_s=deadline_s, canary_key=canary_key)


def predictions(
    images: Encoded | list[Encoded],
    *,
    top: int | None = None,
    cascade: float | Literal["off"] | None = None,
    deadline_s: float | None = None,
    canary_key: str | None = None,
) -> Call[PredictionAnswer]:
    """Ask about images that are encoded; one that is not in a list goes as the body, the quickest way."""
    headers = {} if canary_key is None else {"X-Canary-Key": canary_key}
    if isinstance(images, Encoded):
        body, headers = images.data, headers | {"Content-Type": _BYTES}
    else:
        parts = [Part("images", one.data, one.file or "image", _BYTES) for one in images]
        form = Form(parts)
        body, headers = b"".join(form.pieces()), headers | {"Content-Type": form.media_type}
    return Call(
        "POST",
        "/v1/predictions",
        contract(PredictionAnswer),
        query={"top": top, "cascade": cascade},
        headers=headers,
        body=body,
        repeatable=True,
        deadline_s=deadline_s,
    )


# --- students ----------------------------------------------------------------------------------------------


def students() -> Call[StudentList]:
    """Return all students, newest first, and which of them is live."""
    return Call("GET", "/v1/students", contract(StudentList))


def student(version: str) -> Call[StudentCard]:
    """Return a student's card."""
    return Call("GET", "/v1/students/{version}", contract(StudentCard), {"version": version})


def download_student_file(version: str, name: str, file: BinaryIO) -> Call[int]:
    """Write a file of a student's bundle to `file` while it arrives; return how many bytes it has.

    Raises:
        GatewayUnreachable: the answer broke off; what was written is not whole.
        OSError: the file takes no more.
    """
    return _download("/v1/students/{version}/files/{name}", {"version": version, "name": name}, file)


def promote(version: str) -> Call[LiveStudent]:
    """Let this student answer predictions; promoting the live one changes nothing."""
    route = "/v1/students/{version}/promote"
    return Call("POST", route, contract(LiveStudent), {"version": version}, repeatable=True)


def rollback() -> Call[LiveStudent]:
    """Let the student answer that was live before."""
    return Call("POST", "/v1/students/rollback", contract(LiveStudent))


def delete_student(version: str) -> Call[None]:
    """Delete a student; refused for the live one, and where the traffic policy or a job names it."""
    return Call("DELETE", "/v1/students/{version}", nothing, {"version": version})


def student_comparison(version: str) -> Call[StudentComparison]:
    """Return how a student does on the traffic beside the live one, its teacher and its card."""
    route = "/v1/students/{version}/comparison"
    return Call("GET", route, contract(StudentComparison), {"version": version})


# --- traffic -----------------------------------------------------------------------------------------------


def traffic() -> Call[TrafficView]:
    """Return the traffic policy, and why parts of it cannot hold, where they cannot."""
    return Call("GET", "/v1/traffic", contract(TrafficView))


def set_traffic(policy: TrafficPolicy | bytes, *, revision: int | None = None) -> Call[TrafficView]:
    """Replace the traffic policy as a whole; a part that is left out is off.

    Args:
        policy: canary, shadow, cascade, keeping; bytes go as they are.
        revision: the policy to be replaced; refused with 412 where another one is there meanwhile.
    """
    return Call(
        "PUT",
        "/v1/traffic",
        contract(TrafficView),
        headers=_JSON | _if_match(revision),
        body=_json(policy),
        # Under a revision a second one would be refused because the first has arrived.
        repeatable=revision is None,
    )


def clear_traffic(*, revision: int | None = None) -> Call[TrafficView]:
    """Switch all of the traffic policy off; `revision` as `set_traffic` takes it."""
    headers = _if_match(revision)
    return Call("DELETE", "/v1/traffic", contract(TrafficView), headers=headers, repeatable=revision is None)


# --- keys --------------------------------------------------------------------------------------------------


def make_key(wanted: KeyRequest | bytes) -> Call[KeyMade]:
    """Make a key; the answer is the only one that has it. One whose answer is lost can be revoked."""
    body = wanted if isinstance(wanted, bytes) else wanted.model_dump_json().encode()
    return Call("POST", "/v1/keys", contract(KeyMade), headers=_JSON, body=body)


def keys() -> Call[KeyList]:
    """Return all keys without their secrets, the oldest first."""
    return Call("GET", "/v1/keys", contract(KeyList))


def key(key_id: str) -> Call[KeyView]:
    """Return what a key allows, and until when."""
    return Call("GET", "/v1/keys/{key_id}", contract(KeyView), {"key_id": key_id})


def revoke_key(key_id: str) -> Call[KeyView]:
    """Let a key allow nothing any more."""
    return Call("DELETE", "/v1/keys/{key_id}", contract(KeyView), {"key_id": key_id}, repeatable=True)


# --- kept images -------------------------------------------------------------------------------------------


def kept() -> Call[KeptList]:
    """Return all collections of images that gateways kept."""
    return Call("GET", "/v1/kept", contract(KeptList))


def kept_collection(collection: str) -> Call[KeptCollection]:
    """Return how many images a collection has, why they were kept, and by which students."""
    return Call("GET", "/v1/kept/{collection}", contract(KeptCollection), {"collection": collection})


def delete_kept(collection: str, *, datasets: bool = False) -> Call[KeptDeleted]:
    """Remove every image of a collection; with `datasets` also the datasets that were frozen from it."""
    return Call(
        "DELETE",
        "/v1/kept/{collection}",
        contract(KeptDeleted),
        {"collection": collection},
        query={"datasets": "true"} if datasets else {},
    )


# --- teachers ----------------------------------------------------------------------------------------------


def teachers() -> Call[TeacherDescriptions]:
    """Return all teachers, each as it is now."""
    return Call("GET", "/v1/teachers", contract(TeacherDescriptions))


def teacher(name: str) -> Call[TeacherDescription]:
    """Return a teacher as it is now."""
    return Call("GET", "/v1/teachers/{name}", contract(TeacherDescription), {"name": name})


def add_teacher(
    order: TeacherImportSpec | bytes,
    files: Mapping[str, Path | bytes] | None = None,
    sent: Callable[[int], None] | None = None,
) -> Call[JobView]:
    """Bring a teacher; return the job that reads it.

    Args:
        order: name, source and the rest; bytes go as they are, for the gateway to judge.
        files: what is uploaded with it, by the name that each is sent under; a Path is read while it is sent.
        sent: is told how many more bytes of the files have gone out.
    """
    if not files:
        return Call("POST", "/v1/teachers", contract(JobView), headers=_JSON, body=_json(order))
    parts = [Part("teacher", _json(order), media_type="application/json")]
    parts += [Part("files", content, name, _BYTES) for name, content in files.items()]
    return Call("POST", "/v1/teachers", contract(JobView), body=Form(parts, sent), timeout_s=_UPLOAD_S)


def check_teacher(name: str, order: TeacherCheckOrder) -> Call[JobView]:
    """Have a teacher tried on a dataset; return the job."""
    route = "/v1/teachers/{name}/check"
    return Call("POST", route, contract(JobView), {"name": name}, headers=_JSON, body=_json(order))


# --- datasets ----------------------------------------------------------------------------------------------


def datasets() -> Call[DatasetList]:
    """Return all datasets, built-in ones too."""
    return Call("GET", "/v1/datasets", contract(DatasetList))


def dataset(name: str) -> Call[DatasetView]:
    """Return a dataset with its classes, counts and digest."""
    return Call("GET", "/v1/datasets/{name}", contract(DatasetView), {"name": name})


def add_dataset(
    name: str,
    files: Sequence[Path],
    *,
    size: tuple[int, int] | None = None,
    sent: Callable[[int], None] | None = None,
) -> Call[DatasetView]:
    """Upload a dataset; sending the same one again changes nothing.

    Args:
        name: what it is to be called.
        files: one zip with a folder a class, idx files, or Parquet files.
        size: height and width in pixels to which all images are resized; without it they must have one size.
        sent: is told how many more bytes of the files have gone out.
    """
    parts = [Part("name", name.encode())]
    if size is not None:
        parts.append(Part("size", f"{size[0]}x{size[1]}".encode()))
    parts += [Part("files", path, path.name, _BYTES) for path in files]
    return Call("POST", "/v1/datasets", contract(DatasetView), body=Form(parts, sent), timeout_s=_UPLOAD_S)


# --- transfer sets -----------------------------------------------------------------------------------------


def build_transfer_set(spec: TransferSetJobSpec | bytes, idempotency_key: str | None = None) -> Call[JobView]:
    """Submit the job that builds a transfer set; bytes and the key as `submit` takes them."""
    return _submit("/v1/transfer-sets", spec, idempotency_key)


def transfer_sets(*, limit: int | None = None, cursor: str | None = None) -> Call[TransferSetPage]:
    """Return a page of transfer sets, newest first."""
    query = {"limit": limit, "cursor": cursor}
    return Call("GET", "/v1/transfer-sets", contract(TransferSetPage), query=query)


def transfer_set(digest: str) -> Call[TransferSetCard]:
    """Return all that is known of a transfer set."""
    return Call("GET", "/v1/transfer-sets/{digest}", contract(TransferSetCard), {"digest": digest})


def download_transfer_set(digest: str, file: BinaryIO) -> Call[int]:
    """Write the tar of a transfer set to `file` while it arrives; return how many bytes it has.

    Raises:
        GatewayUnreachable: the answer broke off; what was written is not whole.
        OSError: the file takes no more.
    """
    return _download("/v1/transfer-sets/{digest}/download", {"digest": digest}, file)


def download_transfer_set_file(digest: str, name: str, file: BinaryIO) -> Call[int]:
    """Write one file of a transfer set, such as a shard, as `download_transfer_set` does the whole."""
    return _download("/v1/transfer-sets/{digest}/files/{name}", {"digest": digest, "name": name}, file)


def delete_transfer_set(digest: str) -> Call[None]:
    """Delete a transfer set; refused while a job may use it."""
    return Call("DELETE", "/v1/transfer-sets/{digest}", nothing, {"digest": digest})


# --- health ------------------------------------------------------------------------------------------------


def live() -> Call[Liveness]:
    """Return that the process lives; raises where it does not answer."""
    return Call("GET", "/health/live", contract(Liveness))


def ready() -> Call[Readiness]:
    """Return whether requests may be sent, and why not; not being ready is an answer, not an error."""
    return Call("GET", "/health/ready", contract(Readiness), answers=frozenset({503}))


# --- what several of them do -------------------------------------------------------------------------------


def _submit(route: str, spec: Contract | bytes, idempotency_key: str | None) -> Call[JobView]:
    headers = _JSON | {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
    return Call("POST", route, contract(JobView), headers=headers, body=_json(spec), repeatable=True)


def _if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"If-Match": f'"{revision}"'}


def _report(job_id: str, media_type: str, read: Callable[[httpx.Response], Any]) -> Call[Any]:
    headers = {"Accept": media_type}
    return Call("GET", "/v1/jobs/{job_id}/report", read, {"job_id": job_id}, headers=headers)


def _download(route: str, names: Mapping[str, str], file: BinaryIO) -> Call[int]:
    sink = Sink(file)
    return Call("GET", route, lambda _response: sink.written, names, sink=sink)


def _content(response: httpx.Response) -> bytes:
    return response.content


def _json(order: Contract | bytes) -> bytes:
    return order if isinstance(order, bytes) else order.model_dump_json().encode()
