"""The repository itself: sizes, versions, links, packaging lists."""

import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest

import VFMTransferLib

ROOT = Path(__file__).resolve().parents[2]
MB = 1024 * 1024
SOURCE_FILE = re.compile(r"`((?:[\w<>-]+/)*[\w<>-]+\.(?:py|schema\.json))`")
MARKDOWN_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")


@pytest.fixture(scope="module")
def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("This is no clone, so there is no list of tracked files.")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_no_tracked_file_is_over_5_mb(tracked_files):
    assert [path.name for path in tracked_files if path.stat().st_size > 5 * MB] == []


def test_shipped_bundles_are_at_most_24_mb(tracked_files):
    bundles = [path for path in tracked_files if path.is_relative_to(ROOT / "Resources" / "Bundles")]
    assert sum(path.stat().st_size for path in bundles) <= 24 * MB


def test_no_image_of_a_study_is_tracked(tracked_files):
    images = (".nii", ".nii.gz", ".mha", ".nrrd", ".dcm")
    assert [path.name for path in tracked_files if path.name.lower().endswith(images)] == []


def test_text_files_end_their_lines_as_unix_does(tracked_files):
    text = [path for path in tracked_files if path.suffix in {".py", ".md", ".toml", ".json", ".yaml", ".cff"}]
    assert [str(path.relative_to(ROOT)) for path in text if b"\r" in path.read_bytes()] == []


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == VFMTransferLib.__version__
    assert re.search(r"^## \[([\d.]+)\]", changelog, re.MULTILINE)[1] == VFMTransferLib.__version__


def test_the_base_install_brings_no_torch(project):
    base = " ".join(project["project"]["dependencies"])
    assert not re.search(r"\b(torch|monai|onnx)\b", base)


def test_links_in_the_documentation_lead_to_files_and_headings(tracked_files):
    pages = {path.resolve(): path.read_text(encoding="utf-8") for path in tracked_files if path.suffix == ".md"}
    broken = []
    for page, text in pages.items():
        for link, heading in MARKDOWN_LINK.findall(text):
            if "://" in link or link.startswith("mailto:"):
                continue
            target = (page.parent / link).resolve() if link else page
            if not target.exists() or (heading and target in pages and heading not in headings(pages[target])):
                broken.append(f"{page.relative_to(ROOT)}: {link}#{heading}")
    assert broken == []


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_picture_of_the_rooms_is_what_the_code_gives():
    script = runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))
    assert script["TARGET"].read_text(encoding="utf-8") == script["drawing"](), "Run python docs/make_architecture.py."


def test_the_documentation_names_files_that_exist(tracked_files):
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    known = {str(path.relative_to(ROOT)) for path in tracked_files}
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        for name in SOURCE_FILE.findall(page.read_text(encoding="utf-8"))
        if not _files_named(name, known)
    ]
    assert missing == []


def test_the_page_on_the_code_names_what_its_files_hold(tracked_files):
    known = {str(path.relative_to(ROOT)) for path in tracked_files}
    page = (ROOT / "docs" / "developing.md").read_text(encoding="utf-8")
    unknown = []
    for entry in re.findall(r"^(?:\d+\. |\| ).+(?:\n   .+)*", page, re.MULTILINE):
        files = [file for name in SOURCE_FILE.findall(entry) for file in _files_named(name, known)]
        text = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        names = [name for name in re.findall(r"`([A-Za-z_.]+)`", entry) if not name.endswith((".py", ".json"))]
        unknown += [name for name in names if not re.search(rf"\b{name.split('.')[-1]}\b", text)]
    assert unknown == []


def _files_named(name: str, known: set[str]) -> list[str]:
    """Files of the repository that a name in the documentation stands for; `<task>` stands for any folder."""
    pattern = re.compile(re.sub(r"<\w+>", r"[^/]+", re.escape(name)))
    roots = ("", "VFMTransferLib/", "VFMTransfer/VFMTransferSlicer/")
    return [file for file in sorted(known) if any(pattern.fullmatch(file.removeprefix(root)) for root in roots)]


def test_the_licence_is_named_and_present():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache-2.0" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_loads_no_pickle_and_runs_no_text():
    forbidden = re.compile(
        r"weights_only\s*=\s*False|\bpickle\.load|shell\s*=\s*True|(?<![\w.])(eval|exec)\(|torch\.hub|torchvision"
    )
    guilty = [
        path.name
        for path in (ROOT / "VFMTransferLib").rglob("*.py")
        if any(forbidden.search(line.partition("#")[0]) for line in path.read_text(encoding="utf-8").splitlines())
    ]
    assert guilty == []
