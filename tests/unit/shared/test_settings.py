import pytest

from shared.adapters.oip import AllowedHosts
from shared.errors import OipHostNotAllowed
from shared.settings import CommonSettings, load


def test_no_server_may_be_asked_unless_it_is_on_the_list(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TEACHER_OIP_HOSTS", raising=False)
    assert load(CommonSettings).oip_hosts == AllowedHosts()
    monkeypatch.setenv("TEACHER_OIP_HOSTS", "triton:8000, [::1], mlserver")
    allowed = load(CommonSettings).oip_hosts
    assert str(allowed) == "triton:8000,[::1],mlserver"
    allowed.need("http://triton:8000")
    with pytest.raises(OipHostNotAllowed):
        allowed.need("http://triton:8001")


def test_a_list_with_an_address_in_it_is_told_at_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TEACHER_OIP_HOSTS", "http://triton:8000")
    with pytest.raises(SystemExit):
        load(CommonSettings)
    assert "TEACHER_OIP_HOSTS: " in capsys.readouterr().err
