"""Teachers in memory: new ones appear, old ones make room, broken ones are refused."""

import socket
import threading
import weakref

import numpy as np
import pytest
import torch

from services.teacher.device import answer
from services.teacher.lanes import Part
from services.teacher.models import Teachers
from shared.adapters import oip
from shared.adapters.oip_hosts import AllowedHosts
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp, ResNet
from shared.contracts.teachers import RemoteModel
from shared.errors import (
    Corrupt,
    OipHostNotAllowed,
    TeacherAnswerInvalid,
    TeacherChanged,
    TeacherNotFound,
    TeacherUnavailable,
)
from shared.models.checkpoints import stack, to_arrays
from shared.models.mixed import MixedTeacher
from shared.models.network import Network
from shared.models.probes import make_probe
from tests.support.any_teachers import publish_mixed, publish_model, publish_onnx
from tests.support.onnx_graphs import linear_logits, linear_weights
from tests.support.specialists import COMBINATION, expected_q, publish_ensemble, stored
from tests.support.teachers import CLASSES, INPUT, publish, random_images, random_tensors, softmax


def teachers(root, *, max_held: int = 2, **options) -> Teachers:
    return Teachers(ArtefactStore(root).teachers, device=torch.device("cpu"), max_held=max_held, **options)


@pytest.mark.parametrize("name", ["nobody", "../../etc", "SHAPES", "", "a" * 200, "shapes\x00"])
def test_a_name_under_which_nobody_answers_is_not_found(tmp_path, name):
    publish(tmp_path)
    with pytest.raises(TeacherNotFound):
        teachers(tmp_path).hold(name)


def test_a_teacher_is_loaded_once_and_kept(tmp_path):
    publish(tmp_path)
    held = teachers(tmp_path)
    assert held.hold("shapes")[1] is held.hold("shapes")[1]


def test_a_teacher_published_later_is_found_without_being_told(tmp_path):
    held = teachers(tmp_path)
    with pytest.raises(TeacherNotFound):
        held.hold("shapes")
    published = publish(tmp_path)
    assert held.hold("shapes")[0] == published


def test_a_replaced_teacher_answers_from_the_next_call_on(tmp_path):
    publish(tmp_path, seed=0)
    held = teachers(tmp_path)
    _, before = held.hold("shapes")
    published = publish(tmp_path, seed=1)
    description, after = held.hold("shapes")
    assert description.digest == published.digest
    assert after is not before


def test_a_caller_who_wants_another_digest_is_told_that_the_teacher_changed(tmp_path):
    before = publish(tmp_path, seed=0)
    publish(tmp_path, seed=1)
    with pytest.raises(TeacherChanged):
        teachers(tmp_path).hold("shapes", before.digest)


def test_the_teacher_asked_least_recently_makes_room(tmp_path):
    for seed, name in enumerate(("a", "b", "c")):
        publish(tmp_path, name, seed=seed)
    held = teachers(tmp_path, max_held=2)
    a, b = held.hold("a")[1], weakref.ref(held.hold("b")[1])
    assert held.hold("a")[1] is a
    held.hold("c")
    assert held.hold("a")[1] is a
    assert b() is None


def test_two_names_for_the_same_weights_keep_their_own_descriptions(tmp_path):
    publish(tmp_path, "one")
    publish(tmp_path, "two")
    held = teachers(tmp_path)
    assert [held.hold(name)[0].name for name in ("one", "two")] == ["one", "two"]
    assert held.hold("one")[1] is held.hold("two")[1]


def test_many_threads_that_ask_at_once_load_a_teacher_once(tmp_path):
    publish(tmp_path)
    held = teachers(tmp_path)
    found = []
    threads = [threading.Thread(target=lambda: found.append(held.hold("shapes")[1])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(ensemble) for ensemble in found}) == 1


