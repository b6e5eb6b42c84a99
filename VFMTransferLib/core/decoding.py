"""The one strict decoder: JSON and YAML into dataclasses by their type hints, and back. Nothing is guessed.

Messages of the worker, metadata of bundles, configurations, recipes and `result.json` are read by `from_json`, and
`docs/make_schemas.py` generates their JSON schemas from the same hints. Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_WORDS: dict[Any, str] = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number"}

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a value must fulfill beside its type, as `Annotated[float, Limits(above=0)]`.

    `above` is exclusive; `pattern` is a regular expression for the whole text, and `words` states it in messages.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    pattern: str | None = None
    min_length: int | None = None
    words: str = ""

    def problem(self, value: Any) -> str:
        """What the value must be and is not; empty where it is."""
        if self.minimum is not None and value < self.minimum:
            return f"{self.minimum:g} or more"
        if self.maximum is not None and value > self.maximum:
            return f"{self.maximum:g} or less"
        if self.above is not None and value <= self.above:
            return f"more than {self.above:g}"
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            return self.words or f"text of the form {self.pattern}"
        if self.min_length is not None and len(value) < self.min_length:
            return f"{self.min_length} or more long" if self.min_length > 1 else "not empty"
        return ""


Share = Annotated[float, Limits(minimum=0.0, maximum=1.0)]
"""A part of a whole, or a probability."""
NotNegative = Annotated[float, Limits(minimum=0)]


@dataclass(frozen=True)
class OneOf:
    """Of a text: one of those known when it is read, as a registry's ids: `Annotated[str, OneOf(lambda: TASKS)]`."""

    choices: Callable[[], Iterable[str]]


def from_json(kind: type[T], value: Any, where: str, *, every_key: bool = False) -> T:
    """A value of a type, from what JSON or YAML holds.

    Known are text, numbers, booleans, enumerations, `Literal`, unions, tuples (lists in JSON), `dict[str, X]`, `Any`,
    `Annotated` with `Limits` or `OneOf`, and dataclasses of these. A field with a default may be left out unless
    `every_key`; a key that is no field is an error. A dataclass that a caller decoded by itself stays as it is.

    Raises:
        ValueError: The value is no such thing; the message names it by `where` and the key.
    """
    return _decode(kind, value, where, every_key)


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text; ValueError where it is none, or has NaN or Infinity, which Python's reader takes."""

    def refuse(word: str) -> None:
        raise ValueError(f"it holds {word}")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


OMITTED = MappingProxyType({"omitted": True})
"""Metadata of a dataclass's field that `to_json` leaves out where it has its default: one that came later, so that
documents and checksums of what does not use it stay as they were."""


def to_json(value: Any) -> Any:
    """Dataclasses as objects, tuples as lists, enumerations as their values; all else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        found = [(field, getattr(value, field.name)) for field in fields(value)]
        kept = [(field, own) for field, own in found if "omitted" not in field.metadata or own != field.default]
        return {field.name: to_json(own) for field, own in kept}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {to_json(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def _decode(kind: Any, value: Any, where: str, every_key: bool) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else _dataclass(kind, value, where, every_key)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(_one_of([member.value for member in kind], value, where))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        for marker in arguments[1:]:
            if isinstance(marker, OneOf):
                return _one_of(marker.choices(), value, where)
        decoded = _decode(arguments[0], value, where, every_key)
        for limits in arguments[1:]:
            if isinstance(limits, Limits) and decoded is not None and (problem := limits.problem(decoded)):
                _expect(False, value, where, problem)
        return decoded
    if origin is Literal:
        return _one_of(arguments, value, where)
    if origin in (UnionType, Union):
        return _union(arguments, value, where, every_key)
    if origin is tuple:
        items = _expect(isinstance(value, list), value, where, "a list")
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(items)
        _expect(len(items) == len(arguments), value, where, f"a list of {len(arguments)}")
        numbered = enumerate(zip(arguments, items, strict=True))
        return tuple(_decode(item_kind, item, f"{where}[{i}]", every_key) for i, (item_kind, item) in numbered)
    if origin is dict:
        table = _expect(isinstance(value, dict), value, where, "an object")
        key_kind, item_kind = arguments
        return {
            _decode(key_kind, key, where, every_key): _decode(item_kind, item, f"{where}.{key}", every_key)
            for key, item in table.items()
        }
    return _plain(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str, every_key: bool) -> Any:
    table: dict[str, Any] = _expect(isinstance(value, dict), value, where, "an object")
    known = {field.name: field for field in fields(kind) if field.init}
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ValueError(
            f"'{where}' must hold only {', '.join(known) or 'its type'}, but also holds {unknown[0]!r:.60}."
        )
    needed = [n for n, f in known.items() if every_key or (f.default is MISSING and f.default_factory is MISSING)]
    lacking = [name for name in needed if name not in table]
    if lacking:
        raise ValueError(f"'{where}' must hold {', '.join(needed)}, but lacks {', '.join(lacking)}.")
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{name: _decode(hints[name], item, f"{where}.{name}", every_key) for name, item in table.items()})


def _union(kinds: tuple[Any, ...], value: Any, where: str, every_key: bool) -> Any:
    if value is None and NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    if len(kinds) == 1:
        return _decode(kinds[0], value, where, every_key)
    for kind in kinds:
        try:
            return _decode(kind, value, where, every_key)
        except ValueError:
            continue
    names = " or ".join(_WORDS.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)
    return _expect(False, value, where, names)


def _plain(kind: Any, value: Any, where: str) -> Any:
    is_flag = isinstance(value, bool) and kind is not bool
    if kind is float:
        try:
            is_number = isinstance(value, (int, float)) and not is_flag and math.isfinite(value)
        except OverflowError:  # a whole number beyond all floating-point ones
            is_number = False
        return float(_expect(is_number, value, where, _WORDS[float]))
    words = _WORDS.get(kind, kind.__name__)  # other types are no JSON, but may stand where a caller has put them
    return _expect(isinstance(value, kind) and not is_flag, value, where, words)


def _one_of(choices: Iterable[Any], value: Any, where: str) -> Any:
    choices = list(choices)
    is_there = any(type(value) is type(choice) and value == choice for choice in choices)
    known = ", ".join(map(str, choices))
    return _expect(is_there, value, where, known if len(choices) == 1 else f"one of {known}")


def _expect(is_met: bool, value: Any, where: str, must_be: str) -> Any:
    if not is_met:
        raise ValueError(f"'{where}' must be {must_be}, got {value!r:.60}.")
    return value
