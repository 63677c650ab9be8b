"""How a job's record and its events lie in Redis, and how they become contracts again."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import TypeAdapter

from shared.contracts.jobs import ChildJob, JobEvent, JobEventKind, JobView
from shared.contracts.specs import JobSpec

PREFIX = "imago:"
"""Of every key of the job store."""

SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
"""Reads and writes what a job was asked for, by its kind."""

_JSON = ("children", "progress", "failure", "result")
"""Fields of a record that are there once they have a value, as JSON."""

START = "0-0"
_EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")


def to_view(job_id: str, flat: Sequence[str]) -> JobView:
    """Read a record as HGETALL gives it inside a script: names and values by turns."""
    record = named(flat)
    return JobView.model_validate(
        {
            "id": job_id,
            "state": record["state"],
            "spec": json.loads(record["spec"]),
            "created_at": _time(record["created"]),
            "started_at": _time(record.get("started")),
            "finished_at": _time(record.get("finished")),
            "attempts": int(record["attempts"]),
            "epoch": int(record["epoch"]),
            "parent": record.get("parent"),
            "owner": record.get("owner"),
            "cancel_requested": record["cancel"] == "1",
            "pause_requested": record.get("pause") == "1",
        }
        | {name: json.loads(record[name]) for name in _JSON if name in record}
    )


def to_child(job_id: str, flat: Sequence[str]) -> ChildJob:
    """Read a record as its parent sees it."""
    record = named(flat)
    return ChildJob.model_validate(
        {"id": job_id, "kind": record["kind"], "state": record["state"]}
        | {name: json.loads(record[name]) for name in ("failure", "result") if name in record}
    )


def sequence_of(flat: Sequence[str]) -> str:
    """Return the place of the record in the order of creation, which is what a cursor says."""
    return named(flat)["sequence"]


def to_event(event_id: str, fields: Mapping[str, str]) -> JobEvent:
    """Read an entry of the stream; its id begins with the time, in milliseconds."""
    return JobEvent(
        id=event_id,
        kind=JobEventKind(fields["kind"]),
        at=datetime.fromtimestamp(int(event_id.partition("-")[0]) / 1000, UTC),
        data=json.loads(fields["data"]),
    )


def position(after: str | None) -> str:
    """Return where to go on reading: behind `after`, or at the start where that is no id of ours."""
    return after if after is not None and _EVENT_ID.fullmatch(after) else START


def named(flat: Sequence[str]) -> dict[str, str]:
    """Pair names and values that come by turns, as inside a script."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _time(milliseconds: str | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
