"""Every setting can be found: in .env.example, in its service's README, in docker-compose.yml."""

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.settings import CommonSettings

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/settings.py"))
CONTAINERS = ("gateway", "teacher", "worker")


def settings_class(service: str) -> type[CommonSettings]:
    """Return the one settings class that the service declares."""
    module = importlib.import_module(f"services.{service}.settings")
    (found,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, CommonSettings)
        and value.__module__ == module.__name__
    ]
    return found


def defaults(settings: type[CommonSettings], *, own_only: bool = False) -> dict[str, Any]:
    """Return the environment variables that the class reads, and their defaults."""
    prefix = settings.model_config.get("env_prefix", "")
    return {
        field.validation_alias if isinstance(field.validation_alias, str) else f"{prefix}{name}".upper(): (
            field.default
        )
        for name, field in settings.model_fields.items()
        if not (own_only and name in CommonSettings.model_fields)
    }


def every_setting() -> set[str]:
    return {name for service in SERVICES for name in defaults(settings_class(service))}


def example() -> dict[str, str]:
    """Return the variables of .env.example, set or commented out, and their values."""
    text = (ROOT / ".env.example").read_text()
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", text, re.MULTILINE))


def compose_variables() -> set[str]:
    """Return the variables that the compose files fill in themselves."""
    texts = (path.read_text() for path in ROOT.glob("docker-compose*.yml"))
    return {name for text in texts for name in re.findall(r"\$\{([A-Z][A-Z0-9_]*)", text)}


def test_every_process_has_settings():
    assert set(CONTAINERS) <= set(SERVICES)


def test_every_setting_stands_in_the_example_environment():
    assert every_setting() - example().keys() == set()


def test_every_variable_of_the_compose_files_stands_in_the_example_environment():
    assert compose_variables() - example().keys() == set()


def test_every_variable_of_the_example_environment_is_read_by_something():
    assert example().keys() - every_setting() - compose_variables() == set()


@pytest.mark.parametrize("service", SERVICES)
def test_the_example_environment_shows_the_defaults(service: str):
    shown = example()
    for name, default in defaults(settings_class(service)).items():
        if isinstance(default, float):
            assert float(shown[name]) == default, name
        else:
            assert shown[name] == ("" if default is None else str(default)), name


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_stands_in_the_readme_of_its_service(service: str):
    readme = (ROOT / "services" / service / "README.md").read_text()
    own = defaults(settings_class(service), own_only=True)
    assert {name for name in own if f"`{name}`" not in readme} == set()


@pytest.mark.parametrize("service", CONTAINERS)
def test_every_setting_of_a_service_reaches_its_container(service: str):
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    environment = compose["services"][service]["environment"]
    own = defaults(settings_class(service), own_only=True)
    assert own.keys() - environment.keys() == set()


def test_images_are_tagged_with_the_version_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tags = re.findall(r"\$\{IMAGO_TAG:-([^}]*)\}", (ROOT / "docker-compose.yml").read_text())
    assert len(tags) > len(CONTAINERS), "the gateway's image makes the secrets, too"
    assert set(tags) == {project["version"]}
    assert example()["IMAGO_TAG"] == project["version"]
