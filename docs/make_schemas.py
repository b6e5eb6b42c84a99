"""Generate the JSON schemas from the dataclasses that read and write the files: `python docs/make_schemas.py`.

What a dataclass cannot state by its types (rules between fields) stands here, beside the names of the registries.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from VFMTransferLib.bundles.bundle import Block
from VFMTransferLib.core.decoding import Limits, OneOf
from VFMTransferLib.encoders.base import ACTIVATIONS, FAMILIES, NORMALIZATIONS
from VFMTransferLib.io.results import ResultDocument
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.worker.messages import PROTOCOL, REPLIES, REQUESTS

LIBRARY = Path(__file__).resolve().parents[1] / "VFMTransferLib"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
TEXT: dict[str, Any] = {"type": "string"}
NOT_EMPTY: dict[str, Any] = {"type": "string", "minLength": 1}
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number"}

Json = dict[str, Any]


@dataclass
class SchemaMaker:
    """Turns types into schemas, and collects those of dataclasses by name.

    Attributes:
        every_key: Fields with a default are required too.
        special: "Class.field" → the schema of a field whose type is wider than its values.
        rules: Class → what its schema holds beside its fields.
        definitions: Name → schema of each dataclass that was met.
    """

    every_key: bool = False
    special: Json = field(default_factory=dict)
    rules: dict[str, Json] = field(default_factory=dict)
    definitions: Json = field(default_factory=dict)

    def of_type(self, kind: Any) -> Json:
        """The schema of a type, as `core.decoding.from_json` reads it."""
        if kind is Any:
            return {}
        if is_dataclass(kind) and isinstance(kind, type):
            if kind.__name__ not in self.definitions:
                self.definitions[kind.__name__] = {}
                self.definitions[kind.__name__] = self.of_class(kind)
            return {"$ref": f"#/$defs/{kind.__name__}"}
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"enum": [member.value for member in kind]}
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            for marker in arguments[1:]:
                if isinstance(marker, OneOf):
                    return {"enum": list(marker.choices())}
            schema = self.of_type(arguments[0])
            for limits in arguments[1:]:
                schema |= _limited(limits, schema.get("type"))
            return schema
        if origin is Literal:
            return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
        if origin in (UnionType, Union):
            return _either([{"type": "null"} if part is NoneType else self.of_type(part) for part in arguments])
        if origin is tuple:
            schema = {"type": "array", "items": self.of_type(arguments[0])}
            if arguments[-1] is not Ellipsis:
                schema |= {"minItems": len(arguments), "maxItems": len(arguments)}
            return schema
        if origin is dict:
            keys, schema = self.of_type(arguments[0]), {"type": "object"}
            if keys != TEXT:
                schema["propertyNames"] = keys
            if items := self.of_type(arguments[1]):
                schema["additionalProperties"] = items
            return schema
        return {"type": _PLAIN[kind]}

    def of_class(self, kind: type, more: Json | None = None) -> Json:
        """The schema of a dataclass; `more` are properties before its own."""
        more = more or {}
        hints, texts = get_type_hints(kind, include_extras=True), described(kind)
        properties = dict(more)
        required = list(more)
        for part in fields(kind):
            schema = dict(self.special.get(f"{kind.__name__}.{part.name}") or self.of_type(hints[part.name]))
            if part.name in texts:
                schema["description"] = texts[part.name]
            properties[part.name] = schema
            if self.every_key or (part.default is MISSING and part.default_factory is MISSING):
                required.append(part.name)
        return {
            "description": inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " "),
            "type": "object",
            "additionalProperties": False,
            "required": required,
            "properties": properties,
            **self.rules.get(kind.__name__, {}),
        }


def described(kind: type) -> dict[str, str]:
    """Field → what the section "Attributes" of a docstring states of it."""
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", section.split("\n\n")[0]):
        names, _, text = entry.strip().partition(": ")
        found |= {name.strip(): " ".join(text.split()) for name in names.split(",") if text}
    return found


def _limited(limits: Limits, kind: str | None) -> Json:
    length = {"array": "minItems", "object": "minProperties"}.get(kind or "", "minLength")
    pattern = None if limits.pattern is None else f"^{limits.pattern}$"
    stated = {
        "minimum": limits.minimum,
        "maximum": limits.maximum,
        "exclusiveMinimum": limits.above,
        "pattern": pattern,
        length: limits.min_length,
    }
    return {key: value for key, value in stated.items() if value is not None}


def _either(schemas: list[Json]) -> Json:
    """One of several schemas, as short as it can be written."""
    if all(set(schema) == {"type"} for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    if all(set(schema) <= {"enum"} or schema == {"type": "null"} for schema in schemas):
        return {"enum": [value for schema in schemas for value in schema.get("enum", [None])]}
    return {"anyOf": schemas}


def task_ids() -> list[str]:
    return [str(task) for task in TASKS]


def job_schema() -> Json:
    """Of the messages between a program and its worker."""
    tasks = {"enum": task_ids()}
    filled = {name: {**NOT_EMPTY} for name in ("job", "folder", "case", "cases", "output")}
    bundles = {"type": "array", "items": TEXT, "minItems": 1}
    maker = SchemaMaker(
        special={
            **{f"{kind}.task": tasks for kind in ("Run", "Batch")},
            **{f"{kind}.{name}": schema for kind in ("Run", "Batch") for name, schema in filled.items()},
            **{f"{kind}.bundles": bundles for kind in ("Run", "Batch")},
            "Capabilities.tasks": {"type": "array", "items": tasks},
            "ImageFile.file": {"type": "string", "pattern": r"^(?!\.{1,2}$)[^/\\:\u0000]+$"},
        },
        rules={
            "ImageFile": {
                "if": {"properties": {"file": {"pattern": r"\.[nN][pP][yY]$"}}},
                "then": {"required": ["file", "grid"], "properties": {"grid": {"$ref": "#/$defs/Grid"}}},
                "else": {"properties": {"grid": {"type": "null"}}},
            },
            "Run": {
                "allOf": [
                    _when("compare", {"properties": {"bundles": {"minItems": 2}}}),
                    _when("report", {"required": ["compare"], "properties": {"compare": {"const": True}}}),
                ]
            },
        },
    )
    messages: Json = {}
    for name, kind in {**REQUESTS, **REPLIES}.items():
        messages[name] = maker.of_class(kind, {"protocol": {"const": PROTOCOL}, "type": {"const": name}})
    messages["run"]["properties"]["images"]["minProperties"] = 1
    return {
        "$schema": DRAFT,
        "title": "Messages between VFM Transfer and its worker",
        "description": "One message is one line of JSON: requests go to the worker's stdin, replies come from its "
        "stdout.",
        "$comment": "protocol grows when a message changes its meaning, or a field comes or goes.",
        "oneOf": [{"$ref": "#/$defs/request"}, {"$ref": "#/$defs/reply"}],
        "$defs": {
            "request": _one_of(REQUESTS),
            "reply": _one_of(REPLIES),
            **messages,
            **maker.definitions,
        },
    }


def _when(flag: str, then: Json) -> Json:
    return {"if": {"required": [flag], "properties": {flag: {"const": True}}}, "then": then}


def _one_of(names: Iterable[str]) -> Json:
    return {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in names]}


def result_schema() -> Json:
    """Of `result.json`."""
    maker = SchemaMaker(special={"ResultDocument.task": {"enum": task_ids()}})
    schema = maker.of_class(ResultDocument)
    return {
        "$schema": DRAFT,
        "title": "result.json of VFM Transfer",
        **schema,
        "$defs": maker.definitions,
    }


def bundle_schema() -> Json:
    """Of a bundle's `metadata.json`."""
    maker = SchemaMaker(
        special={
            "ModelSpec.task": {"enum": [*task_ids(), None]},
            "ModelSpec.activation": {"enum": list(ACTIVATIONS)},
            "HeadSpec.kind": {
                "enum": list(dict.fromkeys(kind for each in FAMILIES.values() for kind in each.head_kinds))
            },
            "PreprocessSpec.normalization": {"enum": list(NORMALIZATIONS)},
            "Calibration.temperature": {"type": "number", "exclusiveMinimum": 0},
        },
    )
    model = SchemaMaker(every_key=True, special=maker.special, definitions=maker.definitions)
    sizes = [model.of_class(each.spec_type, {"kind": {"const": each.json_kind}}) for each in FAMILIES.values()]
    maker.special["ModelSpec.encoder"] = {"oneOf": sizes}
    maker.special["Block.model"] = model.of_type(get_type_hints(Block)["model"])
    block = maker.of_class(Block)
    block["properties"]["sha256"]["required"] = ["models/model.safetensors"]
    number = {"type": "string", "pattern": r"^[0-9]+\.[0-9]+"}
    versions = {"type": "object", "additionalProperties": TEXT}
    positive = {"type": "integer", "minimum": 1}
    data = {
        "type": TEXT,
        "format": TEXT,
        "num_channels": positive,
        "spatial_shape": {"type": "array", "items": positive},
        "dtype": TEXT,
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": versions,
    }
    each = {"$ref": "#/$defs/data"}
    inputs = {"type": "object", "minProperties": 1, "additionalProperties": each}
    outputs = {"type": "object", "required": ["pred"], "additionalProperties": each}
    of_monai = {
        "schema": TEXT,
        "version": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+"},
        "changelog": versions,
        "monai_version": number,
        "pytorch_version": number,
        "numpy_version": number,
        "required_packages_version": versions,
        "name": NOT_EMPTY,
        "task": NOT_EMPTY,
        "description": NOT_EMPTY,
        "authors": TEXT,
        "copyright": TEXT,
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": inputs, "outputs": outputs},
        },
    }
    return {
        "$schema": DRAFT,
        "title": "metadata.json of a VFM Transfer bundle",
        "description": "A MONAI bundle's metadata with the block vfm_transfer.",
        "type": "object",
        "required": [*of_monai, "vfm_transfer"],
        "properties": {
            **of_monai,
            "intended_use": TEXT,
            "references": {"type": "array", "items": TEXT},
            "vfm_transfer": block,
        },
        "$defs": {
            **maker.definitions,
            "data": {
                "type": "object",
                "required": list(data),
                "properties": {**data, "modality": TEXT},
            },
        },
    }


SCHEMAS: dict[str, Callable[[], Json]] = {
    "bundles/bundle.schema.json": bundle_schema,
    "io/result.schema.json": result_schema,
    "worker/job.schema.json": job_schema,
}


def text_of(schema: Json) -> str:
    """The schema as its file holds it: lists of words on one line."""
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    return re.sub(r"\[([^\[\]{}]*)\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def main() -> None:
    for name, make in SCHEMAS.items():
        (LIBRARY / name).write_text(text_of(make()), encoding="utf-8")


if __name__ == "__main__":
    main()
