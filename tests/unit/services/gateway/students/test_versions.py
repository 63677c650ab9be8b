"""Students beside the live one: loaded once, checked, bounded, and gone when they are deleted."""

import asyncio
import shutil
import threading

import pytest

from services.gateway.students import versions as module
from services.gateway.students.live import Live
from services.gateway.students.versions import Versions
from shared.artefacts.store import ArtefactStore
from shared.errors import StudentNotFound, StudentUnusable
from tests.support.student_bundles import mlp_onnx, write_bundle

NAMES = ("digits-0", "digits-1", "digits-2", "digits-3")


@pytest.fixture
def store(tmp_path):
    store = ArtefactStore(tmp_path)
    for digit, version in enumerate(NAMES):
        model = mlp_onnx(favourite=digit)
        store.students.publish(version, lambda at, v=version, m=model: write_bundle(at, v, m))
    store.students.promote("digits-0")
    return store


@pytest.fixture
def live(store):
    live = Live(store, threads=1)
    live.refresh()
    return live


@pytest.fixture
def versions(store, live):
    versions = Versions(store, live, threads=1, most=2)
    yield versions
    versions.close()


@pytest.fixture
def loads(monkeypatch):
    """The versions that were loaded, in order."""
    made: list[str] = []
    load = module.load_student

    def counted(students, version, *, threads):
        made.append(version)
        return load(students, version, threads=threads)

    monkeypatch.setattr(module, "load_student", counted)
    return made


def get(versions, version):
    return asyncio.run(versions.get(version))


def test_a_version_is_loaded_once_and_answers_as_itself(versions, loads):
    first = get(versions, "digits-1")
    assert first.version == "digits-1"
    assert get(versions, "digits-1") is first
    assert versions.load("digits-1") is first
    assert loads == ["digits-1"]


def test_the_live_student_has_no_second_copy(versions, live, loads):
    assert get(versions, "digits-0") is live.student()
    assert loads == []


def test_a_version_that_goes_live_is_kept_once(versions, live):
    get(versions, "digits-1")
    live.promote("digits-1")
    assert get(versions, "digits-1") is live.student()
    assert versions.loaded == ()


def test_all_who_ask_at_once_wait_for_one_load(versions, loads):
    async def ask():
        return await asyncio.gather(*(versions.get("digits-1") for _ in range(20)))

    assert len({id(student) for student in asyncio.run(ask())}) == 1
    assert loads == ["digits-1"]


def test_one_who_goes_away_cancels_the_load_for_nobody(versions, monkeypatch):
    may_load = threading.Event()
    load = module.load_student

    def slow(students, version, *, threads):
        may_load.wait(10)
        return load(students, version, threads=threads)

    monkeypatch.setattr(module, "load_student", slow)

    async def ask():
        # Two wait for a load that has not begun, and so could be cancelled: another one is before it.
        names = ("digits-2", "digits-1", "digits-1")
        before, gone, stays = (asyncio.create_task(versions.get(name)) for name in names)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        may_load.set()
        return gone.cancelled(), (await before).version, (await stays).version

    assert asyncio.run(ask()) == (True, "digits-2", "digits-1")


def test_the_longest_unused_version_makes_room(versions):
    for version in ("digits-1", "digits-2", "digits-1", "digits-3"):
        get(versions, version)
    assert versions.loaded == ("digits-1", "digits-3")


def test_pinned_versions_stay_and_take_no_room_from_others(versions):
    versions.pin(frozenset({"digits-1"}))
    pinned = get(versions, "digits-1")
    for version in ("digits-2", "digits-3", "digits-2", "digits-3"):
        get(versions, version)
    assert get(versions, "digits-1") is pinned
    assert len(versions.loaded) == 3
    versions.pin(frozenset())
    assert len(versions.loaded) == 2


def test_an_unknown_version_is_not_found(versions):
    for version in ("digits-9", "..", "live.json"):
        with pytest.raises(StudentNotFound):
            get(versions, version)


def test_a_damaged_version_is_refused_and_looked_at_again_later(versions, store):
    model = store.students.file("digits-1", "model.onnx")
    whole = model.read_bytes()
    model.write_bytes(b"damaged")
    with pytest.raises(StudentUnusable):
        get(versions, "digits-1")
    assert versions.loaded == ()
    model.write_bytes(whole)
    assert get(versions, "digits-1").version == "digits-1"


def test_a_version_with_a_damaged_card_is_refused(versions, store):
    store.students.file("digits-1", "card.json").write_text("{}")
    with pytest.raises(StudentUnusable, match="card"):
        get(versions, "digits-1")


def test_a_version_that_the_store_has_no_more_is_forgotten(versions, store):
    for version in ("digits-1", "digits-2"):
        get(versions, version)
    shutil.rmtree(store.students.directory("digits-1"))
    assert versions.forget_deleted() == {"digits-1"}
    assert versions.loaded == ("digits-2",)
    with pytest.raises(StudentNotFound):
        get(versions, "digits-1")
