"""docker-compose.yml keeps every container small, shut and stoppable; read as text, which needs no engine.

What real containers make of it stands in tests/compose.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.gateway.settings import GatewaySettings
from services.teacher.settings import TeacherSettings
from services.worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = (ROOT / ".env.example").read_text()

SETTLING_S = 5.0
"""What a process may need, beside what it grants others, to end by itself."""
STOPS_WITHIN_S: dict[str, float] = {
    "gateway": GatewaySettings.model_fields["drain_s"].default,
    "teacher": TeacherSettings.model_fields["drain_s"].default,
    "worker": WorkerSettings.model_fields["shutdown_grace_s"].default,
}


def filled_in(value: object) -> str:
    """Return a value as compose reads it where no variable is set."""
    return re.sub(r"\$\{[A-Z0-9_]+:-([^}]*)\}", r"\1", str(value))


def seconds(duration: object) -> float:
    number = re.fullmatch(r"(\d+)s", filled_in(duration))
    assert number is not None, duration
    return float(number[1])


def user_of_image(build: dict[str, Any]) -> str:
    """Return the last USER of the stage that is built: root where there is none."""
    stages: dict[str, str] = {}
    stage, last = "", ""
    for line in (ROOT / build["dockerfile"]).read_text().splitlines():
        words = line.split()
        if words[:1] == ["FROM"]:
            stage = words[3] if words[2:3] == ["AS"] else "last"
            stages[stage] = last = stages.get(words[1], "root")
        elif words[:1] == ["USER"]:
            stages[stage] = last = words[1]
    return stages[build["target"]] if "target" in build else last


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_writes_nowhere_but_to_volumes_and_gains_no_rights(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    opened = {"cap_add", "privileged", "devices", "pid", "ipc", "userns_mode", "volumes_from"}
    assert service.keys() & opened == set()


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_does_not_run_as_root(name: str):
    service = SERVICES[name]
    user = service.get("user") or user_of_image(service["build"])
    assert user.split(":")[0] not in ("", "0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_limits(name: str):
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*[mg]", filled_in(service["mem_limit"]))
    assert float(filled_in(service["cpus"])) > 0
    assert 0 < service["pids_limit"] <= 512
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}, "logs fill no disk"


def test_only_the_gateway_is_published_and_on_this_machine_alone():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    (port,) = SERVICES["gateway"]["ports"]
    assert filled_in(port) == "127.0.0.1:8080:8080"
    assert all(service.get("network_mode", "none") == "none" for service in SERVICES.values())


def test_only_the_gateway_is_in_a_network_that_leads_outside():
    networks = {name: one or {} for name, one in COMPOSE["networks"].items()}
    inside = {name for name, one in networks.items() if one.get("internal") is True}
    assert {"jobs", "teaching"} <= inside
    for name, service in SERVICES.items():
        # Without a word of networks a service is in the default one, which leads outside.
        joined = set(service.get("networks", [] if "network_mode" in service else ["default"]))
        assert name == "gateway" or joined <= inside, name


def test_a_secret_is_mounted_by_its_role_and_only_read():
    for name in ("redis", "teacher", "worker", "gateway"):
        mounted = [filled_in(one) for one in SERVICES[name]["volumes"] if ":/secrets" in one]
        assert mounted == [f"secrets-{name}:/secrets:ro"]


def test_the_host_is_not_mounted_unless_a_variable_says_so():
    sources = {filled_in(one).split(":")[0] for service in SERVICES.values() for one in service["volumes"]}
    assert sources == COMPOSE["volumes"].keys()


@pytest.mark.parametrize("name", STOPS_WITHIN_S)
def test_a_container_has_the_time_to_stop_that_its_settings_grant(name: str):
    assert seconds(SERVICES[name]["stop_grace_period"]) >= STOPS_WITHIN_S[name] + SETTLING_S


@pytest.mark.parametrize("variable", ["GATEWAY_DRAIN_S", "TEACHER_DRAIN_S", "WORKER_SHUTDOWN_GRACE_S"])
def test_who_changes_the_time_to_stop_is_told_of_the_other_one(variable: str):
    before, _ = EXAMPLE.split(f"#{variable}=")
    assert "IMAGO_STOP_GRACE" in "".join(before.splitlines()[-3:])
    _, about = EXAMPLE.split("# From SIGTERM to SIGKILL of gateway")
    assert variable in about.split("#IMAGO_STOP_GRACE=")[0]


def test_the_gpu_file_gives_a_device_and_changes_nothing_else():
    gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
    assert gpu.keys() == {"services"}
    for name, service in gpu["services"].items():
        assert name in SERVICES
        assert service.keys() == {"deploy"}
        assert service["deploy"]["resources"].keys() == {"reservations"}


def test_the_example_environment_shows_what_compose_falls_back_to():
    fallbacks = dict(re.findall(r"\$\{([A-Z0-9_]+):-([^}]*)\}", TEXT))
    # Names of volumes, which stand where a folder of the host may be named.
    for variable in ("IMAGO_SECRETS", "IMAGO_DATA_DIR"):
        assert fallbacks.pop(variable).rstrip("-") in ("secrets", "data")
    shown = dict(re.findall(r"^#([A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert {name: shown[name] for name in fallbacks} == fallbacks


@pytest.mark.parametrize("page", ["README.md", "docs/security.md"])
def test_every_volume_that_keeps_something_is_named_where_backups_are_told_of(page: str):
    text = (ROOT / page).read_text()
    # `data` is empty, or stands for a folder that is its owner's to keep.
    kept = [name for name in COMPOSE["volumes"] if name != "data"]
    assert [name for name in kept if f"`{name}`" not in text] == []
