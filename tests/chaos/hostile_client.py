"""A client that sends bytes as they are: no library in between makes a hostile request a decent one."""

import socket
from collections.abc import Iterable
from contextlib import suppress

LIMIT = b"limit-7f3a"

SENDING_BYTES = 2**16
"""What the kernel may hold of a body that is poured: what was sent is then close to what was taken."""

Answer = tuple[int, bytes]
"""Status and body; status 0 where the connection was broken without an answer."""


class RawClient:
    """One connection, made again where it was closed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._connection: socket.socket | None = None
        self._rest = b""

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection, self._rest = None, b""

    def ask(self, request: bytes) -> Answer:
        """Send a whole request and return its answer, which must have a length."""
        if self._connection is None:
            self._connection = socket.create_connection(self._address, timeout=120)
        with suppress(OSError):  # refused before it was whole: the answer is there
            self._connection.sendall(request)
        return self._answer()

    def pour(self, head: bytes, pieces: Iterable[bytes]) -> tuple[Answer, int]:
        """Send pieces until the other side has had enough; return its answer and the bytes that were sent."""
        self.close()
        self._connection = socket.socket()
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENDING_BYTES)
        self._connection.settimeout(120)
        sent = 0
        try:
            self._connection.connect(self._address)
            self._connection.sendall(head)
            for piece in pieces:
                self._connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        try:
            return self._answer(), sent
        finally:
            self.close()

    def _answer(self) -> Answer:
        assert self._connection is not None
        data = self._rest
        try:
            while b"\r\n\r\n" not in data:
                data += self._more()
            head, _, body = data.partition(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            while len(body) < length:
                body += self._more()
        except (ConnectionError, EOFError):
            self.close()
            return 0, b""
        self._rest = body[length:]
        if b"connection: close" in lines or b"transfer-encoding: chunked" in lines:
            self.close()
        return int(head[9:12]), body[:length]

    def _more(self) -> bytes:
        assert self._connection is not None
        data = self._connection.recv(2**16)
        if not data:
            raise EOFError
        return data


def request(
    method: bytes,
    path: bytes,
    body: bytes = b"",
    media_type: bytes = b"application/json",
    *,
    chunked: bool = False,
) -> bytes:
    """Return a whole request; `chunked` sends the body as one chunk, which the gateway's short way leaves."""
    head = method + b" " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: " + media_type + b"\r\n"
    if chunked:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def form(
    fields: Iterable[tuple[bytes, bytes]], files: Iterable[tuple[bytes, bytes]], of_files: bytes = b"files"
) -> tuple[bytes, bytes]:
    """Return media type and body; the names go into the form byte by byte as they are.

    Args:
        fields: names and values.
        files: file names and contents.
        of_files: the name of the field that they are in.
    """
    parts = [b'; name="%b"\r\n\r\n%b' % field for field in fields]
    parts += [b'; name="%b"; filename="%b"\r\n\r\n%b' % (of_files, *file) for file in files]
    body = b"".join(b"--%b\r\nContent-Disposition: form-data%b\r\n" % (LIMIT, part) for part in parts)
    return b"multipart/form-data; boundary=" + LIMIT, body + b"--%b--\r\n" % LIMIT
