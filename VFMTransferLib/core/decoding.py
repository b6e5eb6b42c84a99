"""JSON into dataclasses, by their type hints, with nothing guessed. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS: dict[Any, str] = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number"}


def from_json(kind: Any, value: Any, where: str) -> Any:
    """A value of a type, from what `json.loads` gives.

    Known are text, numbers, booleans, enumerations, `Literal`, optional values, tuples (lists in JSON), `dict[str, X]`
    and dataclasses of these. A field with a default may be left out; a key that is no field is an error.

    Args:
        kind: The type.
        value: What JSON says.
        where: What to call the value in messages.

    Raises:
        ValueError: The value is no such thing; the message says which, and what it must be.
    """
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(_one_of([member.value for member in kind], value, where))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _one_of(arguments, value, where)
    if origin in (UnionType, Union):
        (wanted,) = (argument for argument in arguments if argument is not NoneType)
        return None if value is None else from_json(wanted, value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict:
        table = _expect(isinstance(value, dict), value, where, "an object")
        return {from_json(arguments[0], k, where): from_json(arguments[1], v, f"{where}.{k}") for k, v in table.items()}
    return _plain(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    table: Mapping[str, Any] = _expect(isinstance(value, dict), value, where, "an object")
    known = {field.name: field for field in fields(kind)}
    unknown = sorted(table.keys() - known.keys())
    if unknown:
        raise ValueError(
            f"'{where}' must hold only {', '.join(known) or 'its type'}, but also holds {unknown[0]!r:.60}."
        )
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    lacking = [name for name in needed if name not in table]
    if lacking:
        raise ValueError(f"'{where}' must hold {', '.join(needed)}, but lacks {', '.join(lacking)}.")
    hints = get_type_hints(kind)
    return kind(**{name: from_json(hints[name], item, f"{where}.{name}") for name, item in table.items()})


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    items = _expect(isinstance(value, list), value, where, "a list")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(items)
    _expect(len(items) == len(arguments), value, where, f"a list of {len(arguments)}")
    return tuple(from_json(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, items, strict=True)))


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(_expect(is_number and math.isfinite(value), value, where, _WORDS[float]))
    is_it = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return _expect(is_it, value, where, _WORDS[kind])


def _one_of(choices: Any, value: Any, where: str) -> Any:
    return _expect(value in choices, value, where, f"one of {', '.join(choices)}")


def _expect(is_met: bool, value: Any, where: str, must_be: str) -> Any:
    if not is_met:
        raise ValueError(f"'{where}' must be {must_be}, got {value!r:.60}.")
    return value
