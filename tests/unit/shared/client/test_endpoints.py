"""The clients have all that the gateway's description has, and the same as each other."""

import inspect
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_origin

import pytest

from shared.client import AsyncClient, Client, endpoints
from shared.client.call import Call
from shared.contracts.findings import TeacherCheckOrder

OPENAPI = json.loads(
    (Path(__file__).parents[4] / "services" / "gateway" / "openapi.json").read_text(encoding="utf-8")
)
NOT_FOR_CLIENTS = ("/v2", "/metrics", "/docs")
"""A protocol with clients of its own, and what is for scrapers and browsers."""
OTHER_METHODS = {"events": "follow"}
INSIDE = {"predictions"}
"""What methods are made of, and no method itself."""
GIVEN: dict[str, Any] = {
    "spec": b"{}",
    "images": b"image",
    "policy": b"{}",
    "wanted": b"{}",
    "file": io.BytesIO(),
    "files": {},
    "order": TeacherCheckOrder(dataset="mnist-5k"),
}
CALLED_OTHERWISE = {
    "x-deadline-ms": "deadline_s",
    "last-event-id": "after",
    "x-canary-key": "canary_key",
    "if-match": "revision",
    "accept": None,  # there is a method for each kind of answer
}


def endpoint_functions() -> dict[str, Callable[..., Call[Any]]]:
    return {
        name: function
        for name, function in inspect.getmembers(endpoints, inspect.isfunction)
        if function.__module__ == endpoints.__name__ and not name.startswith("_") and name not in INSIDE
    }


def call_of(function: Callable[..., Call[Any]]) -> Call[Any]:
    needed = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    return function(**{name: GIVEN.get(name, "x") for name in needed})


ENDPOINTS = endpoint_functions()
BY_OPERATION: dict[tuple[str, str], list[str]] = {}
for _name, _function in ENDPOINTS.items():
    _call = call_of(_function)
    BY_OPERATION.setdefault((_call.method, _call.route), []).append(_name)
OPERATIONS = {
    (method.upper(), path): operation
    for path, methods in OPENAPI["paths"].items()
    if not path.startswith(NOT_FOR_CLIENTS)
    for method, operation in methods.items()
}


def test_there_is_a_method_for_every_operation_and_none_for_others():
    assert set(BY_OPERATION) == set(OPERATIONS)


@pytest.mark.parametrize("operation", sorted(OPERATIONS), ids=" ".join)
def test_what_an_operation_takes_can_be_given(operation: tuple[str, str]):
    taken = {
        CALLED_OTHERWISE.get(one["name"].lower(), one["name"].replace("-", "_"))
        for one in OPERATIONS[operation].get("parameters", [])
    } - {None}
    for name in BY_OPERATION[operation]:
        method = getattr(Client, OTHER_METHODS.get(name, name))
        assert taken <= set(inspect.signature(method).parameters)


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_both_clients_have_the_endpoint_with_its_parameters(name: str):
    expected = inspect.signature(ENDPOINTS[name]).parameters
    for kind in (Client, AsyncClient):
        method = getattr(kind, OTHER_METHODS.get(name, name))
        parameters = dict(inspect.signature(method).parameters)
        assert parameters.pop("self")
        if name not in OTHER_METHODS:
            assert parameters == dict(expected)
        assert method.__doc__


def test_both_clients_have_the_same_methods_and_no_others():
    def public(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(function).parameters)
            for name, function in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)
    of_their_own = {"close", "follow", "predict_many", "wait"}
    assert set(public(Client)) == (set(ENDPOINTS) - set(OTHER_METHODS)) | of_their_own


def test_help_shows_what_a_method_returns():
    signature = inspect.signature(Client.jobs)
    assert next(iter(signature.parameters)) == "self"
    assert signature.return_annotation.__name__ == "JobPage"
    assert get_origin(signature.return_annotation) is None
    assert Client.jobs.__doc__ == endpoints.jobs.__doc__


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_names_in_a_path_cannot_leave_it(name: str):
    call = call_of(ENDPOINTS[name])
    if call.names:
        hostile = Call(call.method, call.route, call.read, dict.fromkeys(call.names, "../a/b?c#d"))
        assert hostile.path == call.route.format_map(dict.fromkeys(call.names, "..%2Fa%2Fb%3Fc%23d"))
