from pathlib import Path

import pytest

from shared.adapters.web.starting import check_access, is_loopback, ring_of
from shared.artefacts.keys import KeyStore
from shared.contracts.keys import KeyRequest, Scope
from shared.settings import CommonSettings

KEY = "0123456789abcdef0123456789abcdef"


def refusal(settings: CommonSettings, host: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        check_access(settings, host, "GATEWAY_HOST")
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def settings(state_dir: Path, **more: object) -> CommonSettings:
    return CommonSettings(state_dir=state_dir, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_without_keys_a_service_listens_on_loopback_and_warns(
    tmp_path: Path, host: str, caplog: pytest.LogCaptureFixture
):
    check_access(settings(tmp_path), host, "GATEWAY_HOST")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "keys are off" in record.message


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.4", "10.0.0.1", "example.org", "localhost.x", ""]
)
def test_without_keys_a_service_listens_nowhere_else(
    tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
):
    line = refusal(settings(tmp_path), host, capsys)
    assert line.startswith(f"GATEWAY_HOST: {host} is no loopback address")
    assert "IMAGO_AUTH=keys" in line


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_with_keys_and_none_at_all_a_service_does_not_start(
    tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
):
    line = refusal(settings(tmp_path, auth="keys"), host, capsys)
    assert line.startswith("IMAGO_AUTH: ")
    assert "imago keys create --local" in line
    assert "IMAGO_ADMIN_KEY_FILE" in line


def test_a_key_that_was_revoked_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    keys = KeyStore(tmp_path / "store")
    made = keys.make(KeyRequest(name="a", owner="b", scopes=(Scope.ADMIN,)))
    check_access(settings(tmp_path, auth="keys"), "0.0.0.0", "GATEWAY_HOST")
    keys.revoke(made.id)
    assert refusal(settings(tmp_path, auth="keys"), "0.0.0.0", capsys)


def test_with_a_key_in_a_file_a_service_listens_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "key").write_text(f"{KEY}\n")
    check_access(settings(tmp_path, auth="keys", admin_key_file=tmp_path / "key"), "0.0.0.0", "GATEWAY_HOST")
    assert not caplog.records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"two words of a key that is long enough",
        b"a" * 257,
        b"\xff" * 40,
        KEY.encode() * 2 + b"\n" + KEY.encode(),
    ],
)
def test_a_file_that_holds_no_key_is_told_without_its_content(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "key").write_bytes(content)
    line = refusal(settings(tmp_path, auth="keys", admin_key_file=tmp_path / "key"), "127.0.0.1", capsys)
    assert line.startswith("IMAGO_ADMIN_KEY_FILE: ")
    assert not content.strip() or content.decode("latin-1")[:5] not in line


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = refusal(settings(tmp_path, auth="keys", admin_key_file=tmp_path / "no"), "127.0.0.1", capsys)
    assert line.endswith("cannot be read: No such file or directory")


def test_there_is_no_ring_where_keys_are_off(tmp_path: Path):
    assert ring_of(settings(tmp_path)) is None


def test_a_name_is_loopback_only_where_it_is_localhost():
    assert is_loopback("localhost")
    assert not is_loopback("localhost.example.org")
