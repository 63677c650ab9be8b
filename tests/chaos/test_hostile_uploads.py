"""Archives, names and bodies that strangers send to a real gateway: refused, and nothing beside."""

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest

from tests.chaos import hostile_archives
from tests.chaos.hostile_archives import IMAGE, MIB
from tests.chaos.hostile_client import LIMIT, RawClient, form, request
from tests.chaos.hostile_names import names
from tests.chaos.hostile_targets import Target, hostile_gateway
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

QUOTA = 32 * MIB
PREDICTION_BYTES = 8 * MIB
BODY_BYTES = MIB
"""The limits of the gateway: files of datasets and models, images and inputs, and all other bodies."""
BUFFERED_BYTES = 2 * MIB
"""What may have been sent beyond a limit when the refusal comes: 0.2 to 0.6 MiB lay in buffers."""
OPENAPI = Path(__file__).resolve().parents[2] / "services" / "gateway" / "openapi.json"
ONNX = json.dumps({"name": "net", "source": {"kind": "onnx"}}).encode()
TRANSFORMERS = json.dumps({"name": "net", "source": {"kind": "transformers"}}).encode()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def gateway(watched: Path, redis_server: RedisServer) -> Iterator[Target]:
    settings = {
        "GATEWAY_MAX_DATASET_BYTES": str(QUOTA),
        "GATEWAY_MAX_TEACHER_BYTES": str(QUOTA),
        "GATEWAY_MAX_PREDICTION_BYTES": str(PREDICTION_BYTES),
        "GATEWAY_MAX_BODY_BYTES": str(BODY_BYTES),
    }
    with hostile_gateway(watched / "deep" / "state", redis_url=redis_server.url, **settings) as target:
        yield target


def tree(root: Path, store: Path) -> set[tuple[str, int, int]]:
    """Return all that lies under `root` outside of the store, with sizes and times."""
    found = set()
    for path in root.rglob("*"):
        if store not in path.parents and path != store and path.suffix != ".log":
            facts = path.lstat()
            # A folder's time changes where its own files do, which are looked at themselves.
            found.add((str(path), 0, 0) if path.is_dir() else (str(path), facts.st_size, facts.st_mtime_ns))
    return found


@contextmanager
def largest(folder: Path) -> Iterator[list[int]]:
    """Look again and again how many bytes lie in a folder; the list has the most."""
    most = [0]
    stopping = threading.Event()

    def look() -> None:
        while not stopping.wait(0.03):
            size = 0
            for place, _, files in os.walk(folder):  # which does not mind what goes away meanwhile
                for file in files:
                    with suppress(FileNotFoundError):
                        size += os.lstat(os.path.join(place, file)).st_size  # noqa: PTH118
            most[0] = max(most[0], size)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        stopping.set()
        thread.join(30)


def left_behind(store: Path) -> list[str]:
    return [str(path) for name in ("uploads", "incoming", "datasets") for path in (store / name).glob("*")]


def test_hostile_archives_are_refused_and_leave_nothing(
    gateway: Target, watched: Path, sized: Callable[..., int], told: Callable[..., None]
):
    datasets, models = hostile_archives.datasets(watched), hostile_archives.models(watched)
    before = tree(watched, gateway.store)
    answers: dict[str, tuple[int, str]] = {}
    with largest(gateway.store) as most, RawClient(gateway.host, gateway.port) as client:
        for name, make in islice(datasets.items(), 0, None, sized(13, 1)):
            media_type, body = form([(b"name", b"evil")], [(b"a.zip", make())])
            client.close()  # it may have been quiet for longer than the gateway waits
            status, answer = client.ask(request(b"POST", b"/v1/datasets", body, media_type))
            answers[name] = status, answer.decode()[:300]
        for name, make in islice(models.items(), 0, None, sized(3, 1)):
            media_type, body = form([(b"teacher", TRANSFORMERS)], [(b"a.zip", make())])
            client.close()
            status, answer = client.ask(request(b"POST", b"/v1/teachers", body, media_type))
            answers[f"model: {name}"] = status, answer.decode()[:300]
    taken = {name: one for name, one in answers.items() if not 400 <= one[0] < 500}
    students = sum(path.stat().st_size for path in (gateway.store / "students").rglob("*"))
    told(
        7,
        f"{len(answers)} hostile archives",
        f"refused {len(answers) - len(taken)}, otherwise {taken or 'none'}; most on the disk "
        f"{(most[0] - students) / MIB:.1f} MiB; left {left_behind(gateway.store)}",
        f"each 4xx, at most 2 x {QUOTA // MIB} MiB (packed and unpacked), nothing outside or left inside",
        held=not taken
        and most[0] - students <= 2 * QUOTA + MIB
        and tree(watched, gateway.store) == before
        and not left_behind(gateway.store)
        and gateway.is_same(),
    )


