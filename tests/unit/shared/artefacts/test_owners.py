import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from shared.artefacts.files import exclusive_lock
from shared.artefacts.owners import Owners


@pytest.fixture
def owners(tmp_path: Path) -> Owners:
    return Owners(tmp_path / "owners")


def there(name: str) -> bool:
    return True


def missing(name: str) -> bool:
    return False


def test_an_artefact_is_seen_by_its_owners_and_by_who_is_not_confined(owners: Owners):
    owners.add("students", "small-1", "ann")
    owners.add("students", "small-1", "bob")
    assert owners.of("students", "small-1") == {"ann", "bob"}
    asking = ("ann", "bob", "cy", None)
    assert [owners.may_see("students", "small-1", one) for one in asking] == [True, True, False, True]


def test_collections_do_not_share_names(owners: Owners):
    owners.add("datasets", "digits", "ann")
    assert not owners.may_see("teachers", "digits", "ann")


def test_what_was_made_while_keys_were_off_has_no_owner(owners: Owners):
    owners.add("datasets", "digits", None)
    assert owners.of("datasets", "digits") == frozenset()
    assert not owners.may_see("datasets", "digits", "ann")
    assert owners.may_see("datasets", "digits", None)


@pytest.mark.parametrize("name", ["..", ".", "", "../ann", "a/b", ".lock", "x\n", "ü"])
def test_no_name_leads_out_of_the_folder(owners: Owners, tmp_path: Path, name: str):
    (tmp_path / "ann").touch()
    owners.add("datasets", "digits", "ann")
    assert not owners.may_see("datasets", name, "ann")
    assert not owners.may_see("datasets", "digits", name)
    assert owners.of("datasets", name) == frozenset()
    with pytest.raises(ValueError, match="name of an artefact"):
        owners.add("datasets", name, "ann")
    with pytest.raises(ValueError, match="an owner cannot be called"):
        owners.add("datasets", "digits", name)
    with pytest.raises(ValueError, match="name of an artefact"):
        owners.forget("datasets", name)


def test_what_is_forgotten_has_no_owner_and_can_have_new_ones(owners: Owners):
    owners.add("students", "small-1", "ann")
    owners.forget("students", "small-1")
    owners.forget("students", "small-1")
    assert owners.of("students", "small-1") == frozenset()
    owners.add("students", "small-1", "bob")
    assert owners.of("students", "small-1") == {"bob"}


def test_who_gives_up_hears_who_has_it_still(owners: Owners):
    for owner in ("ann", "bob"):
        owners.add("transfer_sets", "a" * 64, owner)
    assert owners.give_up("transfer_sets", "a" * 64, "ann") == {"bob"}
    assert not owners.may_see("transfer_sets", "a" * 64, "ann")
    assert owners.give_up("transfer_sets", "a" * 64, "bob") == frozenset()


def test_who_gives_up_what_is_not_theirs_changes_nothing(owners: Owners):
    assert owners.give_up("transfer_sets", "a" * 64, "cy") == frozenset()
    owners.add("transfer_sets", "a" * 64, "ann")
    assert owners.give_up("transfer_sets", "a" * 64, "cy") == {"ann"}
    assert owners.of("transfer_sets", "a" * 64) == {"ann"}


def test_of_what_nobody_owns_nothing_is_left_on_the_disk(owners: Owners, tmp_path: Path):
    owners.add("students", "small-1", "ann")
    owners.give_up("students", "small-1", "ann")
    owners.add("students", "small-2", "ann")
    owners.forget("students", "small-2")
    assert [path.name for path in (tmp_path / "owners/students").iterdir() if path.is_dir()] == []


def test_a_free_name_is_taken_before_anything_bears_it(owners: Owners):
    with owners.taking("teachers", "big", "ann", missing) as may:
        assert may
        assert owners.of("teachers", "big") == {"ann"}


def test_only_its_owner_takes_a_name_that_is_there(owners: Owners):
    owners.add("teachers", "big", "ann")
    for owner, expected in (("ann", True), ("bob", False), (None, True)):
        with owners.taking("teachers", "big", owner, there) as may:
            assert may is expected
    assert owners.of("teachers", "big") == {"ann"}


def test_a_name_without_an_owner_is_taken_by_nobody(owners: Owners):
    with owners.taking("teachers", "big", "ann", there) as may:
        assert not may


def test_a_name_that_nothing_bears_any_more_belongs_to_the_next(owners: Owners):
    owners.add("datasets", "digits", "ann")
    with owners.taking("datasets", "digits", "bob", missing) as may:
        assert may
    assert owners.of("datasets", "digits") == {"bob"}
    with owners.taking("datasets", "digits", None, missing) as may:
        assert may
    assert owners.of("datasets", "digits") == frozenset()


def test_of_many_who_take_a_name_at_once_one_gets_it(owners: Owners, tmp_path: Path):
    borne = tmp_path / "borne"

    def take(number: int) -> bool:
        with owners.taking("teachers", "big", f"owner-{number}", lambda _: borne.exists()) as may:
            if may:
                borne.touch()
            return may

    with ThreadPoolExecutor(8) as pool:
        took = list(pool.map(take, range(8)))
    assert took.count(True) == 1
    assert owners.of("teachers", "big") == {f"owner-{took.index(True)}"}


def test_owners_are_noted_and_forgotten_at_once_without_loss(owners: Owners):
    """A folder that vanishes between being made and being written into would raise."""

    def work(number: int) -> None:
        for _ in range(50):
            owners.add("students", "small-1", f"owner-{number}")
            owners.give_up("students", "small-1", f"owner-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert owners.of("students", "small-1") == frozenset()


def test_a_list_is_confined_without_opening_what_is_listed(owners: Owners):
    for number in range(300):
        owners.add("students", f"small-{number}", "ann" if number % 3 else "bob")
    names = [f"small-{number}" for number in range(300)]
    assert owners.seen("students", names, "bob") == [f"small-{number}" for number in range(0, 300, 3)]
    assert owners.seen("students", names, None) == names


def test_who_takes_what_is_just_being_forgotten_has_it_afterwards(owners: Owners, tmp_path: Path):
    """The look whether it is theirs already comes after the other process is done, not before."""
    owners.add("transfer_sets", "a" * 64, "ann")
    collection = tmp_path / "owners" / "transfer_sets"
    with ThreadPoolExecutor(1) as other:
        with exclusive_lock(collection / ".lock"):
            taking = other.submit(owners.add, "transfer_sets", "a" * 64, "ann")
            wait([taking], timeout=0.2)
            shutil.rmtree(collection / ("a" * 64))
        taking.result(timeout=60)
    assert owners.of("transfer_sets", "a" * 64) == {"ann"}
