"""The traffic policy in the store of students, deleting among it, and processes that die on the way."""

import multiprocessing
import os
from pathlib import Path

import pytest

from shared.artefacts import files
from shared.artefacts.students import StudentStore
from shared.contracts.traffic import Canary, Keeping, Shadow, TrafficPolicy
from shared.errors import Corrupt, RevisionMismatch, StudentInUse, StudentNotFound, TrafficRefused
from tests.support.student_bundles import write_bundle


def canary(version: str, share: float = 0.5) -> TrafficPolicy:
    return TrafficPolicy(canary=Canary(version=version, share=share))


@pytest.fixture
def store(tmp_path: Path) -> StudentStore:
    store = StudentStore(tmp_path / "students")
    for version in ("one", "two", "three"):
        store.publish(version, lambda at, v=version: write_bundle(at, v, b"a graph"))
    store.promote("one")
    return store


def test_a_store_begins_without_a_policy(tmp_path: Path) -> None:
    found = StudentStore(tmp_path / "students").traffic()
    assert (found.policy, found.revision, found.changed_at) == (TrafficPolicy(), 0, None)


def test_revisions_count_changes_and_nothing_else(store: StudentStore) -> None:
    assert store.set_traffic(canary("two")).revision == 1
    assert store.set_traffic(canary("two")).revision == 1
    assert store.set_traffic(canary("three")).revision == 2
    assert store.traffic().policy == canary("three")


def test_a_policy_is_replaced_only_at_the_revision_that_was_meant(store: StudentStore) -> None:
    store.set_traffic(canary("two"), revision=0)
    with pytest.raises(RevisionMismatch):
        store.set_traffic(canary("three"), revision=0)
    assert store.traffic().policy == canary("two")
    store.set_traffic(canary("three"), revision=1)


def raise_share(root: Path, times: int) -> None:
    store = StudentStore(root)
    done = 0
    while done < times:
        found = store.traffic()
        share = found.policy.canary.share if found.policy.canary else 0.0
        try:
            store.set_traffic(canary("two", share + 0.01), revision=found.revision)
        except RevisionMismatch:
            continue
        done += 1


def test_of_many_who_change_it_at_once_no_change_is_lost(store: StudentStore, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=raise_share, args=(tmp_path / "students", 10)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    found = store.traffic()
    assert found.revision == 30
    assert found.policy.canary is not None
    assert found.policy.canary.share == pytest.approx(0.3)


def test_a_candidate_exists_and_is_not_live(store: StudentStore) -> None:
    with pytest.raises(StudentNotFound):
        store.set_traffic(canary("nobody"))
    with pytest.raises(TrafficRefused):
        store.set_traffic(canary("one"))
    assert store.traffic().revision == 0


@pytest.mark.parametrize("part", ["canary", "shadow"])
def test_a_promotion_ends_what_names_its_student_and_leaves_the_rest(store: StudentStore, part: str) -> None:
    named = {"canary": Canary(version="two", share=0.5), "shadow": Shadow(to="student", version="two")}
    others = {"canary": Canary(version="three", share=0.5), "shadow": Shadow(to="student", version="three")}
    rest = {name: value for name, value in others.items() if name != part}
    keeping = Keeping(collection="unsure")
    store.set_traffic(TrafficPolicy(**rest, **{part: named[part]}, keeping=keeping))
    store.promote("two")
    assert store.traffic().policy == TrafficPolicy(**rest, keeping=keeping)
    store.rollback()
    assert store.traffic().policy == TrafficPolicy(**rest, keeping=keeping)


def test_a_rollback_ends_what_names_the_student_that_it_brings_back(store: StudentStore) -> None:
    store.promote("two")
    store.set_traffic(canary("one"))
    store.rollback()
    assert store.traffic().policy == TrafficPolicy()


def test_a_promotion_that_dies_on_the_way_leaves_no_canary_of_the_live_student(
    store: StudentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_traffic(canary("two"))
    monkeypatch.setattr(StudentStore, "_write_live", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.promote("two")
    live = store.live()
    assert live is not None
    assert (live.version, store.traffic().policy) == ("one", TrafficPolicy())


def test_an_unreadable_policy_is_told_and_stands_in_nobodys_way(store: StudentStore, tmp_path: Path) -> None:
    (tmp_path / "students" / "traffic.json").write_text("{")
    with pytest.raises(Corrupt, match="traffic"):
        store.traffic()
    store.promote("two")
    store.delete("three")
    assert store.set_traffic(canary("one")).revision == 1


# --- deleting --------------------------------------------------------------------------------------------


def test_a_deleted_student_is_gone_and_can_be_published_again(store: StudentStore) -> None:
    store.delete("two")
    assert not store.has("two")
    assert [card.version for card in store.list()] == ["three", "one"]
    for question in (store.card, store.delete, store.promote):
        with pytest.raises(StudentNotFound):
            question("two")
    assert store.publish("two", lambda at: write_bundle(at, "two", b"a graph"))


@pytest.mark.parametrize("version", ["nobody", "../students/one", "live.json", ".", "", ".."])
def test_what_is_no_student_is_not_deleted(store: StudentStore, version: str) -> None:
    with pytest.raises(StudentNotFound):
        store.delete(version)
    assert len(store.list()) == 3


def test_the_live_student_and_candidates_are_not_deleted(store: StudentStore) -> None:
    store.set_traffic(TrafficPolicy(shadow=Shadow(to="student", version="two")))
    for version in ("one", "two"):
        with pytest.raises(StudentInUse):
            store.delete(version)
    assert len(store.list()) == 3


def test_no_rollback_goes_to_a_deleted_student(store: StudentStore) -> None:
    for version in ("two", "one", "two", "three"):
        store.promote(version)
    before = store.live()
    assert before is not None
    store.delete("two")
    live = store.live()
    assert live is not None
    assert (live.version, live.previous, live.promotion) == ("three", ("one",), before.promotion)
    assert store.rollback().version == "one"


def test_a_way_back_that_leads_to_the_live_student_ends_there(store: StudentStore) -> None:
    store.promote("two")
    store.promote("one")
    store.delete("two")
    live = store.live()
    assert live is not None
    assert (live.version, live.previous) == ("one", ())


def delete_and_die(root: Path) -> None:
    files.shutil.rmtree = lambda *_, **__: os._exit(9)  # type: ignore[assignment]
    StudentStore(root).delete("two")


def test_a_process_that_dies_while_it_deletes_leaves_what_the_next_start_clears_away(
    store: StudentStore, tmp_path: Path
) -> None:
    root = tmp_path / "students"
    dying = multiprocessing.get_context("fork").Process(target=delete_and_die, args=(root,))
    dying.start()
    dying.join(60)
    assert dying.exitcode == 9
    assert not store.has("two")
    (left,) = (path for path in root.iterdir() if path.name.startswith(".two."))
    store.sweep()
    assert not left.exists()
    assert {card.version for card in store.list()} == {"one", "three"}
