import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.kept import KeptImage, KeptStore, Witness
from shared.contracts.images import ImageInput
from shared.errors import Corrupt, KeptNotFound

SIZE = ImageInput(height=2, width=3, channels=1)
CLASSES = ("cat", "dog")
ROOT = Path(__file__).parents[4]
WITNESS = Witness("wren-1", "pets", SIZE, CLASSES)


def image(number, reason="escalated", at=1000.0):
    return KeptImage(number.to_bytes(6, "big"), reason, at)


@pytest.fixture
def store(tmp_path):
    return KeptStore(tmp_path / "kept")


def test_an_image_that_comes_again_is_kept_once_under_its_first_reason(store):
    first = store.add("c", WITNESS, [image(1), image(2), image(1, "disagreed")], most_images=10)
    later = WITNESS._replace(version="wren-2")
    again = store.add("c", later, [image(1, "disagreed"), image(3, "disagreed")], most_images=10)
    assert (sorted(first.kept), again.kept) == (["disagreed", "escalated"], ("disagreed",))
    assert store.show("c").images == 3


def test_a_full_collection_keeps_what_it_has_and_takes_nothing_more(store):
    store.add("c", WITNESS, [image(n) for n in range(5)], most_images=8)
    added = store.add("c", WITNESS, [image(n) for n in range(3, 13)], most_images=8)
    assert (len(added.kept), added.refused) == (3, 5)
    assert store.add("c", WITNESS, [image(99)], most_images=8).refused == 1
    assert [int.from_bytes(one.tobytes(), "big") for one in store.load("c", SIZE, CLASSES)].count(0) == 1
    assert len(store.load("c", SIZE, CLASSES)) == 8


def test_a_collection_tells_what_it_holds_by_reason_and_student(store):
    store.add("c", WITNESS, [image(1, at=5.0), image(2, at=7.0)], most_images=9)
    store.add("c", WITNESS._replace(version="wren-2"), [image(3, "disagreed", at=6.0)], most_images=9)
    store.add("b", WITNESS, [image(1)], most_images=9)
    shown = store.show("c")
    assert (shown.images, shown.escalated, shown.disagreed) == (3, 2, 1)
    assert [(one.student, one.dataset, one.images) for one in shown.students] == [
        ("wren-1", "pets", 2), ("wren-2", "pets", 1),
    ]  # fmt: skip
    assert (shown.since, shown.until) == (
        datetime.fromtimestamp(5.0, UTC), datetime.fromtimestamp(7.0, UTC),
    )  # fmt: skip
    assert shown.size_bytes > 0
    assert [one.name for one in store.list()] == ["b", "c"]


def test_images_of_other_classes_or_sizes_are_not_mixed(store):
    pets = [image(1), image(2)]
    store.add("c", WITNESS, pets, most_images=9)
    store.add("c", WITNESS._replace(version="owl-1", classes=("owl", "dog")), [image(1)], most_images=9)
    flat = ImageInput(height=1, width=6, channels=1)
    store.add("c", WITNESS._replace(version="flat-1", input=flat), [image(1)], most_images=9)
    assert store.load("c", SIZE, CLASSES).shape == (2, 2, 3, 1)
    assert {one.tobytes() for one in store.load("c", SIZE, CLASSES)} == {one.pixels for one in pets}
    assert store.load("c", flat, CLASSES).shape == (1, 1, 6, 1)
    assert store.show("c").images == 4


def test_the_order_of_loading_does_not_depend_on_the_order_of_coming(store):
    for number in range(20):
        store.add("a", WITNESS, [image(number)], most_images=99)
    store.add("b", WITNESS, [image(number) for number in reversed(range(20))], most_images=99)
    np.testing.assert_array_equal(store.load("a", SIZE, CLASSES), store.load("b", SIZE, CLASSES))


def test_deleting_leaves_nothing_and_the_name_can_begin_anew(store, tmp_path):
    store.add("c", WITNESS, [image(1), image(2)], most_images=9)
    assert store.delete("c") == 2
    assert not (tmp_path / "kept" / "c").exists()
    for gone in (store.show, store.delete, lambda name: store.load(name, SIZE, CLASSES)):
        with pytest.raises(KeptNotFound):
            gone("c")
    assert len(store.add("c", WITNESS, [image(1)], most_images=9).kept) == 1