def test_weights_that_were_changed_on_disk_are_refused(tmp_path):
    description = publish(tmp_path)
    path = ArtefactStore(tmp_path).teachers.file(description, "model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        teachers(tmp_path).hold("shapes")


def test_weights_that_are_not_of_the_architecture_are_refused_by_name(tmp_path):
    publish(tmp_path, architecture=Mlp(hidden_units=(17,)))
    with pytest.raises(TeacherAnswerInvalid, match=r"layers\.0\.weight"):
        teachers(tmp_path).hold("shapes")


def test_a_residual_teacher_is_its_weights_and_its_running_means(tmp_path):
    architecture = ResNet(architecture="resnet8")
    network = Network(architecture, INPUT, len(CLASSES))
    tensors = to_arrays(stack([network.initial(0), network.initial(1)]))
    publish(tmp_path, tensors=tensors, members=2, architecture=architecture)
    _, held = teachers(tmp_path).hold("shapes")
    assert held.softened_logits(torch.zeros(3, 6, 5, 1, dtype=torch.uint8), temperature=1.0).shape == (3, 4)
    del tensors["norm.running_var"]
    publish(tmp_path, "half", tensors=tensors, members=2, architecture=architecture)
    with pytest.raises(TeacherAnswerInvalid, match=r"norm\.running_var"):
        teachers(tmp_path).hold("half")


def test_weights_of_fewer_members_than_described_are_refused(tmp_path):
    publish(tmp_path, tensors=random_tensors(members=2), members=3)
    with pytest.raises(TeacherAnswerInvalid):
        teachers(tmp_path).hold("shapes")


def test_a_teacher_that_answers_nan_is_refused_before_anyone_is_answered(tmp_path):
    tensors = random_tensors()
    tensors["layers.1.bias"][0, 2] = np.nan
    publish(tmp_path, tensors=tensors)
    with pytest.raises(TeacherAnswerInvalid, match="finite"):
        teachers(tmp_path).hold("shapes")


def test_a_damaged_teacher_does_not_hide_the_others_from_the_list(tmp_path):
    publish(tmp_path, "good")
    publish(tmp_path, "bad", seed=1)
    (tmp_path / "teachers" / "bad" / "current.json").write_text("{")
    assert [found.name for found in teachers(tmp_path).describe_all()] == ["good"]


def test_a_generalist_with_specialists_answers_as_a_teacher(tmp_path):
    described = publish_ensemble(tmp_path)
    images = random_images(20)
    description, held = teachers(tmp_path).hold("experts")
    assert description == described
    (answers,) = answer(held, [Part(images, 2.0)])
    np.testing.assert_allclose(softmax(2 * answers.astype(np.float64)), expected_q(images), atol=1e-5)


def test_an_ensemble_that_lacks_a_specialists_tensor_is_refused(tmp_path):
    tensors = stored(tmp_path, publish_ensemble(tmp_path))
    del tensors["specialist-01/layers.1.bias"]
    publish(tmp_path, "experts", tensors=tensors, specialists=COMBINATION)
    with pytest.raises(TeacherAnswerInvalid, match=r"specialist-01/layers\.1\.bias"):
        teachers(tmp_path).hold("experts")


# --- teachers that are no nets of ours ---------------------------------------------------------------------


def test_a_graph_answers_as_a_teacher(tmp_path):
    described = publish_onnx(tmp_path)
    images = random_images(20)
    description, held = teachers(tmp_path).hold("graph")
    assert description == described
    (answers,) = answer(held, [Part(images, 2.0)])
    logits = linear_logits(images, *linear_weights(), 0.25, 0.5) / 2
    np.testing.assert_allclose(answers, logits - logits.mean(-1, keepdims=True), atol=1e-5)


def test_a_graph_that_was_changed_on_disk_is_refused(tmp_path):
    description = publish_onnx(tmp_path)
    path = ArtefactStore(tmp_path).teachers.file(description, "model.onnx")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(Corrupt):
        teachers(tmp_path).hold("graph")


def test_a_precision_that_a_graph_does_not_have_is_refused(tmp_path):
    published = publish_onnx(tmp_path)
    publish_model(
        tmp_path, "half", published.model, {"model.onnx": tmp_path / "graph.onnx"}, precision="float16"
    )
    with pytest.raises(TeacherAnswerInvalid, match="cannot run in float16"):
        teachers(tmp_path).hold("half")


def test_nets_and_a_graph_answer_together(tmp_path):
    publish_mixed(tmp_path, [publish(tmp_path), publish_onnx(tmp_path)], merge="arithmetic")
    images = random_images(20)
    held = teachers(tmp_path)
    parts = [answer(held.hold(name)[1], [Part(images, 3.0)])[0] for name in ("shapes", "graph")]
    (answers,) = answer(held.hold("mixed")[1], [Part(images, 3.0)])
    expected = np.mean([softmax(part.astype(np.float64)) for part in parts], axis=0)
    np.testing.assert_allclose(softmax(answers.astype(np.float64)), expected, atol=1e-5)


def test_an_ensemble_counts_as_one_teacher_and_shares_a_member_that_is_in_memory(tmp_path):
    members = [publish(tmp_path, "a", seed=1), publish(tmp_path, "b", seed=2)]
    publish_mixed(tmp_path, members)
    held = teachers(tmp_path, max_held=2)
    a = held.hold("a")[1]
    mixed = held.hold("mixed")[1]
    assert isinstance(mixed, MixedTeacher)
    assert mixed.members[0] is a
    assert held.hold("a")[1] is a
    assert held.hold("b")[1] is mixed.members[1]


def test_an_ensemble_of_which_a_member_was_replaced_is_another_teacher(tmp_path):
    members = [publish(tmp_path, "a", seed=1), publish(tmp_path, "b", seed=2)]
    published = publish_mixed(tmp_path, members)
    held = teachers(tmp_path)
    held.hold("mixed")
    publish(tmp_path, "b", seed=3)
    for teachers_now in (held, teachers(tmp_path)):
        with pytest.raises(TeacherChanged, match="member teacher 'b' changed: expected digest"):
            teachers_now.hold("mixed", published.digest)


def test_an_ensemble_of_ensembles_sees_that_a_member_of_a_member_was_replaced(tmp_path):
    inner = publish_mixed(tmp_path, [publish(tmp_path, "a", seed=1), publish(tmp_path, "b", seed=2)], "inner")
    publish_mixed(tmp_path, [inner, publish(tmp_path, "c", seed=4)], "outer")
    held = teachers(tmp_path)
    held.hold("outer")
    publish(tmp_path, "b", seed=3)
    with pytest.raises(TeacherChanged, match="member teacher 'b' changed: expected digest"):
        held.hold("outer")


def test_many_threads_that_ask_for_ensembles_and_members_at_once_load_each_once(tmp_path):
    members = [publish(tmp_path, "a", seed=1), publish(tmp_path, "b", seed=2)]
    publish_mixed(tmp_path, members)
    held = teachers(tmp_path, max_held=3)
    found: list[tuple[str, object]] = []
    threads = [
        threading.Thread(target=lambda name=name: found.append((name, held.hold(name)[1])))
        for name in ("mixed", "a", "b") * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len({id(teacher) for _, teacher in found}) == 3


def test_the_server_of_a_teacher_must_be_among_those_that_may_be_asked(tmp_path):
    model = RemoteModel(url="http://models:8000", model="shapes", input="pixels", output="scores")
    probe = make_probe(lambda images: np.zeros((len(images), 4), np.float32), INPUT)
    publish_model(tmp_path, "far", model, {"probe.safetensors": probe})
    with pytest.raises(OipHostNotAllowed, match="models:8000"):
        teachers(tmp_path).hold("far")


def test_a_server_that_does_not_answer_keeps_nobody_waiting_until_it_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(oip, "_FIRST_WAIT_S", 0.001)
    with socket.socket() as silent:  # takes connections, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.setblocking(False)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        model = RemoteModel(url=url, model="shapes", input="pixels", output="scores")
        probe = make_probe(lambda images: np.zeros((len(images), 4), np.float32), INPUT)
        far = publish_model(tmp_path, "far", model, {"probe.safetensors": probe})
        publish_mixed(tmp_path, [far, publish(tmp_path)])
        held = teachers(tmp_path, oip_hosts=AllowedHosts.of("127.0.0.1"), oip_timeout_s=0.2)
        for name in ("far", "mixed"):
            _, teacher = held.hold(name)
            assert teacher.elsewhere
            with pytest.raises(BlockingIOError):
                silent.accept()  # nobody has called
            with pytest.raises(TeacherUnavailable, match=r"no answer in 0\.2 s"):
                teacher.member_logits(torch.from_numpy(random_images(2)))
            silent.accept()[0].close()


def test_a_server_without_a_probe_is_no_teacher(tmp_path):
    model = RemoteModel(url="http://models:8000", model="shapes", input="pixels", output="scores")
    publish_model(tmp_path, "far", model)
    with pytest.raises(Corrupt):
        teachers(tmp_path, oip_hosts=AllowedHosts.of("models:8000")).hold("far")
