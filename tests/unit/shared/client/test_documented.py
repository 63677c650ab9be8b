"""The examples of docs/client.md and of the README run as they stand, against a gateway in memory."""

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import shared.client
from shared.client import AsyncClient, Client, GatewayError
from shared.contracts.specs import TeacherSpec
from tests.support.fake_gateway import VERSION, FakeGateway

ROOT = Path(__file__).parents[4]
_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(block, id=f"{page} {number}")
    for page in ("docs/client.md", "README.md")
    for number, block in enumerate(_BLOCK.findall((ROOT / page).read_text(encoding="utf-8")), start=1)
]


def run(code: str, names: dict[str, Any]) -> None:
    """Run code that may await at its top."""
    compiled = compile(code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    pending = eval(compiled, names)
    if pending is not None:
        asyncio.run(pending)


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs(
    code: str,
    gateway: FakeGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and request.url.path == "/v1/students/no-such-student/promote":
            return gateway.problem(404, "student-not-found", "there is none", "List students.")
        return gateway.transport().handle_request(request)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    for name in ("digit.png", "digits/one.png", "mine.zip"):
        (tmp_path / name).write_bytes(b"content")
    transport = httpx.MockTransport(answer)
    for kind in (Client, AsyncClient):
        made = type(kind.__name__, (kind,), {"__init__": _with(kind, transport)})
        monkeypatch.setattr(shared.client, kind.__name__, made)
    with Client("http://gateway.test", transport=transport) as client:
        names = {
            "client": client,
            "paths": [tmp_path / "digit.png"] * 3,
            "images": [b"one", b"two"],
            "Path": Path,
            "TeacherSpec": TeacherSpec,
            "candidate": VERSION,
            **{name: getattr(shared.client, name) for name in shared.client.__all__},
        }
        run(code, names)
    assert gateway.seen or "no-such-student" in code
    if "print" in code:
        assert capsys.readouterr().out


def _with(kind: type, transport: httpx.MockTransport) -> Any:
    def init(self: Any, *arguments: Any, **options: Any) -> None:
        kind.__init__(self, *arguments, transport=transport, **options)

    return init


def test_what_the_page_names_exists():
    text = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    called = set(re.findall(r"client\.(\w+)\(", text))
    assert called
    assert {name for name in called if not hasattr(Client, name)} == set()
    told = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    exported = {getattr(shared.client, name) for name in shared.client.__all__}
    assert {error.__name__ for error in GatewayError.__subclasses__()} <= told
    assert told - {"InvalidImage"} <= {one.__name__ for one in exported if isinstance(one, type)}
