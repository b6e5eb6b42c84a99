"""Which segment is the gland, a zone or a cancer: by terminology, else by name. Needs MRML, but no Qt."""

from __future__ import annotations

import re
from collections.abc import Iterable

import slicer
import vtk

from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.terms import LABEL_TERMS, Label, TaskId
from VFMTransferLib.encoders.base import ModelSpec

_INSIDE = 1
_ZONES = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
_GLAND = (Label.PROSTATE, *_ZONES)
_UNCODED = frozenset({"", "85756007", "T-D0050"})  # Tissue is what Slicer says of a segment that nobody has coded
# Words of a segment's name, the most telling first: a lesion of the peripheral zone, the central gland.
_WORDS: tuple[tuple[Label, frozenset[str]], ...] = (
    (Label.INDOLENT_CANCER, frozenset({"indolent", "insignificant"})),
    (Label.CSPCA, frozenset({"cspca", "lesion", "lesions", "cancer", "tumor", "tumour", "significant"})),
    (Label.PERIPHERAL_ZONE, frozenset({"pz", "peripheral"})),
    (Label.TRANSITION_ZONE, frozenset({"tz", "transition", "transitional", "cg", "central"})),
    (Label.PROSTATE, frozenset({"prostate", "gland", "wg"})),
)


def labelOf(segment: slicer.vtkSegment) -> Label | None:
    """What a segment stands for, by its terminology, else by the words of its name; None if neither tells."""
    words = set(re.split(r"[^a-z0-9]+", segment.GetName().lower()))
    byName = next((label for label, own in _WORDS if words & own), None)
    code = _codeOf(segment)
    coded = [label for label, term in LABEL_TERMS.items() if term.type.value == code]
    if len(coded) > 1:  # a mass: only the name tells which
        return byName if byName in coded else Label.CSPCA
    return coded[0] if coded else byName


def glandValues(node: slicer.vtkMRMLSegmentationNode) -> dict[str, int]:
    """Segment → 1, of the segments that are the prostate or a zone of it; a lone segment without a name counts too.

    Raises:
        ImageError: None is.
    """
    labels = _labelsOf(node)
    chosen = [segment for segment, label in labels.items() if label in _GLAND]
    if not chosen and len(labels) == 1:
        chosen = list(labels)
    if not chosen:
        raise ImageError(
            f"Segmentation '{node.GetName()}' must mark the prostate, but its segments are {_named(node)}. "
            f"Name the one that does '{LABEL_TERMS[Label.PROSTATE].title}'."
        )
    return dict.fromkeys(chosen, _INSIDE)


def referenceValues(node: slicer.vtkMRMLSegmentationNode, spec: ModelSpec) -> dict[str, int]:
    """Segment → the network's value for it, of the segments that the network's task is about.

    Raises:
        ImageError: None is, or one could be anything.
    """
    values = valuesOf(spec)
    labels = _labelsOf(node, values)
    if spec.prediction_task.id is TaskId.LESION_SEGMENTATION:
        values = {name: value for name, value in values.items() if name == Label.CSPCA}
    elif set(values).intersection(_ZONES):
        if not set(labels.values()).intersection(_ZONES):
            return dict.fromkeys(glandValues(node), _INSIDE)  # a mask of one value is the whole prostate
        values.pop(Label.PROSTATE, None)  # the networks write the zones alone, which together are the prostate
    elif Label.PROSTATE in values:
        labels = {segment: Label.PROSTATE if label in _ZONES else label for segment, label in labels.items()}
    unknown = [segment for segment, label in labels.items() if label is None]
    if len(labels) == len(unknown) == len(values) == 1:
        return {unknown[0]: next(iter(values.values()))}
    chosen = {segment: values[label] for segment, label in labels.items() if label in values}
    if unknown or not chosen:
        raise ImageError(
            f"Reference '{node.GetName()}' must mark {', '.join(values)}, but its segments are {_named(node)}"
            + (f", of which {_named(node, unknown)} could be anything" if chosen else "")
            + ". Name each for what it marks, or choose its terminology."
        )
    return chosen


def valuesOf(spec: ModelSpec) -> dict[str, int]:
    """Label name → value, as `postprocess.label_values`, which would bring all of SciPy into this process."""
    first = 0 if spec.labels[0] == Label.BACKGROUND else 1
    return {str(name): value for value, name in enumerate(spec.labels, first) if name != Label.BACKGROUND}


def _labelsOf(node: slicer.vtkMRMLSegmentationNode, names: Iterable[str] = ()) -> dict[str, str | None]:
    """Segment → what it stands for; `names` are known in addition. Segments that are coded as something else are out.

    The order is that in which they are drawn over each other: the prostate, zones, then what lies in them.
    """
    segmentation = node.GetSegmentation()
    labels: dict[str, str | None] = {}
    for segment in segmentation.GetSegmentIDs():
        own = segmentation.GetSegment(segment)
        named = next((name for name in names if name in (segment, own.GetName())), None)
        label = named or labelOf(own)
        if label is not None or _codeOf(own) in _UNCODED:
            labels[segment] = label
    order = {str(label): place for place, label in enumerate(Label)}
    return dict(sorted(labels.items(), key=lambda item: order.get(item[1], len(order))))


def _codeOf(segment: slicer.vtkSegment) -> str:
    """Value of the coded type in the segment's terminology: context~category~type~…, each scheme^value^meaning."""
    entry = vtk.mutable("")
    segment.GetTag(segment.GetTerminologyEntryTagName(), entry)
    fields = str(entry).split("~")
    code = fields[2].split("^") if len(fields) > 2 else []
    return code[1] if len(code) > 1 else ""


def _named(node: slicer.vtkMRMLSegmentationNode, segments: Iterable[str] | None = None) -> str:
    """Names of segments, by default of all, as a message lists them."""
    segmentation = node.GetSegmentation()
    listed = segmentation.GetSegmentIDs() if segments is None else segments
    return ", ".join(f"'{segmentation.GetSegment(segment).GetName()}'" for segment in listed) or "none"
