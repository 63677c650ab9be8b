"""Asks a model on a server that speaks the Open Inference Protocol v2 over REST: Triton, KServe, MLServer.

Only servers on a list are asked, and nothing leads from them to another: redirects are not followed, proxies
of the environment not taken. What such a server answers is believed as far as it was asked for.
"""

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.adapters.oip_bodies import HEADER_LENGTH, answered, json_of, request_body
from shared.adapters.oip_hosts import AllowedHosts
from shared.contracts.oip import ModelConfiguration, ModelMetadata, OipMessage, ServerMetadata
from shared.contracts.teachers import RemoteModel
from shared.errors import TeacherAnswerInvalid, TeacherUnavailable

_MAYBE_AT_ONCE: Final = frozenset({502, 503, 504})
_MAYBE_LATER: Final = frozenset({408, 425, 429})
_ATTEMPTS: Final = 4
_FIRST_WAIT_S: Final = 0.1
_RETRY_AFTER_S: Final = 5.0
"""What our own client is told where the server names no time."""
_LARGEST_ANSWER_BYTES: Final = 64 * 2**20
_LARGEST_WORDS: Final = 300

MetadataT = TypeVar("MetadataT", bound=OipMessage)


# --- asking ------------------------------------------------------------------------------------------------


class OipServer:
    """One server. May be used from several threads; `close` it in the end.

    Args:
        url: of the server, without `/v2`.
        allowed: the servers that may be asked.
        timeout_s: for one whole answer.

    Raises:
        OipHostNotAllowed: the server is not among them.
    """

    def __init__(self, url: str, allowed: AllowedHosts, *, timeout_s: float = 30.0) -> None:
        allowed.need(url)
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
            headers={"Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
        )
        self.whose = f"the server {self._http.base_url.netloc.decode('ascii')}"

    def close(self) -> None:
        """Close all connections. Closing twice does nothing."""
        self._http.close()

    def metadata(self) -> ServerMetadata:
        """Return what the server says of itself.

        Raises:
            TeacherUnavailable: it does not answer.
            TeacherAnswerInvalid: it does not speak the protocol.
        """
        return self._described(ServerMetadata, "/v2")

    def model(self, model: str, version: str | None = None) -> ModelMetadata:
        """Return what the server says of a model.

        Raises:
            TeacherUnavailable: it does not answer.
            TeacherAnswerInvalid: it has no such model, or does not speak the protocol.
        """
        return self._described(ModelMetadata, _path(model, version))

    def ready(self, model: str, version: str | None = None) -> bool:
        """Return whether the model can be asked now.

        Raises:
            TeacherUnavailable: the server does not answer at all.
        """
        response = self._send("GET", f"{_path(model, version)}/ready")
        return response.status_code == httpx.codes.OK

    def configuration(self, model: str, version: str | None = None) -> ModelConfiguration:
        """Return how a model is set up, from a server with the extension `model_configuration`.

        Raises:
            TeacherUnavailable: it does not answer.
            TeacherAnswerInvalid: it has no such model, or not the extension.
        """
        return self._described(ModelConfiguration, f"{_path(model, version)}/config")

    def infer(self, model: RemoteModel, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the output of one call about a batch as the model's input takes it, in one request.

        Raises:
            TeacherUnavailable: the server is down, slow, or says that it cannot answer now.
            TeacherAnswerInvalid: it refuses the request, or answers no such tensor.
        """
        content, headers = request_body(model.input, batch, model.output, binary=model.binary)
        response = self._send("POST", f"{_path(model.model, model.version)}/infer", content, headers)
        self._need_ok(response, f"model {model.model!r}")
        return answered(response.content, response.headers.get(HEADER_LENGTH), model.output, self.whose)

    def _described(self, kind: type[MetadataT], path: str) -> MetadataT:
        response = self._send("GET", path)
        self._need_ok(response, path)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise TeacherAnswerInvalid(
                f"{self.whose} does not speak the Open Inference Protocol: {path} is no description",
                remedy="Give the address without /v2, of a server with the protocol's REST face.",
            ) from error

    def _need_ok(self, response: httpx.Response, what: str) -> None:
        if response.status_code == httpx.codes.OK:
            return
        if response.is_redirect:
            words = "it leads elsewhere, and redirects are not followed"
        else:
            words = _words(response)
        raise TeacherAnswerInvalid(
            f"{self.whose} refused with status {response.status_code} ({what}): {words}",
            remedy="Look at the logs of that server, and at the names of model and version.",
        )

    def _send(
        self, method: str, path: str, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Return an answer that is not about being unable to answer, after a few attempts.

        Only what fails at once is tried again: an answer that did not come in time would not come sooner.
        """
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0.5, 1.0) * _FIRST_WAIT_S * 2**attempt)
            retry_after_s = _RETRY_AFTER_S
            try:
                response = self._once(method, path, content, headers)
            except httpx.TimeoutException:
                raise _unavailable(
                    f"{self.whose} gave no answer in {self._timeout_s:g} s", retry_after_s
                ) from None
            except httpx.TransportError as error:
                reason = f"{self.whose}: {str(error) or type(error).__name__}"
                continue
            if response.status_code not in _MAYBE_AT_ONCE | _MAYBE_LATER:
                return response
            reason = f"{self.whose} answered with status {response.status_code}: {_words(response)}"
            retry_after_s = _seconds(response.headers.get("Retry-After")) or _RETRY_AFTER_S
            if response.status_code in _MAYBE_LATER or retry_after_s > _RETRY_AFTER_S:
                break
        raise _unavailable(reason, retry_after_s)

    def _once(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str] | None
    ) -> httpx.Response:
        """Send a request and read its answer, up to a size and within the time for all of it.

        Raises:
            httpx.TransportError: no connection, or it broke.
            httpx.TimeoutException: it took too long.
            TeacherAnswerInvalid: the answer is too large.
        """
        deadline = time.monotonic() + self._timeout_s
        with self._http.stream(method, path, content=content, headers=headers) as response:
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _LARGEST_ANSWER_BYTES:
                    raise TeacherAnswerInvalid(f"{self.whose} answered with more than {len(body)} bytes")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer came too slowly", request=response.request)
        kept = {name: value for name, value in response.headers.items() if name != "content-encoding"}
        return httpx.Response(
            response.status_code, headers=kept, content=bytes(body), request=response.request
        )


