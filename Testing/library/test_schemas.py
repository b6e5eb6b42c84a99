"""The JSON schemas in the package are those that the dataclasses and the registries give."""

import importlib.util
import sys
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("make_schemas", ROOT / "docs" / "make_schemas.py")
make_schemas = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = make_schemas  # dataclasses look their module up there
SPEC.loader.exec_module(make_schemas)


@pytest.mark.parametrize("name", make_schemas.SCHEMAS)
def test_the_files_are_those_that_are_generated(name):
    text = (ROOT / "VFMTransferLib" / name).read_text(encoding="utf-8")
    assert text == make_schemas.text_of(make_schemas.SCHEMAS[name]()), "Run: python docs/make_schemas.py"


@pytest.mark.parametrize("name", make_schemas.SCHEMAS)
def test_each_is_a_schema(name):
    jsonschema.Draft202012Validator.check_schema(make_schemas.SCHEMAS[name]())


def test_no_other_schema_lies_in_the_package():
    package = ROOT / "VFMTransferLib"
    assert {path.relative_to(package).as_posix() for path in package.rglob("*.schema.json")} == set(
        make_schemas.SCHEMAS
    )
