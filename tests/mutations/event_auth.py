"""Changes one branch after another of the authorisation rules, and says which changes no test notices.

    python -m mutations.event_auth [a part of a module's name]

Each condition is negated, taken as true and as false; each comparison is moved by one or turned round; each operand of
`and` and `or`, and each member of a tuple of strings, is left out once. The code of the function in question is
exchanged in the running process and the tests of the rules are run until one fails: so that this takes a minute and not
an hour. Exit status 1 if a change survives, but for those in EQUIVALENT, which change nothing that could be seen.
"""

import ast
import copy
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "homeserver.matrix.event_auth"
MODULES = (
    *(f"{PACKAGE}.{name}" for name in ("create", "membership", "power_levels_rule", "redaction_rule", "rules")),
    *(f"{PACKAGE}.{name}" for name in ("selection", "state", "third_party_invite")),
    "homeserver.matrix.power_levels",
)
TESTS = Path(__file__).parent.parent / "unit" / "matrix"

# (function, what is changed): why nobody could notice.
EQUIVALENT = {
    ("AuthState.create", "if self._create is None -> True"): "a cache of the answer",
    ("AuthState.creators", "if self._creators is None -> True"): "a cache of the answer",
    ("AuthState.power_levels", "if self._power_levels is None -> True"): "a cache of the answer",
}


@dataclass(frozen=True)
class Mutant:
    """One function with one change."""

    module: str
    function: str
    line: int
    what: str
    code: types.CodeType

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2]}.py:{self.line} {self.function}: {self.what}"


_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


def changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    """What can be changed about one node: a description, and the change to make on a copy of it."""
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        test = ast.unparse(node.test)
        yield f"if {test} -> not", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))  # type: ignore[attr-defined]
        for value in (True, False):
            yield f"if {test} -> {value}", lambda n, v=value: setattr(n, "test", ast.Constant(v))  # type: ignore[misc]
    if isinstance(node, ast.match_case) and node.guard is not None:
        for value in (True, False):
            what = f"case guard {ast.unparse(node.guard)} -> {value}"
            yield what, lambda n, v=value: setattr(n, "guard", ast.Constant(v))  # type: ignore[misc]
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            turned = _TURNED[type(operator)]
            yield (
                f"{ast.unparse(node)} -> {turned.__name__}",
                lambda n, i=index, t=turned: n.ops.__setitem__(i, t()),  # type: ignore[misc]
            )
    if isinstance(node, ast.BoolOp):
        for index, operand in enumerate(node.values):
            yield (
                f"{ast.unparse(node)} without {ast.unparse(operand)}",
                # Named twice rather than alone: the syntax tree has no `and` of one operand.
                lambda n, i=index: n.values.__setitem__(i, n.values[i - 1]),  # type: ignore[misc]
            )
    if isinstance(node, ast.Tuple) and len(node.elts) > 1 and all(isinstance(e, ast.Constant) for e in node.elts):
        for index, element in enumerate(node.elts):
            yield (
                f"{ast.unparse(node)} without {ast.unparse(element)}",
                lambda n, i=index: n.elts.__delitem__(i),  # type: ignore[misc]
            )


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function and method of a module by its qualified name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def mutants(module: str) -> Iterator[Mutant]:
    """Every changed function of a module."""
    path = Path(str(importlib.import_module(module).__file__))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name, function in functions(tree):
        for index, node in enumerate(ast.walk(function)):
            for what, change in changes(node):
                copied = copy.deepcopy(tree)
                changed = dict(functions(copied))[name]
                target = list(ast.walk(changed))[index]
                change(target)
                ast.fix_missing_locations(copied)
                code = _code_of(compile(copied, str(path), "exec", dont_inherit=True), name)
                yield Mutant(module, name, getattr(node, "lineno", function.lineno), what, code)


def _code_of(code: types.CodeType, qualified_name: str) -> types.CodeType:
    for part in qualified_name.split("."):
        code = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == part)
    return code


def function_of(mutant: Mutant) -> types.FunctionType:
    """The function in the running process."""
    found: object = importlib.import_module(mutant.module)
    for part in mutant.function.split("."):
        found = vars(found)[part]
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, classmethod | staticmethod):
        found = found.__func__
    assert isinstance(found, types.FunctionType)
    return found


class Killer:
    """A pytest plugin that runs the collected tests once for each mutant, until one fails."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.tried = 0
        self.survivors: list[Mutant] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = [item for item in session.items if isinstance(item, pytest.Function) and _is_plain(item)]
        failing = [item.nodeid for item in items if _fails(item)]
        if failing:
            raise pytest.UsageError(f"without any change these tests fail: {failing}")
        for module in MODULES:
            if self.part not in module:
                continue
            for mutant in mutants(module):
                self.tried += 1
                function = function_of(mutant)
                original = function.__code__
                function.__code__ = mutant.code
                try:
                    killer = next((item for item in items if _fails(item)), None)
                finally:
                    function.__code__ = original
                if killer is None:
                    self.survivors.append(mutant)
                else:
                    # What noticed one change of a function is likely to notice the next.
                    items.remove(killer)
                    items.insert(0, killer)
        return True


def _is_plain(item: pytest.Function) -> bool:
    """Whether a test takes nothing but its parameters: it can be called again and again without pytest's protocol."""
    return set(item.fixturenames) <= set(_parameters(item)) | {"request"}


def _parameters(item: pytest.Function) -> dict[str, object]:
    return dict(item.callspec.params) if hasattr(item, "callspec") else {}


def _fails(item: pytest.Function) -> bool:
    try:
        item.obj(**_parameters(item))
    except (Exception, pytest.fail.Exception):  # whatever it is, the change was noticed
        return True
    return False


def main() -> int:
    """Run, and print what survived."""
    killer = Killer(sys.argv[1] if len(sys.argv) > 1 else "")
    files = [str(path) for path in sorted(TESTS.glob("test_event_auth_*.py")) if "mutations" not in path.name]
    files.append(str(TESTS / "test_power_levels.py"))
    pytest.main([*files, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest"], [killer])
    unnoticed = [m for m in killer.survivors if (m.function, m.what) not in EQUIVALENT]
    for mutant in unnoticed:
        print(f"no test notices: {mutant}")
    print(
        f"{killer.tried} changes, {len(killer.survivors) - len(unnoticed)} without effect, {len(unnoticed)} unnoticed"
    )
    return 1 if unnoticed or not killer.tried else 0


if __name__ == "__main__":
    sys.exit(main())
