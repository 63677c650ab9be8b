"""Settings that all services share: what an address may look like, where things are kept."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.settings import CommonSettings, load


@pytest.mark.parametrize(
    "urls",
    [
        "http://teacher:8081",
        "https://a/b",
        "http://a:1,http://b:2",
        "http://a:1 , https://b",
        "http://[::1]:8081",
    ],
)
def test_the_teacher_has_one_address_or_several(monkeypatch, urls):
    monkeypatch.setenv("TEACHER_URL", urls)
    assert CommonSettings().teacher_url == urls


@pytest.mark.parametrize(
    "urls", ["teacher:8081", "http://", "http://a,", "http://a,b", "ftp://a", "http://a http://b"]
)
def test_what_is_no_list_of_addresses_is_refused(monkeypatch, urls):
    monkeypatch.setenv("TEACHER_URL", urls)
    with pytest.raises(ValidationError):
        CommonSettings()


def test_transfer_sets_are_kept_in_the_artefact_store_unless_a_url_is_given(
    monkeypatch: pytest.MonkeyPatch,
):
    settings = CommonSettings(state_dir=Path("/var/lib/imago"))
    assert settings.transfer_sets_place == "/var/lib/imago/store/transfer_sets"
    assert settings.transfer_sets_cache == Path("/var/lib/imago/cache/transfer_sets")
    monkeypatch.setenv("IMAGO_TRANSFER_SETS_URL", "s3://bucket/sets")
    assert CommonSettings().transfer_sets_place == "s3://bucket/sets"


def test_a_place_that_is_no_url_is_told_at_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("IMAGO_TRANSFER_SETS_URL", "bucket/sets")
    with pytest.raises(SystemExit):
        load(CommonSettings)
    assert "IMAGO_TRANSFER_SETS_URL" in capsys.readouterr().err


def test_the_key_for_the_teacher_is_read_from_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert CommonSettings().teacher_key is None
    file = tmp_path / "key"
    file.write_text("imago_k\n")
    monkeypatch.setenv("TEACHER_KEY_FILE", str(file))
    settings = CommonSettings()
    assert settings.teacher_key == "imago_k"
    assert "imago_k" not in repr(settings)
    file.write_text("imago_l")
    assert settings.teacher_key == "imago_l"


@pytest.mark.parametrize("content", [None, "", "two words", "secret\nsecond"])
def test_a_file_without_one_key_is_told_at_start_without_what_is_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("TEACHER_KEY_FILE", str(file))
    with pytest.raises(SystemExit):
        load(CommonSettings)
    told = capsys.readouterr().err
    assert "TEACHER_KEY_FILE" in told
    assert "secret" not in told
    assert "two words" not in told


def test_the_address_of_redis_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("REDIS_URL", raising=False)
    file = tmp_path / "redis_url"
    file.write_text("redis://worker:secret@redis:6379/0\n")
    monkeypatch.setenv("REDIS_URL_FILE", str(file))
    settings = load(CommonSettings)
    assert settings.redis_url == "redis://worker:secret@redis:6379/0"
    assert "redis_url" in settings.model_fields_set


@pytest.mark.parametrize(
    ("content", "both", "told"),
    [
        (None, False, "REDIS_URL_FILE"),
        ("secret", False, "REDIS_URL:"),
        ("redis://:secret@redis/0", True, "both set"),
    ],
)
def test_a_file_without_an_address_of_redis_is_told_without_what_is_in_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    both: bool,
    told: str,
):
    monkeypatch.delenv("REDIS_URL", raising=False)
    if both:
        monkeypatch.setenv("REDIS_URL", "redis://:secret@other/0")
    file = tmp_path / "redis_url"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("REDIS_URL_FILE", str(file))
    with pytest.raises(SystemExit) as left:
        load(CommonSettings)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert "secret" not in said
