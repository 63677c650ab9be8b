from pathlib import Path

import pytest
from pydantic import ValidationError

from services.worker.settings import WorkerSettings

README = Path(__file__).resolve().parents[4] / "services" / "worker" / "README.md"


def test_every_setting_has_its_line_in_the_readme() -> None:
    text = README.read_text()
    for name, field in WorkerSettings.model_fields.items():
        variable = field.validation_alias or f"WORKER_{name.upper()}"
        assert f"`{variable}`" in text, variable


def test_settings_come_from_the_environment_and_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_LEASE_S", "9")
    monkeypatch.setenv("IMAGO_STATE_DIR", "/somewhere")
    settings = WorkerSettings()
    assert settings.heartbeat_s == 3
    assert settings.heartbeat_path == Path("/somewhere/worker.heartbeat")
    with pytest.raises(ValidationError):
        settings.lease_s = 1  # type: ignore[misc]


@pytest.mark.parametrize("module", ["os.system('x')", "a b", "", "../x", "a..b"])
def test_a_training_module_is_a_dotted_name(module: str) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings(training_module=module)
