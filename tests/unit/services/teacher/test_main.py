"""What is settled before a teacher serves."""

import os
from pathlib import Path

import pytest

from services.teacher import __main__ as teacher


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_libraries_ask_no_hub_unless_the_operator_said_otherwise(
    given: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    environment = dict(os.environ) | {"IMAGO_STATE_DIR": str(tmp_path), "IMAGO_AUTH": "off"}
    environment.pop("HF_HUB_OFFLINE", None)
    if given is not None:
        environment["HF_HUB_OFFLINE"] = given
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(teacher, "configure_logging", lambda *_: None)
    served = []
    monkeypatch.setattr(teacher, "serve", lambda *_, **__: served.append(os.environ["HF_HUB_OFFLINE"]))
    teacher.main()
    assert served == [expected]
