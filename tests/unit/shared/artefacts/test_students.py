"""The store of students, and which of them is live."""

import errno
import multiprocessing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.artefacts.files import sha256_file
from shared.artefacts.students import StudentStore
from shared.contracts.architectures import Mlp
from shared.contracts.evaluation import Comparison, Evaluation, Verdict
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.students import BundleFile, StudentCard
from shared.contracts.traffic import Canary, TrafficPolicy
from shared.contracts.training import Objective
from shared.errors import Corrupt, FileNotInBundle, NothingToRollBack, StoreFull, StudentNotFound

BIRTH = datetime(2026, 1, 1, tzinfo=UTC)


def card_of(version: str, files: dict[str, BundleFile], created_at: datetime = BIRTH) -> StudentCard:
    return StudentCard(
        version=version,
        name="digits",
        job_id="job-1",
        created_at=created_at,
        classes=("a", "b"),
        preprocessing=Preprocessing(input=ImageInput(height=2, width=2, channels=1), mean=(0.0,), std=(1.0,)),
        architecture=Mlp(hidden_units=(3,)),
        parameters=20,
        teacher="digits",
        teacher_digest="0" * 64,
        teacher_parameters=40,
        dataset="digits",
        dataset_digest="1" * 64,
        transfer_set_digest="2" * 64,
        objective=Objective(),
        seed=0,
        evaluation=Evaluation(
            examples=1, errors=0, accuracy=1, accuracy_interval=(0.2, 1), nll=0, brier=0, ece=0,
            reliability=(), errors_by_class={}, confusion=(),
        ),
        comparison=Comparison(
            verdict=Verdict.BEATS, gain=0.1, interval=(0.05, 0.15), p_value=0.01, degrees_of_freedom=2,
            margin=0.0, method="", seeds=(),
        ),
        latency=(),
        onnx_largest_difference=0.0,
        files=files,
    )  # fmt: skip


def bundle(version: str, created_at: datetime = BIRTH) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        model = folder / "model.onnx"
        model.write_bytes(version.encode())
        file = BundleFile(sha256=sha256_file(model), size_bytes=model.stat().st_size)
        card = card_of(version, {"model.onnx": file}, created_at)
        (folder / "card.json").write_text(card.model_dump_json())

    return build


@pytest.fixture
def store(tmp_path: Path) -> StudentStore:
    store = StudentStore(tmp_path / "students")
    for i, version in enumerate(("one", "two", "three")):
        store.publish(version, bundle(version, BIRTH + timedelta(days=i)))
    return store


def test_students_are_listed_newest_first(store: StudentStore) -> None:
    store.promote("two")
    assert [card.version for card in store.list()] == ["three", "two", "one"]


def test_a_damaged_card_hides_its_student_and_no_other(store: StudentStore, tmp_path: Path) -> None:
    (tmp_path / "students" / "two" / "card.json").write_text("{")
    assert [card.version for card in store.list()] == ["three", "one"]


def test_an_empty_store_has_no_students(tmp_path: Path) -> None:
    store = StudentStore(tmp_path / "students")
    assert store.list() == []
    assert store.live() is None


def test_a_version_is_published_once(store: StudentStore) -> None:
    assert not store.publish("one", bundle("one", BIRTH + timedelta(days=9)))
    assert store.card("one").created_at == BIRTH


def test_files_on_the_card_and_the_card_itself_are_given(store: StudentStore) -> None:
    assert store.file("one", "model.onnx", verify=True).read_bytes() == b"one"
    assert StudentCard.model_validate_json(store.file("one", "card.json").read_bytes()) == store.card("one")


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "../two/model.onnx",
        "../live.json",
        "/etc/passwd",
        "",
        ".",
        "..",
        "model.onnx\0",
        "a/../card.json",
    ],
)
def test_files_that_are_not_on_the_card_are_not_given(store: StudentStore, name: str) -> None:
    store.promote("two")
    with pytest.raises(FileNotInBundle):
        store.file("one", name)