# --- names -------------------------------------------------------------------------------------------------


def _routes() -> list[tuple[bytes, list[bytes]]]:
    """Return method and pieces of the path of each operation with a name in its path."""
    found = []
    for path, operations in json.loads(OPENAPI.read_text())["paths"].items():
        if "{" in path:
            pieces = [piece.rpartition("}")[2].encode() for piece in path.split("{")]
            found += [(method.upper().encode(), pieces) for method in operations]
    return found


def _in_a_path(name: bytes, method: bytes, pieces: list[bytes], chance: random.Random) -> bytes:
    others = chance.choice((name, b"digits-1", b"job-1"))
    path = pieces[0] + name + others.join(pieces[1:])
    return request(method, path, b"{}" if method in (b"POST", b"PUT") else b"")


def _placed(name: bytes, chance: random.Random, routes: list[tuple[bytes, list[bytes]]]) -> bytes:
    """Return a request with the name somewhere."""
    plain = name.decode("utf-8", "replace")
    kind = chance.randrange(10)
    if kind < 6:
        return _in_a_path(name.replace(b" ", b"%20"), *chance.choice(routes), chance)
    if kind == 6:
        media_type, body = form([], [(name, IMAGE)])
        return request(b"POST", b"/v1/predictions", body, media_type)
    if kind == 7:
        media_type, body = form([(b"teacher", ONNX)], [(name, b"x")])
        return request(b"POST", b"/v1/teachers", body, media_type)
    if kind == 8:
        media_type, body = form([(b"name", name), (name, name)], [(name, IMAGE)])
        return request(b"POST", b"/v1/datasets", body, media_type)
    orders: list[tuple[bytes, object]] = [
        (b"/v1/jobs", {"kind": "baseline", "name": "a", "dataset": plain}),
        (b"/v1/jobs", {"kind": "distillation", "name": plain, "dataset": "mnist-5k", "teacher": plain}),
        (b"/v1/transfer-sets", {"name": "a", "dataset": plain, "teacher": plain}),
        (b"/v1/teachers", {"name": "a", "source": {"kind": "onnx", "files": {"folder": plain}}}),
        (b"/v1/teachers", {"name": "a", "source": {"kind": "onnx", "files": {"upload": plain}}}),
        (b"/v1/teachers", {"name": plain, "source": {"kind": "oip", "url": plain, "model": plain}}),
        (b"/v1/teachers", {"name": "a", "source": {"kind": "timm", "model": plain}}),
    ]
    path, order = chance.choice(orders)
    return request(b"POST", path, json.dumps(order).encode())


