"""Settings that all services share: what an address may look like."""

import pytest
from pydantic import ValidationError

from shared.settings import CommonSettings


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
