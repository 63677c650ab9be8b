"""The traffic policy in a process: followed, prepared before it holds, and ended by itself."""

import asyncio
import shutil
import threading

import pytest

from services.gateway.students.live import Live
from services.gateway.students.versions import Versions
from services.gateway.traffic.policy import Traffic
from shared.artefacts.store import ArtefactStore
from shared.contracts.images import ImageInput
from shared.contracts.traffic import Canary, Cascade, Keeping, Shadow, TrafficPolicy
from shared.errors import NoLiveStudent, StudentNotFound, StudentUnusable, TrafficRefused
from tests.support.student_bundles import card, mlp_onnx, write_bundle

CANARY = TrafficPolicy(canary=Canary(version="digits-1", share=1.0))


def publish(store, version, digit=None, **facts):
    model = mlp_onnx(
        facts.get("image") or ImageInput(height=28, width=28, channels=1),
        len(facts.get("classes") or range(10)),
        favourite=digit,
    )
    store.students.publish(version, lambda at: write_bundle(at, version, model, **facts))


@pytest.fixture
def store(tmp_path):
    store = ArtefactStore(tmp_path)
    for digit in range(3):
        publish(store, f"digits-{digit}", digit)
    store.students.promote("digits-0")
    return store


class Process:
    """A gateway process on a store, without its routes."""

    def __init__(self, store):
        self.live = Live(store, threads=1)
        self.live.refresh()
        self.versions = Versions(store, self.live, threads=1, most=2)
        self.traffic = Traffic(store, self.live, self.versions)
        self.traffic.refresh()

    def follow(self):
        self.live.refresh()
        self.traffic.refresh()

    def answers(self, key=None):
        return self.traffic.student(key).version


@pytest.fixture
def process(store):
    process = Process(store)
    yield process
    process.versions.close()


@pytest.fixture
def other(store):
    process = Process(store)
    yield process
    process.versions.close()


def test_without_a_policy_the_live_student_answers(process):
    assert process.answers("anna") == "digits-0"
    assert process.traffic.policy == TrafficPolicy()
    assert process.traffic.problems == ()


def test_a_canary_holds_here_at_once_and_elsewhere_when_it_is_followed(process, other):
    process.traffic.set(CANARY)
    assert process.answers() == "digits-1"
    assert other.answers() == "digits-0"
    other.follow()
    assert other.answers() == "digits-1"
    assert other.traffic.canary.version == "digits-1"


def test_keys_get_the_same_student_in_both_processes(process, other):
    process.traffic.set(TrafficPolicy(canary=Canary(version="digits-1", share=0.5)))
    other.follow()
    keys = [f"user-{number}" for number in range(60)]
    first = [process.answers(key) for key in keys]
    assert set(first) == {"digits-0", "digits-1"}
    assert first == [other.answers(key) for key in keys]


def test_a_policy_is_in_the_store_before_a_process_starts(store, process):
    process.traffic.set(TrafficPolicy(shadow=Shadow(to="student", version="digits-2")))
    later = Process(store)
    assert later.traffic.shadow_student.version == "digits-2"
    assert later.answers() == "digits-0"
    later.versions.close()


@pytest.mark.parametrize("part", ["canary", "shadow"])
def test_a_candidate_that_cannot_be_one_is_refused_and_the_policy_stays(process, store, part):
    def policy(version):
        if part == "canary":
            return TrafficPolicy(canary=Canary(version=version, share=0.5))
        return TrafficPolicy(shadow=Shadow(to="student", version=version))

    publish(store, "letters-1", classes=tuple("abcdefghij"))
    publish(store, "large-1", image=ImageInput(height=32, width=32, channels=1))
    store.students.file("digits-2", "model.onnx").write_bytes(b"damaged")
    for version, error in {
        "digits-9": StudentNotFound,
        "../digits-1": StudentNotFound,
        "digits-2": StudentUnusable,
        "digits-0": TrafficRefused,
        "letters-1": TrafficRefused,
        "large-1": TrafficRefused,
    }.items():
        with pytest.raises(error):
            process.traffic.set(policy(version))
    assert store.students.traffic().revision == 0
    assert process.traffic.policy == TrafficPolicy()


def test_a_candidate_needs_a_live_student_beside_it(tmp_path):
    store = ArtefactStore(tmp_path)
    publish(store, "digits-1")
    process = Process(store)
    with pytest.raises(NoLiveStudent):
        process.traffic.set(CANARY)
    process.versions.close()


@pytest.mark.parametrize(
    "policy",
    [TrafficPolicy(cascade=Cascade(threshold=0.5)), TrafficPolicy(shadow=Shadow(to="teacher"))],
    ids=["cascade", "shadow"],
)
def test_who_asks_the_teacher_needs_one_behind_the_live_student(process, store, policy):
    assert process.traffic.set(policy).policy == policy

    def build(at):
        model = mlp_onnx()
        self_taught = card("digits-5", model).model_copy(update={"teacher": None, "teacher_digest": None})
        (at / "model.onnx").write_bytes(model)
        (at / "card.json").write_text(self_taught.model_dump_json())

    store.students.publish("digits-5", build)
    process.live.promote("digits-5")
    process.traffic.refresh()
    assert process.traffic.policy == TrafficPolicy()
    assert "teacher" in process.traffic.problems[0]
    with pytest.raises(TrafficRefused, match="teacher"):
        process.traffic.set(policy)


