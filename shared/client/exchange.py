"""What a request looks like on the wire, and which error a refusal is."""

import ipaddress
import re
import secrets
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from shared.client.bodies import Form
from shared.client.call import Call, T
from shared.client.errors import AnswerNotUnderstood, GatewayRefused, GatewayUnreachable, KeyUnusable
from shared.client.retries import Attempts, Budget, Retries, reason
from shared.contracts.problems import Problem

DEFAULT_URL: Final = "http://127.0.0.1:8080"
_CONNECT_S: Final = 5.0
_MOST_DEADLINE_MS: Final = 3_600_000
REQUEST_ID: Final = "X-Request-ID"
_KEY: Final = re.compile(r"[\x21-\x7e]+")


class Exchange:
    """One call on its way: an id of its own, its attempts, its requests one after the other.

    Args:
        call: what is asked.
        url: of the gateway.
        retries: how often it is sent.
        budget: of all calls of the client.
        timeout_s: longest silence inside a request.
    """

    def __init__(self, call: Call[Any], url: str, retries: Retries, budget: Budget, timeout_s: float) -> None:
        self._call = call
        self._url = url
        self._timeout_s = call.timeout_s or timeout_s
        self._request_id = secrets.token_hex(8)
        self._attempts = Attempts(call, retries, budget, self._request_id)

    def request(self, *, is_async: bool = False) -> dict[str, Any]:
        """Return the next request, as httpx's `build_request` takes it.

        Raises:
            DeadlineMissed: there is no time left for it.
            OSError: a file that is to be sent is not there.
        """
        call = self._call
        headers = {REQUEST_ID: self._request_id, **call.headers}
        timeout_s = self._timeout_s
        left_s = self._attempts.left_s()
        if left_s is not None:
            headers["X-Deadline-Ms"] = str(min(max(1, int(1000 * left_s)), _MOST_DEADLINE_MS))
            timeout_s = min(timeout_s, left_s)
        content: Any = call.body
        if isinstance(call.body, Form):
            headers |= {"Content-Type": call.body.media_type, "Content-Length": str(call.body.size_bytes())}
            content = call.body.pieces_async() if is_async else call.body.pieces()
        return {
            "method": call.method,
            "url": call.path,
            "params": {name: value for name, value in call.query.items() if value is not None},
            "headers": headers,
            "content": content,
            "timeout": httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
        }

    def is_refusal(self, response: httpx.Response) -> bool:
        """Say whether this is no answer of the call."""
        return not response.is_success and response.status_code not in self._call.answers

    def refused(self, response: httpx.Response) -> float:
        """Return the seconds to wait before the next request, or raise what `Attempts.refused` does."""
        return self._attempts.refused(refusal(response, self._request_id))

    def broke(self, error: httpx.RequestError) -> float:
        """Return the seconds to wait before the next request, or raise what `Attempts.broke` does."""
        return self._attempts.broke(error, self._url)

    def read(self, call: Call[T], response: httpx.Response) -> T:
        """Return the result; raises `AnswerNotUnderstood`."""
        try:
            return call.read(response)
        except ValueError as error:
            raise AnswerNotUnderstood(str(response.request.url), request_id=self._request_id) from error


def refusal(response: httpx.Response, request_id: str = "") -> GatewayRefused:
    """Turn a refusal into an error; what is no problem document keeps its status and first words."""
    retry_after_s = _seconds(response.headers.get("Retry-After", ""))
    identifier = response.headers.get(REQUEST_ID) or request_id
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return GatewayRefused(
            response.status_code,
            f"http-{response.status_code}",
            f"{response.request.url} answered {response.text[:200]!r}",
            "Is it the gateway that listens there?",
            retry_after_s=retry_after_s,
            request_id=identifier,
            is_problem=False,
        )
    return GatewayRefused(
        response.status_code,
        problem.code,
        problem.detail,
        problem.remedy,
        retry_after_s=retry_after_s,
        request_id=problem.request_id or identifier,
        errors=problem.errors,
    )


def client_options(base_url: str, headers: Mapping[str, str] | None, key: str | None) -> dict[str, Any]:
    """Return what httpx's clients of both kinds are made with.

    Raises:
        GatewayUnreachable: the URL is none.
        KeyUnusable: the key has characters that no key has.
    """
    url = base_url.rstrip("/")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise GatewayUnreachable(base_url, reason(error)) from error
    return {
        "base_url": parsed,
        "headers": dict(headers or {}) | _authorization(key),
        # No proxy stands between a machine and itself, whatever the environment says.
        "trust_env": not _is_local(url),
        # Nobody waits for a connection of this pool: who sends many requests at once says how many.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=32),
    }


def _authorization(key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not _KEY.fullmatch(key):
        # Else the HTTP library would refuse it, in words that show it.
        raise KeyUnusable
    return {"Authorization": f"Bearer {key}"}


def _seconds(retry_after: str) -> float | None:
    """Return what `Retry-After` says: seconds, or a date (RFC 9110, section 10.2.3); None for neither."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
