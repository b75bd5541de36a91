"""Proves tables of cases: rules whose checks have one comparison turned round must be noticed by a case."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest

# A comparison, and what another hand could have written in its place.
_SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def comparisons(checks: ModuleType) -> list[object]:
    """A parameter for each comparison in a module: its number, named after what it compares."""
    return [
        pytest.param(number, id=f"{number} {ast.unparse(node)}")
        for number, node in enumerate(_found(ast.parse(_source(checks))))
    ]


def mutant(rules: ModuleType, checks: ModuleType, comparison: int, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `rules`, which takes its checks from `checks`, with one comparison there turned round."""
    tree = ast.parse(_source(checks))
    node = _found(tree)[comparison]
    node.ops = [_SWAPS[type(operator)]() for operator in node.ops]
    turned = ModuleType(checks.__name__)
    monkeypatch.setitem(sys.modules, checks.__name__, turned)
    package, _dummy, name = checks.__name__.rpartition(".")
    monkeypatch.setattr(sys.modules[package], name, turned)
    exec(compile(tree, inspect.getfile(checks), "exec"), vars(turned))  # noqa: S102 - a file of ours
    spec = importlib.util.spec_from_file_location("mutant", inspect.getfile(rules))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutant", module)
    spec.loader.exec_module(module)
    return module


def _source(module: ModuleType) -> str:
    return Path(inspect.getfile(module)).read_text()


def _found(tree: ast.AST) -> list[ast.Compare]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
