"""The notebooks only use what there is: their code compiles, its imports and the methods it calls exist."""

import ast
import importlib
import json
from pathlib import Path

import pytest

from shared.client import Client

NOTEBOOKS = sorted((Path(__file__).parents[4] / "docs" / "notebooks").glob("*.ipynb"))


def code_of(path: Path) -> ast.Module:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ast.parse("\n".join(cells))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def code(request: pytest.FixtureRequest) -> ast.Module:
    return code_of(request.param)


def test_there_is_a_notebook():
    assert NOTEBOOKS


def test_what_a_notebook_imports_exists(code: ast.Module):
    imported = [node for node in ast.walk(code) if isinstance(node, ast.ImportFrom)]
    assert imported
    for node in imported:
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_what_a_notebook_asks_of_the_client_exists(code: ast.Module):
    asked = {
        node.attr
        for node in ast.walk(code)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "client"
    }
    assert asked
    assert {name for name in asked if not hasattr(Client, name)} == set()


def test_names_of_a_notebook_are_made_before_they_are_used(code: ast.Module):
    known = set(dir(__builtins__)) if not isinstance(__builtins__, dict) else set(__builtins__)
    made = {alias.asname or alias.name for node in ast.walk(code) for alias in getattr(node, "names", [])}
    for node in ast.walk(code):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    used = {
        node.id for node in ast.walk(code) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assert used - made - known == set()


def test_orders_in_a_notebook_are_valid(code: ast.Module):
    """Each spec that a notebook writes out is made for real: pydantic judges names and values."""
    names: dict[str, object] = {}
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("shared.contracts"):
            module = importlib.import_module(str(node.module))
            names |= {alias.name: getattr(module, alias.name) for alias in node.names}
    specs = [
        node
        for node in ast.walk(code)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Spec")
    ]
    assert specs
    for node in specs:
        eval(compile(ast.Expression(node), "notebook", "eval"), dict(names))
