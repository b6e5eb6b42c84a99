"""The pages for Slicer: each sentence that the module raises is explained there, and each control has its line."""

import ast
import builtins
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from VFMTransferLib.core.terms import RESEARCH_USE

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "VFMTransfer"
PAGES = [ROOT / "docs" / name for name in ("slicer-trouble.md", "troubleshooting.md", "worker.md")]
# Definitions that raise nothing, but whose every sentence is shown where pip failed.
SHOWN = {"install.py": {"whyPipFailed", "notWritable", "_REASONS"}}
CONTROLS = {"QPushButton", "QToolButton", "QCheckBox", "ctkCollapsibleButton", "QLabel"}
ARMS = {"A", "B"}  # the letters before the bars of progress
FEWEST_WORDS = 3  # of a message in the table; fewer could stand for anything


def sentences(path: Path) -> list[str]:
    """What a file raises as an error for users or shows otherwise, with `…` where something is put in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    calls = [call for call in raised if isinstance(call, ast.Call) and call.args]
    errors = [call for call in calls if ast.unparse(call.func).endswith("Error")]
    shown = [call for call in errors if not hasattr(builtins, ast.unparse(call.func))]  # those are a programmer's
    return [text for call in shown for text in [text_of(call.args[0])] if text] + [
        text for node in tree.body if _names(node) & SHOWN.get(path.name, set()) for text in _whole_sentences(node)
    ]


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    return {target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)}


def _whole_sentences(definition: ast.stmt) -> list[str]:
    docstring = ast.get_docstring(definition, clean=False) if isinstance(definition, ast.FunctionDef) else None
    texts = [text_of(node) for node in ast.walk(definition) if isinstance(node, ast.Constant | ast.JoinedStr)]
    return [text for text in texts if re.fullmatch(r"[A-Zp].* .* .*\.", text) and text != docstring]


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
        return text_of(node.args[0])
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def explained() -> list[re.Pattern]:
    """The messages of the tables, as patterns; `…` stands for what varies."""
    cells = [
        row.split(" | ")[0]
        for page in PAGES
        for row in page.read_text(encoding="utf-8").splitlines()
        if row.startswith("| `")
    ]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    wordy = [message for message in messages if len(message.replace("…", "").split()) >= FEWEST_WORDS]
    return [re.compile(".*".join(re.escape(part.strip()) for part in message.split("…"))) for message in wordy]


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.py")), ids=lambda path: path.name)
def test_what_a_file_raises_is_explained(path):
    patterns = explained()
    unexplained = [text for text in sentences(path) if not any(pattern.search(text) for pattern in patterns)]
    assert unexplained == []


def test_each_control_has_its_line():
    page = (ROOT / "docs" / "slicer.md").read_text(encoding="utf-8")
    widgets = ElementTree.parse(MODULE / "Resources" / "UI" / "VFMTransfer.ui").getroot().iter("widget")
    named = [widget for widget in widgets if widget.get("class") in CONTROLS]
    texts = [widget.findtext("property[@name='text']/string") for widget in named]
    titles = {text.removesuffix(":") for text in texts if text and text not in ARMS and text != RESEARCH_USE}
    assert [title for title in sorted(titles) if f"**{title}**" not in page and f"| {title} |" not in page] == []


def test_the_commands_without_internet_name_all_that_install_brings():
    from doctor_reports import a_report

    from VFMTransferSlicer.setup.machine_report import toInstall

    report = a_report()
    report["packages"] |= {"jinja2": None, "psutil": None}  # as in Slicer's own Python
    page = (ROOT / "docs" / "slicer.md").read_text(encoding="utf-8")
    commands = re.findall(r"`(pip download [^`]+|PythonSlicer -m pip install [^`]+)`", page)
    assert len(commands) == 2
    for command in commands:
        assert {"onnxruntime", *toInstall(report)} <= set(command.split())
