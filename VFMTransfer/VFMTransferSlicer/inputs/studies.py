"""Which volumes of the scene are the T2w, the high-b image and the ADC map of one study. Needs MRML, but no Qt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from VFMTransferLib.core.terms import Sequence

from .series import FIT_OF, HIGH_B, Series, TagOf, seriesOf, wordSet

_TITLES = {Sequence.T2W: "T2w", Sequence.HBV: "high-b DWI", Sequence.ADC: "ADC"}
_PELVIS_MM = 270.0  # a larger field of view is that of the whole pelvis, for its lymph nodes
_FAT_SUPPRESSED = wordSet("fs fatsat spair spir stir dixon tirm")
_FAST = wordSet("haste ssfse sshtse trufi fiesta")
_TRACE = wordSet("trace tracew")
_INVALID_ITEM = 0

# What is asked of a series, the most important first: a number, higher for better, and why that is better.
Criteria = tuple[tuple[Callable[[Series], Any], str], ...]

_T2W: Criteria = (
    (lambda series: series.plane == "axial", "it is axial"),
    (lambda series: series.isT2wByTags, "its DICOM tags identify it as T2-weighted"),
    (lambda series: not series.words & (_FAT_SUPPRESSED | _FAST), "it is neither fat-suppressed nor single-shot"),
    (lambda series: series.fieldOfViewMm <= _PELVIS_MM, "its field of view is that of the prostate"),
    (lambda series: series.place, "it was loaded last"),
)
_HBV: Criteria = (
    (lambda series: series.plane == "axial", "it is axial"),
    (lambda series: _measured(series) >= HIGH_B, "its b-value was measured and is high enough"),
    (lambda series: series.isCalculated or series.isNamedHigh or _measured(series) >= HIGH_B, "it is the high-b image"),
    (lambda series: series.bValue or 0.0, "its b-value is the highest"),
    (lambda series: bool(series.words & _TRACE), "it is the trace of all directions"),
    (lambda series: series.place, "it was loaded last"),
)
_ADC: Criteria = (
    (lambda series: series.plane == "axial", "it is axial"),
    (lambda series: "ADC" in series.imageType, "its DICOM tags identify it as an ADC map"),
    (lambda series: series.place, "it was loaded last"),
)


@dataclass
class FoundStudy:
    """The volumes that were chosen, and why.

    Attributes:
        volumes: Sequence → volume node, or None where the study holds none.
        sentences: What had to be decided, and what is missing; for the user to see, for names may be a patient's.
    """

    volumes: dict[Sequence, slicer.vtkMRMLScalarVolumeNode | None] = field(
        default_factory=lambda: dict.fromkeys(Sequence)
    )
    sentences: list[str] = field(default_factory=list)

    @property
    def isEmpty(self) -> bool:
        return all(node is None for node in self.volumes.values())


def findStudy(scene: slicer.vtkMRMLScene, tagOf: TagOf | None = None) -> FoundStudy:
    """Choose the volumes of the study that came last into the scene.

    Volumes of two studies are never mixed. Those that belong to no study go together by the folder that they were
    loaded from.

    Args:
        scene: Results of networks, label maps and the like in it are ignored.
        tagOf: Returns DICOM tags; see `series.TagOf`.
    """
    found = FoundStudy()
    studies = _studies(scene, tagOf)
    if not studies:
        found.sentences.append("No volume in the scene is a T2w, a high-b DWI or an ADC map by its tags or name.")
        return found
    study = studies[-1]
    for sequence, criteria, candidates in (
        (Sequence.T2W, _T2W, [series for series in study if series.isT2w]),
        (Sequence.HBV, _HBV, [series for series in study if series.isHighB]),
        (Sequence.ADC, _ADC, [series for series in study if series.isAdc]),
    ):
        if sequence is Sequence.ADC and (hbv := found.volumes[Sequence.HBV]) is not None:
            criteria = (*criteria[:1], (_isOnGridOf(hbv), "it lies on the grid of the high-b DWI"), *criteria[1:])
        _choose(found, sequence, criteria, candidates)
    _warn(found, study, len(studies))
    return found


def _studies(scene: slicer.vtkMRMLScene, tagOf: TagOf | None) -> list[list[Series]]:
    """Studies that hold at least one of the sequences, the one whose volume was loaded last at the end."""
    groups: dict[Any, list[Series]] = defaultdict(list)
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene)
    for place, node in enumerate(nodes):
        # Label maps, vector and diffusion-tensor volumes are scalar volumes to VTK.
        if node.GetClassName() != "vtkMRMLScalarVolumeNode" or not node.GetImageData():
            continue
        series = seriesOf(node, place, tagOf)
        if series.isImage and (series.isT2w or series.isAdc or series.isDiffusion):
            groups[_studyOf(node)].append(series)
    return sorted(groups.values(), key=lambda study: study[-1].place)


def _studyOf(node: slicer.vtkMRMLScalarVolumeNode) -> int | str:
    """The study's item in the subject hierarchy; without one the folder of the file, of what was fitted the series'."""
    node = node.GetNodeReference(FIT_OF) or node
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    if item != _INVALID_ITEM:
        level = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelStudy()
        study = hierarchy.GetItemAncestorAtLevel(item, level)
        if study != _INVALID_ITEM:
            return study
    storage = node.GetStorageNode() if node.IsA("vtkMRMLStorableNode") else None
    file = storage.GetFileName() if storage is not None else None
    return str(Path(file).parent) if file else ""


def _choose(found: FoundStudy, sequence: Sequence, criteria: Criteria, candidates: Iterable[Series]) -> None:
    ranked = sorted(candidates, key=lambda series: [measure(series) for measure, _ in criteria], reverse=True)
    if not ranked:
        return
    best, *others = ranked
    found.volumes[sequence] = best.node
    if others:
        reason = next((why for measure, why in criteria if measure(best) != measure(others[0])), "it was loaded last")
        names = ", ".join(f"'{series.name}'" for series in others)
        found.sentences.append(f"{_TITLES[sequence]}: '{best.name}' rather than {names}, since {reason}.")


def _warn(found: FoundStudy, study: list[Series], studies: int) -> None:
    """Say what is missing, and what of the choice needs a look."""
    chosen = {series.node: series for series in study}
    t2w, hbv = (chosen.get(found.volumes[sequence]) for sequence in (Sequence.T2W, Sequence.HBV))
    missing = [_TITLES[sequence] for sequence, node in found.volumes.items() if node is None]
    if missing:
        found.sentences.append(f"No {' and no '.join(missing)} was recognized by DICOM tags or names.")
    if t2w is not None and t2w.plane != "axial":
        found.sentences.append(f"T2w: '{t2w.name}' is {t2w.plane}, and no axial T2w was found.")
    if hbv is not None and hbv.bValue is None and not (hbv.isCalculated or hbv.isNamedHigh):
        found.sentences.append(f"High-b DWI: '{hbv.name}' does not state its b-value; check it.")
    if hbv is None and (mixed := [series.name for series in study if series.mixesBValues]):
        found.sentences.append(f"'{mixed[0]}' mixes several b-values; load each as a volume of its own.")
    if studies > 1:
        found.sentences.append(f"The scene holds {studies} cases; this is the one that was loaded last.")


def _measured(series: Series) -> float:
    return 0.0 if series.isCalculated else series.bValue or 0.0


def _isOnGridOf(node: slicer.vtkMRMLScalarVolumeNode) -> Callable[[Series], bool]:
    def isThere(series: Series) -> bool:
        sameSize = series.node.GetImageData().GetDimensions() == node.GetImageData().GetDimensions()
        bounds = [0.0] * 6, [0.0] * 6
        series.node.GetRASBounds(bounds[0])
        node.GetRASBounds(bounds[1])
        return sameSize and np.allclose(*bounds, atol=1.0)

    return isThere