def test_a_share_to_escalate_needs_the_curve_on_the_card(process):
    with pytest.raises(TrafficRefused, match="curve"):
        process.traffic.set(TrafficPolicy(cascade=Cascade(share=0.05)))


def test_a_part_that_cannot_hold_is_told_and_the_others_hold(process, other, store):
    keeping = Keeping(collection="unsure")
    process.traffic.set(TrafficPolicy(canary=CANARY.canary, keeping=keeping))
    store.students.file("digits-1", "model.onnx").write_bytes(b"damaged")
    other.follow()
    assert other.answers() == "digits-0"
    assert other.traffic.policy == TrafficPolicy(keeping=keeping)
    assert "digits-1" in other.traffic.view().problems[0]
    assert other.traffic.view().policy.canary == CANARY.canary
    assert other.live.ready


def test_an_unreadable_policy_leaves_what_held_and_a_new_one_replaces_it(process, store, tmp_path):
    process.traffic.set(CANARY)
    (tmp_path / "students" / "traffic.json").write_text('{"policy": {"canary": 3}}')
    process.traffic.refresh()
    assert process.answers() == "digits-1"
    assert "traffic.json" in process.traffic.problems[0]
    process.traffic.set(TrafficPolicy(canary=Canary(version="digits-2", share=1.0)))
    assert process.answers() == "digits-2"
    assert process.traffic.problems == ()


def test_a_canary_ends_when_its_candidate_is_promoted_and_does_not_come_back_with_a_rollback(process, other):
    process.traffic.set(CANARY)
    process.live.promote("digits-1")
    other.follow()
    assert other.traffic.policy == TrafficPolicy()
    assert other.answers() == "digits-1"
    process.live.rollback()
    other.follow()
    assert (other.answers(), other.traffic.canary) == ("digits-0", None)


def test_a_canary_of_the_student_that_a_rollback_brings_back_ends(process, other):
    process.live.promote("digits-1")
    process.traffic.refresh()
    process.traffic.set(TrafficPolicy(canary=Canary(version="digits-0", share=0.5)))
    process.live.rollback()
    other.follow()
    assert other.traffic.policy == TrafficPolicy()


def test_a_promotion_leaves_the_canary_of_another_student(process):
    process.traffic.set(CANARY)
    process.live.promote("digits-2")
    process.traffic.refresh()
    assert process.answers() == "digits-1"


def test_a_candidate_does_not_answer_beside_a_live_student_of_other_classes(process, store):
    process.traffic.set(CANARY)
    publish(store, "letters-1", classes=tuple("abcdefghij"))
    process.live.promote("letters-1")
    process.traffic.refresh()
    assert process.answers() == "letters-1"
    assert "classes" in process.traffic.problems[0]


def test_the_same_candidate_is_loaded_once_whatever_changes_around_it(process):
    process.traffic.set(CANARY)
    first = process.traffic.canary
    for share in (0.2, 0.4):
        process.traffic.set(
            TrafficPolicy(
                canary=Canary(version="digits-1", share=share),
                shadow=Shadow(to="student", version="digits-1"),
            )
        )
    assert process.traffic.canary is process.traffic.shadow_student is first


def test_candidates_stay_in_memory_while_others_come_and_go(process, store):
    process.traffic.set(CANARY)
    for digit in range(3, 7):
        publish(store, f"digits-{digit}", digit)
        process.versions.load(f"digits-{digit}")
    assert process.versions.load("digits-1") is process.traffic.canary


def test_the_watch_follows_the_file_deletions_and_tells_of_changes(process, other, store):
    told: list[tuple[str | None, bool]] = []
    loop_thread: list[bool] = []

    async def run():
        here = threading.get_ident()

        def changed():
            loop_thread.append(threading.get_ident() == here)
            canary = other.traffic.canary
            told.append((canary.version if canary else None, bool(other.traffic.problems)))

        other.traffic.on_change.append(changed)
        other.traffic.start()
        watch = asyncio.create_task(other.traffic.watch(0.01))

        async def until(times):
            async with asyncio.timeout(20):
                while len(told) < times:
                    await asyncio.sleep(0.01)

        await asyncio.to_thread(process.traffic.set, CANARY)
        await until(1)
        await asyncio.to_thread(shutil.rmtree, store.students.directory("digits-1"))
        await until(2)
        watch.cancel()
        await asyncio.wait([watch])

    asyncio.run(run())
    assert told == [("digits-1", False), (None, True)]
    assert all(loop_thread)
    assert other.answers() == "digits-0"
