"""Arithmetic in an option, such as `0.1 * 0.5 ** (epoch // 30)`: numbers, names and operators; no code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
FORM = "it is made of numbers, names, + - * / // % ** < <= > >= and brackets"


class Arithmetic:
    """An expression over names. Its value is a number, or whatever the operators make of the names' values.

    A comparison is 1 where it holds and 0 where it does not. Raises ValueError for anything else than
    arithmetic, and for a power with an exponent of more than two digits.
    """

    def __init__(self, text: str) -> None:
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"'{text}' is no arithmetic: {error.msg}; {FORM}") from error
        self.text = text
        self.names = frozenset(node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name))
        self._check(self._tree)

    def _check(self, node: ast.AST) -> None:
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return
            case ast.Name():
                return
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                exponent = right.value if isinstance(op, ast.Pow) and isinstance(right, ast.Constant) else 0
                if isinstance(exponent, int | float) and abs(exponent) >= 100:
                    raise ValueError(f"'{self.text}': the exponent {exponent} is too large")
                parts: list[ast.AST] = [left, right]
            case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
                parts = [operand]
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
                parts = [left, right]
            case _:
                raise ValueError(f"'{self.text}' is no arithmetic: {ast.unparse(node)!r}; {FORM}")
        for part in parts:
            self._check(part)

    def value(self, names: Mapping[str, Any]) -> Any:
        """Return the value, with the values of the names. Raise KeyError for a name without a value."""
        return self._value(self._tree, names)

    def _value(self, node: ast.AST, names: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value):
                return float(value)  # integers of any size would take any time
            case ast.Name(id=name):
                return names[name]
            case ast.UnaryOp(op=op, operand=operand):
                return OPERATORS[type(op)](self._value(operand, names))
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATORS[type(op)](self._value(left, names), self._value(right, names))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return 1.0 * OPERATORS[type(op)](self._value(left, names), self._value(right, names))
        raise AssertionError(node)
