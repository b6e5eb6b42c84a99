"""A run written into its scene, so that a scene that was saved can be reviewed: numbers, comparison, report, nodes.

A text node holds what is no node, and refers to the nodes that are; another one holds the page of the report. Both are
saved with the scene, and stand in no list. Needs MRML, but no Qt.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import slicer

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.tasks import TASKS

from ..runs import ArmInScene, RunInScene
from .scene import ATTRIBUTE

FORMAT = "vfm-transfer/scene/1"
NAME, PAGE_NAME = "VFM Transfer results", "VFM Transfer report"
_RECORD, _PAGE = ATTRIBUTE + "Record", ATTRIBUTE + "Page"


def writeRecord(run: RunInScene, page: str = "") -> None:
    """Write a run into the scene of its case, in place of what was written of it before, and of runs that are gone.

    Args:
        run: With one arm at least, and nodes of one in the scene.
        page: The page of its report; empty to keep the one that is there.
    """
    scene = run.about.GetScene()
    for former in _records(scene):
        with suppress(ValueError, KeyError, TypeError):  # of a newer version: not ours to remove
            if _read(former) is None:
                _remove(former)
    node = _recordOf(run) or _newText(scene, NAME, _RECORD)
    document = {
        "format": FORMAT,
        "task": str(run.task),
        "arms": [{"bundle": arm.bundle, "numbers": arm.numbers, "title": arm.title} for arm in run.arms],
        "comparison": run.comparison,
    }
    node.SetText(json.dumps(document))
    for role, other in _nodesOf(run):
        node.SetNodeReferenceID(role, other.GetID())
    if page:
        if run.page is None or run.page.GetScene() is None:
            run.page = _newText(scene, PAGE_NAME, _PAGE)
        run.page.SetText(page)
        node.SetNodeReferenceID(_PAGE, run.page.GetID())


def readRecord(scene: slicer.vtkMRMLScene) -> RunInScene | None:
    """The run that was written into a scene last, and whose nodes are still there; None where there is none."""
    for node in reversed(_records(scene)):
        try:
            run = _read(node)
        except (ValueError, KeyError, TypeError) as error:  # of a newer version, or changed by hand
            logging.warning("Results in the scene cannot be read (%s).", type(error).__name__)
            continue
        if run is not None:
            return run
    return None


def _records(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLTextNode]:
    """What was written of runs, the first one first."""
    nodes = (
        scene.GetNthNodeByClass(i, "vtkMRMLTextNode") for i in range(scene.GetNumberOfNodesByClass("vtkMRMLTextNode"))
    )
    return [node for node in nodes if node.GetAttribute(_RECORD) is not None]


def _remove(record: slicer.vtkMRMLTextNode) -> None:
    for node in (record.GetNodeReference(_PAGE), record):
        if node is not None:
            node.GetScene().RemoveNode(node)


def _read(node: slicer.vtkMRMLTextNode) -> RunInScene | None:
    """The run, None where the image is gone on which its results lie, or the results of a network."""
    document = json.loads(node.GetText() or "")
    if document["format"] != FORMAT or document["task"] not in TASKS:
        raise ValueError(document["format"])
    inputs = {sequence: node.GetNodeReference(f"input.{sequence}") for sequence in Sequence}
    inputs = {sequence: volume for sequence, volume in inputs.items() if volume is not None}
    task = TASKS[document["task"]]
    about = inputs.get(task.reference)
    if about is None or about.GetImageData() is None:
        return None
    arms = [_readArm(node, place, arm) for place, arm in enumerate(document["arms"])]
    if task.output.has_voxels and not all(arm.nodes for arm in arms):
        return None
    return RunInScene(
        document["task"],
        inputs,
        about,
        arms,
        reference=node.GetNodeReference("reference"),
        gland=node.GetNodeReference("gland"),
        comparison=document["comparison"],
        page=node.GetNodeReference(_PAGE),
    )


def _readArm(node: slicer.vtkMRMLTextNode, place: int, written: dict[str, Any]) -> ArmInScene:
    arm = ArmInScene(written["bundle"], written["numbers"], title=written.get("title", ""))  # earlier ones lack it
    for role in (node.GetNthNodeReferenceRole(index) for index in range(node.GetNumberOfNodeReferenceRoles())):
        if role.startswith(f"arm{place}."):
            _, kind, name = role.split(".", 2)
            other = node.GetNodeReference(role)
            if other is not None and kind in ("images", "probabilities"):
                getattr(arm, kind)[name] = other
            elif other is not None:
                setattr(arm, kind, other)
    return arm


def _nodesOf(run: RunInScene) -> Iterator[tuple[str, slicer.vtkMRMLNode]]:
    """Role → node, of all that is still in the scene."""
    named = {f"input.{sequence}": node for sequence, node in run.inputs.items()}
    named |= {"reference": run.reference, "gland": run.gland}
    for place, arm in enumerate(run.arms):
        named |= {f"arm{place}.segmentation.": arm.segmentation, f"arm{place}.transform.": arm.transform}
        for kind in ("images", "probabilities"):
            named |= {f"arm{place}.{kind}.{name}": node for name, node in getattr(arm, kind).items()}
    yield from ((role, node) for role, node in named.items() if node is not None and node.GetScene() is not None)


def _recordOf(run: RunInScene) -> slicer.vtkMRMLTextNode | None:
    """The node that was written for this run: the one that refers to what is left of its arms."""
    arms = {role: node for role, node in _nodesOf(run) if role.startswith("arm")}
    for node in _records(run.about.GetScene()):
        if arms and all(node.GetNodeReference(role) is other for role, other in arms.items()):
            return node
    return None


def _newText(scene: slicer.vtkMRMLScene, name: str, attribute: str) -> slicer.vtkMRMLTextNode:
    node = slicer.vtkMRMLTextNode()
    node.SetName(scene.GenerateUniqueName(name))
    node.SetHideFromEditors(True)
    node.SetAttribute(attribute, "1")
    return scene.AddNode(node)
