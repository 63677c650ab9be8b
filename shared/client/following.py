"""Where somebody who follows a job stands: what was seen last, and how long nothing has answered."""

import time
from typing import Final

import httpx

from shared.client.errors import GatewayError, GatewayRefused, GatewayUnreachable
from shared.client.retries import PASSING, reason
from shared.client.sse import EventParser
from shared.contracts.jobs import FINAL_STATES, JobEvent, JobEventKind

PATIENCE_S: Final = 60.0
"""How long following goes on while nothing answers."""
SILENCE_S: Final = 60.0
"""A stream of events that is silent for longer is opened anew."""
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0


class Following:
    """The state of following one job.

    Args:
        url: of the gateway, for words.
        after: the id of the last event that is known; None to begin with the first.
        patience_s: how long nothing may answer.
    """

    def __init__(self, url: str, after: str | None, patience_s: float) -> None:
        self.last = after
        """Of the last event seen."""
        self._url = url
        self._patience_s = patience_s
        self._failing_since: float | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._parser = EventParser()

    def opened(self) -> None:
        """Take in that a stream answers."""
        self._failing_since = None
        self._parser = EventParser()

    def take(self, piece: bytes) -> list[JobEvent]:
        """Return the events that a piece of the stream completes."""
        events = []
        for message in self._parser.feed(piece):
            event = JobEvent.model_validate_json(message.data)
            self.last, self._pause_s = event.id, _FIRST_PAUSE_S
            events.append(event)
        return events

    def broke(self, error: httpx.RequestError | GatewayError) -> None:
        """Take in that a stream did not open, or broke off.

        Raises:
            GatewayRefused: and it will be again.
            GatewayUnreachable: nothing has answered for longer than patience lasts.
        """
        if isinstance(error, GatewayRefused) and error.status not in PASSING:
            raise error
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since >= self._patience_s:
            words = str(error) if isinstance(error, GatewayError) else reason(error)
            raise GatewayUnreachable(self._url, words) from error

    def pause_s(self) -> float:
        """Return the seconds to wait before the next stream is opened; longer each time nothing came."""
        pause_s = self._pause_s
        self._pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return pause_s


def ends(event: JobEvent) -> bool:
    """Say whether this event is the job's last."""
    return event.kind is JobEventKind.STATE and event.data.get("state") in {s.value for s in FINAL_STATES}
