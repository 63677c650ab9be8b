"""Small wrong changes of a source, one at a time: what a test suite should notice.

Python is changed in its syntax tree, Lua token by token: comparisons and arithmetic swapped, conditions
turned round, numbers one more and one less, a return of nothing, a statement left out. Logs, messages,
annotations, decorators and assertions are left alone: they are no behaviour that anybody relies on.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """One change. `source` is the whole file as it is then."""

    path: str
    line: int
    where: str
    was: str
    became: str
    source: str

    @property
    def name(self) -> str:
        """What it is known by: it stays the same while the lines above it change."""
        return f"{self.path}: {self.where}: {self.was}  →  {self.became}"


def mutants_of(path: str) -> list[Mutant]:
    """Return every mutant of a file, named from the repository's root."""
    source = (ROOT / path).read_text()
    made = _of_lua(path, source) if path.endswith(".lua") else _of_python(path, source)
    return [one for one in made if one.source != source]


# --- Python ------------------------------------------------------------------------------------------------

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}  # fmt: skip
_LEFT_ALONE = (ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Lambda)
_Change = Callable[[], Callable[[], None]]
"""Changes the tree, and returns what undoes it."""


@dataclass(frozen=True)
class _Place:
    node: ast.AST
    where: str
    change: _Change


def _of_python(path: str, source: str) -> Iterator[Mutant]:
    tree = ast.parse(source)
    for place in _places(tree, []):
        was = _shown(place.node)
        undo = place.change()
        became = _shown(place.node)
        changed = ast.unparse(tree)
        undo()
        if was == became:  # a statement is gone
            became = "(left out)"
        yield Mutant(path, getattr(place.node, "lineno", 0), place.where, was, became, changed)


def _shown(node: ast.AST) -> str:
    if isinstance(node, ast.If | ast.While):
        node = node.test
    return " ".join(ast.unparse(node).split())


def _places(node: ast.AST, names: list[str]) -> Iterator[_Place]:
    if isinstance(node, _LEFT_ALONE) or _is_log(node):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        names = [*names, node.name]
    where = ".".join(names) or "module"
    yield from (_Place(node, where, change) for change in _changes(node))
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        if isinstance(value, ast.AST):
            yield from _places(value, names)
        elif isinstance(value, list):
            for index, child in enumerate(value):
                if not isinstance(child, ast.AST):
                    continue
                if _may_be_left_out(child):
                    yield _Place(child, where, _replace_item(value, index, ast.Pass()))
                yield from _places(child, names)


def _is_log(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith(("log.", "_LOG."))


def _may_be_left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        # A string on its own is a docstring.
        return not isinstance(node.value, ast.Constant) and not _is_log(node)
    return isinstance(node, ast.AugAssign | ast.Raise | ast.Delete | ast.Continue | ast.Break)


def _changes(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            if type(operator) in _COMPARED:
                yield _replace_item(node.ops, index, _COMPARED[type(operator)]())
    elif isinstance(node, ast.BoolOp):
        yield _replace(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _COMPUTED:
        yield _replace(node, "op", _COMPUTED[type(node.op)]())
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield _replace(node, "test", _turned_round(node.test))
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield _replace(node, "value", ast.Constant(None))
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield _replace(node, "value", not node.value)
        elif isinstance(node.value, int | float):
            yield _replace(node, "value", node.value + 1)
            yield _replace(node, "value", node.value - 1)


def _turned_round(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.UnaryOp(ast.Not(), test)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _replace(node: ast.AST, field: str, value: object) -> _Change:
    before = getattr(node, field)

    def change() -> Callable[[], None]:
        setattr(node, field, value)
        return lambda: setattr(node, field, before)

    return change


def _replace_item(items: list[object], index: int, value: object) -> _Change:
    before = items[index]

    def change() -> Callable[[], None]:
        items[index] = value
        return lambda: items.__setitem__(index, before)

    return change


# --- Lua ---------------------------------------------------------------------------------------------------

_SKIPPED = re.compile(r"--\[\[.*?\]\]|--[^\n]*|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_TOKEN = re.compile(
    r"(?P<op>==|~=|<=|>=|<|>|(?<![\w.])(?:and|or|true|false)(?!\w)|(?<=[\w)\] ])[+*](?= )|(?<= )-(?= ))"
    r"|(?P<not>(?<!\w)not )|(?P<number>(?<![\w.])\d+(?:\.\d+)?(?![\w.]))"
)
_LUA_SWAPPED = {
    "==": "~=", "~=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "and": "or", "or": "and",
    "true": "false", "false": "true", "+": "-", "-": "+", "*": "+",
}  # fmt: skip
_STATEMENT = re.compile(
    r"^[ \t]*(redis\.call\(.*\)|return (?!nil$).+|[a-z_]+\([^=\n]*\))[ \t]*$", re.MULTILINE
)


def _of_lua(path: str, source: str) -> Iterator[Mutant]:
    hidden = [match.span() for match in _SKIPPED.finditer(source)]

    def is_code(start: int) -> bool:
        return not any(begin <= start < end for begin, end in hidden)

    def mutant(start: int, end: int, became: str) -> Mutant:
        begin = source.rfind("\n", 0, start) + 1
        line = source[begin : source.find("\n", start)]
        changed = line[: start - begin] + became + line[end - begin :]
        return Mutant(
            path,
            source.count("\n", 0, start) + 1,
            _function_around(source, start),
            line.strip(),
            changed.strip() or "(left out)",
            source[:start] + became + source[end:],
        )

    for match in _TOKEN.finditer(source):
        if not is_code(match.start()):
            continue
        if match["op"]:
            yield mutant(*match.span(), _LUA_SWAPPED[match["op"]])
        elif match["not"]:
            yield mutant(*match.span(), "")
        else:
            yield mutant(*match.span(), str(int(match["number"]) + 1))
            yield mutant(*match.span(), str(int(match["number"]) - 1))
    for match in _STATEMENT.finditer(source):
        if is_code(match.start(1)) and match[1].count("(") == match[1].count(")"):
            yield mutant(*match.span(1), "return nil" if match[1].startswith("return") else "")


def _function_around(source: str, start: int) -> str:
    names = re.findall(r"function ([\w.:]+)|^([\w.]+) = function", source[:start], re.MULTILINE)
    return (names[-1][0] or names[-1][1]) if names else "script"