@pytest.mark.parametrize("version", ["nobody", "../students/one", "live.json", ".", "", "one/", "one\n"])
def test_unknown_versions_are_not_found(store: StudentStore, version: str) -> None:
    store.promote("one")
    for question in (store.card, store.promote, lambda v: store.file(v, "card.json")):
        with pytest.raises(StudentNotFound):
            question(version)


def test_a_changed_file_is_corrupt(store: StudentStore) -> None:
    store.file("one", "model.onnx").write_bytes(b"eno")
    with pytest.raises(Corrupt, match=r"model\.onnx"):
        store.file("one", "model.onnx", verify=True)


def test_a_lost_file_is_corrupt(store: StudentStore) -> None:
    store.file("one", "model.onnx").unlink()
    with pytest.raises(Corrupt, match=r"model\.onnx"):
        store.file("one", "model.onnx")


def test_bundles_that_do_not_fit_their_card_are_not_published(store: StudentStore, tmp_path: Path) -> None:
    def without_file(folder: Path) -> None:
        bundle("four")(folder)
        (folder / "model.onnx").unlink()

    def with_another_card(folder: Path) -> None:
        bundle("five")(folder)

    def without_meaning(folder: Path) -> None:
        (folder / "card.json").write_text("{}")

    with pytest.raises(Corrupt):
        store.publish("four", without_file)
    with pytest.raises(ValueError, match="'five'"):
        store.publish("four", with_another_card)
    with pytest.raises(ValidationError):
        store.publish("four", without_meaning)
    with pytest.raises(ValueError, match="cannot be"):
        store.publish("../four", bundle("../four"))
    assert len(store.list()) == 3
    assert sorted(path.name for path in (tmp_path / "students").iterdir()) == ["one", "three", "two"]


# --- which one is live -------------------------------------------------------------------------------------


def test_promotion_and_rollback_walk_the_same_way(store: StudentStore) -> None:
    for version in ("one", "two", "three"):
        store.promote(version)
    live = store.live()
    assert live is not None
    assert (live.version, live.previous, live.promotion) == ("three", ("one", "two"), 3)
    assert store.rollback().version == "two"
    assert store.rollback().version == "one"
    last = store.live()
    assert last is not None
    assert (last.version, last.previous, last.promotion) == ("one", (), 5)


def test_promoting_the_live_student_changes_nothing(store: StudentStore) -> None:
    first = store.promote("one")
    assert store.promote("one") == first == store.live()


def test_nothing_can_be_rolled_back_before_a_second_promotion(store: StudentStore) -> None:
    with pytest.raises(NothingToRollBack):
        store.rollback()
    store.promote("one")
    with pytest.raises(NothingToRollBack):
        store.rollback()


def test_without_room_nobody_else_answers_and_the_error_says_so(
    store: StudentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.promote("one")
    before = store.promote("two")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for change in (
        lambda: store.promote("three"),
        store.rollback,
        lambda: store.set_traffic(TrafficPolicy(canary=Canary(version="one", share=0.1))),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", refuse)
            with pytest.raises(StoreFull, match=r"live\.json"):
                change()
        assert store.live() == before


def test_a_broken_live_file_is_corrupt(store: StudentStore, tmp_path: Path) -> None:
    (tmp_path / "students/live.json").write_text("{")
    with pytest.raises(Corrupt, match=r"live\.json"):
        store.live()


def _promote_often(root: Path, version: str, times: int) -> None:
    store = StudentStore(root)
    for _ in range(times):
        store.promote(version)
        live = store.live()
        assert live is not None  # a reader never sees a gap or half a file


@pytest.mark.integration
def test_promotions_by_several_processes_at_once_are_all_counted(store: StudentStore, tmp_path: Path) -> None:
    """Each promotion of another version adds one to the way back: none overwrites another's."""
    context = multiprocessing.get_context("spawn")
    versions = ("one", "two", "three")
    processes = [
        context.Process(target=_promote_often, args=(tmp_path / "students", version, 20))
        for version in versions
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    live = store.live()
    assert live is not None
    assert live.promotion == len(live.previous) + 1
    assert all(a != b for a, b in zip(live.previous, (*live.previous[1:], live.version), strict=True))