def test_what_a_killed_deletion_leaves_goes_with_the_next(store, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise SystemExit

    store.add("c", WITNESS, [image(1)], most_images=9)
    with monkeypatch.context() as dying:
        dying.setattr("shared.artefacts.files.shutil.rmtree", killed)
        with pytest.raises(SystemExit):
            store.delete("c")
    assert store.list() == []
    assert list(tmp_path.rglob("images.sqlite")) != []
    with pytest.raises(KeptNotFound):
        store.delete("c")
    assert list(tmp_path.rglob("images.sqlite")) == []


def test_what_is_damaged_is_said_to_be_and_can_be_deleted(store, tmp_path):
    store.add("c", WITNESS, [image(1)], most_images=9)
    (tmp_path / "kept" / "c" / "images.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(Corrupt):
        store.show("c")
    with pytest.raises(Corrupt):
        store.add("c", WITNESS, [image(2)], most_images=9)
    store.add("whole", WITNESS, [image(1)], most_images=9)
    assert [one.name for one in store.list()] == ["whole"]
    assert store.delete("c") == 0


def test_a_collection_whose_writer_died_before_its_first_image_is_none_yet(store, tmp_path):
    (tmp_path / "kept" / "c").mkdir(parents=True)
    (tmp_path / "kept" / "c" / "images.sqlite").touch()
    assert store.list() == []
    with pytest.raises(KeptNotFound):
        store.show("c")
    assert len(store.add("c", WITNESS, [image(1)], most_images=9).kept) == 1


def test_a_collection_that_is_deleted_while_it_is_read_is_not_found(store, monkeypatch):
    store.add("c", WITNESS, [image(1)], most_images=9)
    need, asked = KeptStore._need, []

    def deleted_after(self, collection):
        need(self, collection)
        if not asked:
            asked.append(collection)
            store.delete(collection)

    monkeypatch.setattr(KeptStore, "_need", deleted_after)
    with pytest.raises(KeptNotFound):
        store.show("c")


@pytest.mark.parametrize("name", ["../c", "", "C", "c/d", "."])
def test_names_that_are_no_folders_of_their_own_are_not_there(store, name):
    with pytest.raises(KeptNotFound):
        store.show(name)
    with pytest.raises(ValueError, match="cannot be called"):
        store.add(name, WITNESS, [image(1)], most_images=9)


def test_an_image_of_another_size_is_refused_whole(store):
    with pytest.raises(ValueError, match="6 bytes each"):
        store.add("c", WITNESS, [image(1), KeptImage(b"12345", "escalated", 0.0)], most_images=9)
    assert store.list() == []


FILL = """
import sys
from pathlib import Path
from tests.unit.shared.artefacts.test_kept import WITNESS, image
from shared.artefacts.kept import KeptStore

root, begin, most = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for start in range(begin, begin + 60, 5):
    KeptStore(root).add("c", WITNESS, [image(n) for n in range(start, start + 5)], most_images=most)
"""


@pytest.mark.parametrize(("most", "expected"), [(1000, 90), (70, 70)])
def test_several_processes_fill_one_collection_without_losing_or_doubling(store, tmp_path, most, expected):
    writers = [
        subprocess.Popen([sys.executable, "-c", FILL, tmp_path / "kept", str(begin), str(most)], cwd=ROOT)
        for begin in (0, 30)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert store.show("c").images == expected


def test_a_batch_whose_writer_died_before_its_end_is_not_there(store, tmp_path):
    store.add("c", WITNESS, [image(1)], most_images=9)
    half = sqlite3.connect(tmp_path / "kept" / "c" / "images.sqlite", isolation_level=None)
    half.execute("begin immediate")
    half.execute("insert into images values (x'00', x'000102030405', 'wren-1', 'escalated', 1.0)")
    half.close()
    assert store.show("c").images == 1
