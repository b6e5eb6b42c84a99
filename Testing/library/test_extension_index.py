"""What Slicer's index of extensions checks before it takes an entry: the same questions, asked without a network.

`Testing/index/VFMTransfer.json` is the entry that goes there. The checks follow `scripts/check_description_files.py`
of github.com/Slicer/ExtensionsIndex as of August 2026; two of them, the repository's topic and that the pictures can be
downloaded, need the published repository.
"""

import ast
import json
import re
import struct
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
from packaged_files import MODULE, ROOT, tracked

ENTRY = ROOT / "Testing" / "index" / "VFMTransfer.json"
MB = 1024 * 1024
MOST_PICTURE = MB  # what the index's own linter lets through
MOST_REPOSITORY = 100 * MB
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # how they begin; the index takes no WebP
LICENSES = {"LICENSE", "LICENCE", "License.txt", "license.txt", "LICENSE.txt", "COPYING", "COPYING.txt"}
# Those of the index's categories that could be ours.
CATEGORIES = {"Analysis", "Image Synthesis", "Pipelines", "Quantification", "Segmentation"}
TEXTS = ("$schema", "category", "scm_url", "scm_revision", "build_subdirectory", "dicom_support_rule")
# Version 1.0.2 of the schema, in our words.
SCHEMA = {
    "type": "object",
    "required": ["$schema", "category", "scm_url"],
    "additionalProperties": False,
    "properties": {
        **{key: {"type": "string"} for key in TEXTS},
        "scm_type": {"enum": ["git", "local"]},
        "build_dependencies": {"type": "array", "items": {"type": "string"}},
        "enabled": {"type": "boolean"},
        "tier": {"type": "integer", "minimum": 1, "maximum": 5},
    },
}


@pytest.fixture(scope="module")
def entry() -> dict:
    return json.loads(ENTRY.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def description() -> str:
    return (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def setting(description: str, name: str) -> str:
    """What the index reads of the description: one quoted text, no variables."""
    return re.search(rf'^set\({name} "([^"$]+)"\)$', description, re.MULTILINE)[1]


def test_the_entry_fits_the_schema_of_the_index(entry):
    jsonschema.validate(entry, SCHEMA)
    assert entry["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert entry["category"] in CATEGORIES


def test_the_entry_is_formatted_as_the_index_formats_it(entry):
    text = ENTRY.read_bytes()
    assert b"\r" not in text
    assert text.decode("ascii") == json.dumps(entry, indent=2) + "\n"
    assert list(entry) == sorted(entry)


def test_the_extension_is_called_as_its_entry_and_not_after_slicer(description):
    assert re.findall(r"project\s*\(\s*([^\s)]+)", description, re.IGNORECASE) == [ENTRY.stem]
    assert not ENTRY.stem.lower().startswith("slicer")


def test_the_repository_is_called_after_slicer(entry, description):
    address = urlsplit(entry["scm_url"])
    assert address.scheme == "https"
    assert Path(address.path).stem.startswith("Slicer")
    assert setting(description, "EXTENSION_HOMEPAGE") == entry["scm_url"].removesuffix(".git")


def test_the_entry_and_the_description_name_the_same_dependencies(entry, description):
    # PyTorch is a choice, not a need: networks run on ONNX Runtime. Setup installs its extension where it is wanted.
    assert setting(description, "EXTENSION_DEPENDS").replace("NA", "").split() == entry["build_dependencies"]


def matches(rule: str, **attributes: str) -> bool:
    """A rule's answer: its grammar (github.com/zeroSteiner/rule-engine) has these forms in common with Python's."""
    return _value(ast.parse(rule, mode="eval").body, attributes)


def _value(node: ast.expr, attributes: dict[str, str]) -> Any:
    """What an expression of names, texts, `==`, `and`, `or` gives; AssertionError for another form or name."""
    match node:
        case ast.BoolOp(op=ast.And() | ast.Or() as op):
            return (all if isinstance(op, ast.And) else any)([_value(part, attributes) for part in node.values])
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            return _value(left, attributes) == _value(right, attributes)
        case ast.Name(id="Modality" | "SOPClassUID" as name):
            return attributes[name]  # all that Slicer gives to a rule (Docs/developer_guide/extensions.md)
        case ast.Constant(value=str(text)):
            return text
    raise AssertionError(ast.dump(node))


def test_slicer_suggests_it_for_mr_images_and_for_nothing_else(entry):
    rule = entry["dicom_support_rule"]
    classic, enhanced = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
    spectroscopy, ct, seg = "1.2.840.10008.5.1.4.1.1.4.2", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.66.4"
    assert all(matches(rule, Modality="MR", SOPClassUID=uid) for uid in (classic, enhanced))
    others = (("MR", spectroscopy), ("CT", ct), ("SEG", seg), ("SEG", classic))
    assert not any(matches(rule, Modality=modality, SOPClassUID=uid) for modality, uid in others)


def test_the_description_says_what_it_does_in_two_sentences(description):
    text = setting(description, "EXTENSION_DESCRIPTION")
    assert len(text) < 250
    assert text.count(". ") <= 2
    assert "research use only" in text
    assert setting(description, "EXTENSION_CONTRIBUTORS")


def test_the_extension_wizard_and_the_packager_find_their_places(description):
    order = ("find_package(Slicer", "Slicer_USE_FILE", "## NEXT_MODULE", "GENERATE_CONFIG", "EXTENSION_CPACK")
    places = [description.index(word) for word in order]
    assert places == sorted(places)


def test_slicer_5_10_and_later_can_configure_it(description):
    lowest, highest = re.search(r"cmake_minimum_required\(VERSION ([\d.]+)\.\.\.([\d.]+)\)", description).groups()
    assert [int(part) for part in lowest.split(".")] <= [3, 20, 6]
    assert [int(part) for part in highest.split(".")] >= [3, 28]


@pytest.mark.parametrize("name", ["EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"])
def test_pictures_of_the_index_are_files_of_this_repository(entry, description, name):
    raw = entry["scm_url"].replace("github.com", "raw.githubusercontent.com").removesuffix(".git")
    for url in setting(description, name).split():
        path = ROOT / url.removeprefix(f"{raw}/{entry['scm_revision']}/")
        assert path.read_bytes().startswith((PNG, JPEG))
        assert path.stat().st_size < MOST_PICTURE


def test_the_icon_is_a_png_of_128_pixels():
    head = (MODULE / "Resources" / "Icons" / "VFMTransfer.png").read_bytes()[:24]
    assert head[:8] == PNG
    assert struct.unpack(">II", head[16:24]) == (128, 128)


def test_a_licence_that_the_index_knows_lies_at_the_top():
    assert {path.name for path in ROOT.iterdir()} & LICENSES


def test_the_licence_is_in_the_package_too(description):
    assert re.search(r"install\(FILES LICENSE NOTICE DESTINATION", description)


def test_the_repository_is_small_enough():
    assert sum((ROOT / name).stat().st_size for name in tracked(".")) < MOST_REPOSITORY / 2  # its history counts too


def test_all_that_the_index_reads_is_utf_8():
    for name in tracked("*.py", "*.md"):
        (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.py")), ids=lambda path: path.name)
def test_a_file_of_the_module_does_nothing_when_it_is_imported(path):
    if path.name == "__init__.py" and path.parent.name == "VFMTransferSlicer":
        return  # it says where the library lies, which all others need
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        assert isinstance(node, quiet) or is_docstring or is_for_types, ast.unparse(node)
