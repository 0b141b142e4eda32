"""The small changes of meaning that one file can suffer, found in its syntax tree and made in its text. Pure.

Not changed, because a test of them would only spell them again: texts for people (with a space, or with values filled
in), docstrings, annotations, decorators, imports, assertions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

_WORDS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
_COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.BitOr: "&",
    ast.BitAnd: "|",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.Pow: "*",
}
_CALLS = {"any": "all", "all": "any", "min": "max", "max": "min", "sorted": "list", "frozenset": "list"}

_SHOWN_WHOLE = 80  # characters


@dataclass(frozen=True)
class Change:
    """`start`, `end`: the bytes of the file that `new` takes the place of; `line` counts from 1; `gone`: what is left
    out, where that is all."""

    line: int
    start: int
    end: int
    old: str
    new: str
    gone: str = ""

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    @property
    def shown(self) -> str:
        """`old -> new` on one line, without what both begin and end with; `without ...`."""
        if self.gone:
            text = " ".join(self.gone.split())
            return f"without {text if len(text) < _SHOWN_WHOLE else text[:_SHOWN_WHOLE] + '...'}"
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        if len(old) < _SHOWN_WHOLE:
            return f"{old} -> {new}"
        start = _same(old, new)
        tail = _same(old[start:][::-1], new[start:][::-1])
        start, tail = max(0, start - _SHOWN_WHOLE // 4), max(0, tail - _SHOWN_WHOLE // 4)
        return f"...{old[start : len(old) - tail]}... -> ...{new[start : len(new) - tail]}..."


def _same(one: str, other: str) -> int:
    """How many characters both begin with."""
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def changes(source: bytes) -> list[Change]:
    """Every change that leaves a file which Python can compile, in the order of the text, each once."""
    found = {}
    for change in _Finder(source).of_module():
        if change.old == change.new:
            continue
        try:
            compile(change.apply(source), "mutant", "exec")
        except (SyntaxError, ValueError):
            continue
        found[change.start, change.end, change.new] = change
    return [found[key] for key in sorted(found)]


class _Finder:
    def __init__(self, source: bytes) -> None:
        self._source = source
        self._line_starts = [0]
        for line in source.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))

    def of_module(self) -> Iterator[Change]:
        yield from self._below(ast.parse(self._source))

    def _below(self, node: ast.AST) -> Iterator[Change]:
        for child in ast.iter_child_nodes(node):
            if _skipped(child, node):
                continue
            yield from self._of(child, node)
            yield from self._below(child)

    def _of(self, node: ast.AST, parent: ast.AST) -> Iterator[Change]:
        match node:
            case ast.Compare():
                yield from self._of_comparison(node)
            case ast.BoolOp(op=operator, values=values):
                word, other = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
                parts = [self._text(value) for value in values]
                yield self._made(node, f"({f' {other} '.join(parts)})")
                for index in range(len(parts)):
                    rest = parts[:index] + parts[index + 1 :]
                    yield self._made(node, f"({f' {word} '.join(rest)})")
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                yield self._made(node, self._text(operand))
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
                yield self._made(node, f"({self._text(left)} {_ARITHMETIC[type(operator)]} {self._text(right)})")
            case ast.Constant():
                yield from self._of_constant(node)
            case ast.Call():
                yield from self._of_call(node)
            case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements) if len(elements) > 1:
                yield from self._shorter(node, elements, parent)
            case ast.Dict(keys=keys) if len(keys) > 1:
                yield from self._fewer_entries(node)
            case ast.If(test=test) | ast.IfExp(test=test):
                yield self._made(test, "True")
                yield self._made(test, "False")
            case ast.While(test=test):
                yield self._made(test, "False")
            case ast.comprehension(ifs=conditions):
                for condition in conditions:
                    yield self._made(condition, "True")
                    yield self._made(condition, "False")
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield self._made(value, "None")
            case ast.Expr() | ast.Raise() | ast.AugAssign():
                yield self._made(node, "pass")
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield self._made(node, "pass")
            case ast.Continue():
                yield self._made(node, "break")
            case ast.Break():
                yield self._made(node, "continue")

    def _of_comparison(self, node: ast.Compare) -> Iterator[Change]:
        parts = [self._text(part) for part in (node.left, *node.comparators)]
        words = [_WORDS[type(operator)] for operator in node.ops]
        for index, operator in enumerate(node.ops):
            for new in _COMPARISONS[type(operator)]:
                other = [*words[:index], new, *words[index + 1 :]]
                yield self._made(node, " ".join([parts[0], *chain.from_iterable(zip(other, parts[1:], strict=True))]))

    def _of_constant(self, node: ast.Constant) -> Iterator[Change]:
        value = node.value
        if isinstance(value, bool):
            yield self._made(node, str(not value))
        elif isinstance(value, (int, float)):
            yield self._made(node, repr(value + 1))
        elif isinstance(value, str) and " " not in value and "\n" not in self._raw(node):
            yield self._made(node, repr(f"{value}XX"))

    def _of_call(self, node: ast.Call) -> Iterator[Change]:
        if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            yield self._made(node.func, _CALLS[node.func.id])
        for keyword in node.keywords:
            if keyword.arg is not None:
                rest = [*node.args, *(each for each in node.keywords if each is not keyword)]
                inner = ", ".join(map(self._text, rest))
                yield self._made(node, f"{self._text(node.func)}({inner})", gone=keyword)

    def _shorter(self, node: ast.expr, elements: list[ast.expr], parent: ast.AST) -> Iterator[Change]:
        """Without one of its elements; those that are unpacked or index something must be as many as they are."""
        if isinstance(getattr(node, "ctx", None), ast.Store) or isinstance(parent, ast.Subscript):
            return
        opening, closing = {ast.List: ("[", "]"), ast.Set: ("{", "}")}.get(type(node), ("(", ")"))
        for element in elements:
            rest = ", ".join(self._text(each) for each in elements if each is not element)
            comma = "," if len(elements) == 2 and isinstance(node, ast.Tuple) else ""
            yield self._made(node, f"{opening}{rest}{comma}{closing}", gone=element)

    def _fewer_entries(self, node: ast.Dict) -> Iterator[Change]:
        entries = [
            f"{self._text(key)}: {self._text(value)}" if key else f"**{self._text(value)}"
            for key, value in zip(node.keys, node.values, strict=True)
        ]
        for index, value in enumerate(node.values):
            rest = ", ".join(entries[:index] + entries[index + 1 :])
            yield self._made(node, f"{{{rest}}}", gone=node.keys[index] or value)

    def _made(self, node: ast.AST, new: str, gone: ast.AST | None = None) -> Change:
        """`gone`: the part of `node` that is left out."""
        at = gone or node
        assert isinstance(at, (ast.expr, ast.stmt, ast.keyword))
        return Change(at.lineno, *self._place(node), self._raw(node), new, self._raw(gone) if gone else "")

    def _text(self, node: ast.AST) -> str:
        """The text of an expression as it can stand anywhere: what binds loosely, or goes over a line's end, in
        parentheses."""
        text = self._raw(node)
        loose = isinstance(
            node, (ast.BoolOp, ast.IfExp, ast.Compare, ast.BinOp, ast.UnaryOp, ast.NamedExpr, ast.Lambda)
        )
        whole = isinstance(node, (ast.keyword, ast.Starred))
        return f"({text})" if loose or ("\n" in text and not whole) else text

    def _raw(self, node: ast.AST) -> str:
        start, end = self._place(node)
        return self._source[start:end].decode()

    def _place(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, (ast.expr, ast.stmt, ast.keyword))
        assert node.end_lineno is not None and node.end_col_offset is not None
        return (
            self._line_starts[node.lineno - 1] + node.col_offset,
            self._line_starts[node.end_lineno - 1] + node.end_col_offset,
        )


def _skipped(node: ast.AST, parent: ast.AST) -> bool:
    if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert, ast.Global)):
        return True
    if node in getattr(parent, "decorator_list", ()):
        return True
    if node is getattr(parent, "annotation", None) or node is getattr(parent, "returns", None):
        return True
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)  # a docstring, or `...`


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None