def test_hostile_names_lead_nowhere(
    gateway: Target, watched: Path, sized: Callable[..., int], told: Callable[..., None]
):
    count = sized(300, 5_000)
    chance, routes = random.Random(7), _routes()
    before = tree(watched, gateway.store)
    stored = set(gateway.store.rglob("*"))
    statuses: Counter[int] = Counter()
    told_of: list[bytes] = []
    bad: list[tuple[int, bytes]] = []
    with RawClient(gateway.host, gateway.port) as client:
        for name in names(count, watched):
            sent = _placed(name, chance, routes)
            status, body = client.ask(sent)
            statuses[status] += 1
            if status >= 500:
                bad.append((status, sent[:200] + b" ... " + body[:200]))
            told_of += [body] if b"root:" in body or str(watched).encode() in body.replace(name, b"") else []
    # What the gateway makes for itself at the first request, whatever that is called.
    own = {gateway.store / ".keys.lock", gateway.store / "uploads"}
    new = {str(path) for path in set(gateway.store.rglob("*")) - stored - own}
    told(
        7,
        f"{count:,} hostile names in paths of {len(routes)} operations, forms and orders",
        f"{dict(sorted(statuses.items()))}; outside the store "
        f"{len(tree(watched, gateway.store) ^ before)}, new inside {sorted(new)[:3] or 0}; "
        f"5xx: {bad[:3] or 'none'}",
        "0 files outside or inside, 0 x 5xx, each answered, no answer with a file or a path of the machine",
        held=not bad
        and not statuses[0]
        and not new
        and not told_of
        and tree(watched, gateway.store) == before
        and gateway.is_same(),
    )


# --- bodies ------------------------------------------------------------------------------------------------


def _bodies() -> list[tuple[bytes, str]]:
    """Return path and media type of each operation that takes a body."""
    found = []
    for path, operations in json.loads(OPENAPI.read_text())["paths"].items():
        for method, operation in operations.items():
            for media_type in list(operation.get("requestBody", {}).get("content", {}))[:2]:
                named = path.replace("{name}", "digits").replace("{version}", "digits-1")
                found.append((f"{method.upper()} {named}".encode(), media_type))
    return found


def _limit(operation: bytes, is_form: bool) -> int:
    """Return how many bytes of a body the operation takes."""
    if operation in (b"POST /v1/datasets", b"POST /v1/teachers") and is_form:
        return QUOTA
    if operation.endswith((b"/infer", b"/predictions")):
        return PREDICTION_BYTES
    return BODY_BYTES


def test_bodies_without_end_are_refused_at_the_limit(
    gateway: Target, sized: Callable[..., int], told: Callable[..., None]
):
    piece = b"%x\r\n%b\r\n" % (MIB // 16, b"a" * (MIB // 16))
    beginning = (
        b'--%b\r\nContent-Disposition: form-data; name="teacher"\r\n\r\n%b\r\n'
        b'--%b\r\nContent-Disposition: form-data; name="files"; filename="model.onnx"\r\n\r\n'
    ) % (LIMIT, ONNX, LIMIT)
    operations = _bodies()
    answers = {}
    wrong = {}
    gateway.rss_before = gateway.rss()
    worst = 0.0
    most_over = 0
    with largest(gateway.store / "uploads") as most:
        for operation, media_type in operations[:: sized(3, 1)]:
            is_form = media_type.startswith("multipart")
            given = media_type.encode() + (b"; boundary=" + LIMIT if is_form else b"")
            head = operation + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: " + given
            head += b"\r\n\r\n" + (b"%x\r\n%b\r\n" % (len(beginning), beginning) if is_form else b"")
            with RawClient(gateway.host, gateway.port) as client:
                (status, _), sent = client.pour(head, (piece for _ in range(16 * 1024)))
            worst = max(worst, gateway.grown())
            name = f"{operation.decode()} {media_type}"
            answers[name] = status, sent / MIB
            over = sent - _limit(operation, is_form)
            most_over = max(most_over, over)
            if status not in (400, 413, 415, 422) or over > BUFFERED_BYTES:
                wrong[name] = answers[name]
    told(
        7,
        f"1 GiB in chunks at {len(answers)} operations that take a body",
        f"answers {dict(Counter(status for status, _ in answers.values()))}, otherwise {wrong or 'none'}; "
        f"most sent {max(sent for _, sent in answers.values()):.0f} MiB, at most {most_over / MIB:.1f} over "
        f"its limit; disk {most[0] / MIB:.0f} MiB, memory +{worst:.0f} MiB",
        f"refused (413, or earlier for what it is), at most {BUFFERED_BYTES // MIB} MiB over its limit, "
        f"disk <= {QUOTA // MIB} + 1 MiB, memory + < 128 MiB",
        held=not wrong and most[0] <= QUOTA + MIB and worst < 128 and gateway.is_same(),
    )
    assert 413 in {status for status, _ in answers.values()}
