"""One request to the gateway and how its answer is read: what both clients run, and nothing of how."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from shared.client.bodies import Form
from shared.contracts.base import Contract

T = TypeVar("T")
ContractT = TypeVar("ContractT", bound=Contract)


class Sink:
    """A file that an answer is written to while it arrives. `written` counts its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.written = 0

    def write(self, piece: bytes) -> None:
        """Write the next bytes; raises OSError where the file takes no more."""
        self._file.write(piece)
        self.written += len(piece)


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and `read`, which makes its result of the answer; a ValueError says that it cannot."""

    method: str
    route: str
    """As the gateway's OpenAPI spells it: `/v1/jobs/{job_id}`."""
    read: Callable[[httpx.Response], T]
    names: Mapping[str, str] = field(default_factory=dict)
    """What stands in the route for each of its names."""
    query: Mapping[str, str | int | float | None] = field(default_factory=dict)
    """What is None is not sent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Form | None = None
    repeatable: bool | None = None
    """Whether it may be sent again where nobody knows if it arrived; left out, GET and PUT may."""
    answers: frozenset[int] = frozenset()
    """Statuses above 399 that are answers here, not refusals."""
    sink: Sink | None = None
    """Takes the body of the answer; without it the body is read whole."""
    deadline_s: float | None = None
    """For the whole call, tries and waits included."""
    timeout_s: float | None = None
    """Longest silence in seconds, where the client's own is not right."""

    @property
    def path(self) -> str:
        """The route with its names filled in."""
        return self.route.format_map({name: quote(value, safe="") for name, value in self.names.items()})

    @property
    def may_repeat(self) -> bool:
        """Whether it may be sent again where nobody knows if it arrived."""
        if self.sink is not None and self.sink.written:
            return False
        return self.method in ("GET", "PUT") if self.repeatable is None else self.repeatable


def contract(answer: type[ContractT]) -> Callable[[httpx.Response], ContractT]:
    """Return what reads this contract."""
    return lambda response: answer.model_validate_json(response.content)


def one_of(answer: TypeAdapter[T]) -> Callable[[httpx.Response], T]:
    """Return what reads one of several contracts."""
    return lambda response: answer.validate_json(response.content)


def nothing(_response: httpx.Response) -> None:
    """Read an answer without a body."""
