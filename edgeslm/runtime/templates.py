"""Chat templates: Jinja programs of strangers, in a sandbox with limits.

Besides Jinja's own sandbox, which keeps templates from Python's inside, only those filters,
functions and methods can be used that such templates need, and everything counts against an
allowance. For that, loops, comparisons and whatever makes values are rewritten into filters
whose names a template cannot spell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType
from typing import Any

from jinja2 import meta, nodes
from jinja2.ext import loopcontrols
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner
from jinja2.visitor import NodeTransformer

from edgeslm.errors import Exhausted, UserError
from edgeslm.runtime import allowance
from edgeslm.runtime import template_filters as filters
from edgeslm.runtime.allowance import CALL, Allowance, allowed, current

_LONGEST_SOURCE = 50_000
_LEAST_OUTPUT, _OUTPUT_PER_INPUT = 1_000_000, 8
"""Characters."""
_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Marks the assistant's part for training; it changes nothing in what is rendered."""

_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        "capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal "  # noqa: SIM905
        "isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition "
        "removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split "
        "splitlines startswith strip swapcase title upper zfill center".split()
    ),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
    Cycler: frozenset(("next", "reset")),
    LoopContext: frozenset(("changed", "cycle")),
}
_PADDING = frozenset(("ljust", "rjust", "center", "zfill"))
_SEARCHES = frozenset(
    "count endswith find index partition removeprefix removesuffix replace rfind rindex "  # noqa: SIM905
    "rpartition rsplit split startswith".split()
)


class Template:
    """A compiled chat template.

    Args:
        source: Jinja.

    Raises:
        UserError: it is not valid Jinja, or too much of it.
    """

    def __init__(self, source: str) -> None:
        if len(source) > _LONGEST_SOURCE:
            raise UserError(
                f"the chat template has {len(source)} characters",
                hint=f"{_LONGEST_SOURCE} are the most.",
            )
        environment = _environment()
        try:
            with allowed(Allowance()):
                tree = environment.parse(_GENERATION_TAG.sub("", source))
                self._names = meta.find_undeclared_variables(tree)
                self._template = environment.from_string(_Rewriter().visit(tree))
        except Exhausted:
            raise
        except Exception as error:  # nested too deep for the parser, among others
            raise UserError(
                f"the chat template is not valid Jinja: {error}", hint="Use --raw to leave it out."
            ) from error

    def uses(self, name: str) -> bool:
        """Whether it asks for a variable of that name."""
        return name in self._names

    def render(self, marks: filters.Marks | None = None, /, **variables: Any) -> str:
        """What it says.

        Args:
            marks: How the texts in `variables` are disguised, if they are.
            **variables: What it is told.

        Raises:
            Exhausted: it would work without end, or say too much.
            Exception: whatever else goes wrong in it.
        """
        most = _LEAST_OUTPUT + _OUTPUT_PER_INPUT * _characters(variables)
        pieces = []
        token = filters.marks.set(marks or filters.Undisguised())
        try:
            with allowed(Allowance.for_input(variables)):
                for piece in self._template.generate(**variables):
                    pieces.append(piece)
                    most -= len(piece)
                    if most < 0:
                        raise Exhausted("says too much")
        except RecursionError as error:
            raise Exhausted("nests too deep") from error
        finally:
            filters.marks.reset(token)
        return "".join(pieces)


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(each) for pair in value.items() for each in pair)
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 0


class _Rewriter(NodeTransformer):
    """Puts our filters where values are made, compared, cut, or gone through."""

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:  # noqa: N802
        """Text of the template is paid each time that it is said."""
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        """Each turn is paid."""
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "turns")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802
        """Values in values grow fast."""
        self.generic_visit(node)
        return _filtered(node, "made")

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        """The same, but for names that something is assigned to."""
        self.generic_visit(node)
        return _filtered(node, "made") if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        """`~`."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "concatenated")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:  # noqa: N802
        """Comparing goes through everything; `in` also has to see through disguises."""
        self.generic_visit(node)
        first = node.ops[0]
        if len(node.ops) == 1 and first.op in ("in", "notin"):
            found = _filtered(node.expr, "in", first.expr)
            return found if first.op == "in" else nodes.Not(found, lineno=node.lineno)
        node.expr = _filtered(node.expr, "made")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "made")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        """A slice is a copy."""
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        empty = nodes.Const(None, lineno=node.lineno)
        ends = (node.arg.start, node.arg.stop, node.arg.step)
        return _filtered(node.node, "slice", *(each or empty for each in ends))


def _filtered(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, filters.OWN + name, [*arguments], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with an allowance and only what chat templates need."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols],
            finalize=filters.said,
            cache_size=0,
        )
        self.filters = filters.filters()
        self.tests = filters.tests()  # type: ignore[assignment]
        self.globals.pop("lipsum", None)
        self.globals["raise_exception"] = filters.raise_exception
        self.globals["strftime_now"] = filters.strftime_now

    def is_safe_callable(self, obj: Any) -> bool:
        """Whether templates may call it."""
        if isinstance(obj, Macro | LoopContext | BlockReference | Undefined | Joiner):
            return True
        if any(obj is each for each in self.globals.values()):
            return True
        owner, name = _method(obj)
        return any(isinstance(owner, kind) and name in names for kind, names in _METHODS.items())

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls, for units."""
        budget = current()
        budget.spend(CALL)
        budget.weigh(args)
        budget.weigh(kwargs)
        if isinstance(obj, LoopContext):
            args = tuple(map(allowance.turns, args[:1])) + args[1:]
        owner, name = _method(obj)
        if isinstance(owner, str):
            args = _for_text(owner, name, args, kwargs)
        elif owner is not None:
            budget.size(owner)
        result = super().call(context, obj, *args, **kwargs)
        budget.size(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate, for units."""
        allowance.calculated(operator, left, right)
        return super().call_binop(context, operator, left, right)


def _method(function: Any) -> tuple[Any, str]:
    """Whose method it is, and which; Jinja wraps `str.format`."""
    if isinstance(function, FunctionType):
        function = getattr(function, "__wrapped__", function)
    if isinstance(function, BuiltinFunctionType | MethodType | MethodWrapperType):
        return function.__self__, function.__name__
    return None, ""


def _for_text(
    text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Pay for a method of a text; its arguments, with marks as they stand in the text."""
    current().text(text)
    if name == "join" and args:
        return (allowance.joining(allowance.counted(args[0]), text), *args[1:])
    if name == "format":
        allowance.formatted(text, [args, kwargs])
    elif name in _PADDING and args:
        allowance.padded(text, args[0])
    if name in _SEARCHES and args and isinstance(args[0], str):
        args = (_mark(text, name, *args[:2]), *args[1:])
    if name == "replace" and len(args) > 1:
        allowance.replacing(text, *args)
    elif name in ("split", "rsplit", "splitlines"):
        allowance.parted(text, args[0] if args else kwargs.get("sep"))
    return args


def _mark(text: str, method: str, mark: str, second: Any = None) -> str | tuple[str, str]:
    """What a method is to look for."""
    border = filters.marks.get().border
    if method == "replace" and isinstance(second, str):
        return filters.seen(text, mark, second)
    mark = filters.seen(text, mark)
    if method == "startswith":
        return mark, border + mark
    return (mark, mark + border) if method == "endswith" else mark


@cache
def _environment() -> _Environment:
    return _Environment()