class OipModel:
    """A model of a server, asked by several calls side by side; fits `shared.models.remote.Server`.

    Args:
        model: how it is asked.
        allowed: the servers that may be asked.
        timeout_s: for one whole answer.
        calls: that are on their way at the same time.

    Raises:
        OipHostNotAllowed: its server is not among them.
    """

    def __init__(
        self, model: RemoteModel, allowed: AllowedHosts, *, timeout_s: float = 30.0, calls: int = 4
    ) -> None:
        self._model = model
        self._server = OipServer(model.url, allowed, timeout_s=timeout_s)
        self._calls = calls
        self._threads = ThreadPoolExecutor(calls, thread_name_prefix="oip")

    @property
    def most_rows(self) -> int:
        """Images that are on their way at the same time."""
        return self._model.rows * self._calls

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the output about a batch of any number of rows, in its order.

        Raises:
            TeacherUnavailable: the server is down, slow, or says that it cannot answer now.
            TeacherAnswerInvalid: it refuses a request, or answers tensors that do not fit together.
        """
        rows = self._model.rows
        parts = [batch[start : start + rows] for start in range(0, len(batch), rows)]
        if len(parts) == 1:
            return self._server.infer(self._model, batch)
        pending = [self._threads.submit(self._server.infer, self._model, part) for part in parts]
        try:
            return self._joined(parts, [answer.result() for answer in pending])
        finally:
            for answer in pending:
                answer.cancel()

    def close(self) -> None:
        """Close all connections. Closing twice does nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._server.close()

    def _joined(self, parts: Sequence[NDArray[Any]], answers: Sequence[NDArray[Any]]) -> NDArray[Any]:
        for part, answer in zip(parts, answers, strict=True):
            if answer.ndim == 0 or len(answer) != len(part) or answer.shape[1:] != answers[0].shape[1:]:
                raise TeacherAnswerInvalid(
                    f"{self._server.whose} answered {list(answer.shape)} numbers about {len(part)} images, "
                    f"and {list(answers[0].shape)} about {len(parts[0])}"
                )
        return np.concatenate(answers)


def _path(model: str, version: str | None) -> str:
    return f"/v2/models/{model}" + (f"/versions/{version}" if version is not None else "")


def _unavailable(reason: str, retry_after_s: float) -> TeacherUnavailable:
    error = TeacherUnavailable(reason)
    error.retry_after_s = retry_after_s
    return error


def _words(response: httpx.Response) -> str:
    """Return what a server says of a refusal: its `error`, or the beginning of its body."""
    try:
        found = json_of(response.content)
    except ValueError:
        found = None
    words = found.get("error") if isinstance(found, dict) else None
    text = str(words) if words else response.text
    return " ".join(text.split())[:_LARGEST_WORDS] or "no words"


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() else 0.0
