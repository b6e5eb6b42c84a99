"""Prostate and zones: one organ without holes, whose zones divide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...core.errors import DatasetError
from ...core.measurements import DiceEstimate
from ...core.notes import Note
from ...core.placement import NetworkInput, is_cut
from ...core.result import Result
from ...core.terms import Label
from ...core.terms import Sequence as MRSequence
from ...core.volume import Geometry, Volume
from ...metrics.agreement import dice, hausdorff95_mm
from ...radiology.gland import one_organ
from ..base import ZONE_VALUES, CaseFiles, CaseScore, LabeledCase, Method, NetworkOutput, finite, read_truth
from ..segmentation import (
    Probabilities,
    SegmentationTask,
    above_all,
    labels_of,
    soft_mask,
    structures_of,
    with_threshold_note,
)

if TYPE_CHECKING:
    from ...phantom import Phantom
    from .training import AnatomyTraining

ZONES = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
# What makes up the prostate: a network that marks nothing else marks one organ.
GLAND_LABELS = frozenset({Label.PROSTATE, *ZONES})
CUT_NOTE = Note(
    "gland-at-edge", "The prostate reaches the edge of what the network saw, and may go on beyond it; look there."
)
# The naive baseline: the grid of the mean shape.
_SHAPE_SIZE, _SHAPE_SPACING_MM = (64, 64, 64), (1.5, 1.5, 1.5)
_HALF = 0.5


class AnatomySegmentation(SegmentationTask):
    """Truth: a mask of the prostate, and `zones` (1 peripheral, 2 transition zone) where there is one."""

    id = "anatomy-segmentation"
    title = "Anatomy segmentation"
    short_title = "anatomy"
    network_title = "anatomy"
    intended_use = "Research on outlines and volumes of the prostate on T2w, each outline checked by a reader."
    inappropriate_settings = ("Volume or PSA density of a patient, planning of biopsy or radiation.",)
    stop_using_when = (
        "A case is found on which the outline lies in another organ.",
        "The Dice on own cases falls below 0.8 in the median, or below 0.7 on one in ten.",
    )
    sequences = (MRSequence.T2W,)
    labels = (Label.BACKGROUND, *ZONES)
    baseline = "mean-shape"
    card_measures = ("dice", "hd95_mm", "volume_error_ml", *(f"dice {zone}" for zone in ZONES))
    example_measures = ("dice", "hd95_mm")
    finds_gland = True

    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        return self.labeled(phantom.case, gland=phantom.gland, masks=_masks(phantom.gland, phantom.zones))

    def read_labeled(self, files: CaseFiles) -> LabeledCase:
        if files.gland is None:
            raise DatasetError(
                f"Case '{files.case.id}' must have a mask {' or '.join(files.names.gland)}, but has none. "
                "Draw one, or leave it out."
            )
        masks = _masks(files.gland, read_truth(files, files.names.zones, ZONE_VALUES))
        return self.labeled(files.case, gland=files.gland, masks=masks, is_phantom=False)

    def mark(self, probabilities: Probabilities, output: NetworkOutput) -> Result:
        """The most probable structure of each voxel; where they make up the prostate, one organ without holes."""
        shown = structures_of(probabilities)
        if not GLAND_LABELS.issuperset(shown):
            return super().mark(probabilities, output)
        if Label.PROSTATE in shown:
            marked = shown[Label.PROSTATE].array > output.threshold  # zones divide the gland, they do not add to it
        elif output.spec.activation == "softmax":
            marked = (
                np.sum([p.array for p in shown.values()], axis=0) > output.threshold
            )  # zones compete with each other, their sum with the background
        else:
            marked, output = above_all(probabilities, output.threshold), with_threshold_note(probabilities, output)
        marked, notes = one_organ(marked, next(iter(shown.values())).geometry.voxel_volume_ml)
        zones = {name: p for name, p in shown.items() if name != Label.PROSTATE}
        result = self.label_result(shown, marked, output.with_notes(*notes), zones)
        return replace(result, volumes_ml={**result.volumes_ml, str(Label.PROSTATE): labels_of(result).volume_ml})

    def decode(self, output: NetworkOutput) -> Result:
        result = super().decode(output)
        if not self.is_cut_off(result, output.prepared):
            return result
        return replace(result, provenance=result.provenance.with_notes(CUT_NOTE))

    def caution(self, estimate: DiceEstimate | None, is_withheld: bool) -> str:
        return "" if estimate is None else estimate.warning

    def is_cut_off(self, result: Result, prepared: NetworkInput) -> bool:
        return result.labels is not None and Label.PROSTATE in result.volumes_ml and is_cut(result.labels, prepared)

    def score(self, result: Result, labeled: LabeledCase) -> CaseScore:
        """Dice, distance and volume of the prostate, and Dice of its zones where both have them.

        ValueError where the result marks other structures: as those of published networks, which have no names.
        """
        others = sorted(set(result.label_values) - GLAND_LABELS - {Label.BACKGROUND})
        if others:
            raise ValueError(
                f"A result to be scored must mark the prostate or its zones alone, but marks {', '.join(others)}. "
                "Compare it by structure."
            )
        labels = labels_of(result)
        prostate = labeled.masks[Label.PROSTATE].resample_to(labels.geometry, "nearest").array > 0
        marked = labels.array > 0
        found = {
            "dice": dice(marked, prostate),
            "hd95_mm": hausdorff95_mm(marked, prostate, labels.geometry.spacing_mm),
            "volume_error_ml": abs(int(marked.sum()) - int(prostate.sum())) * labels.geometry.voxel_volume_ml,
        }
        for zone in ZONES:
            if zone in labeled.masks and zone in result.label_values:
                there = labeled.masks[zone].resample_to(labels.geometry, "nearest").array > 0
                found[f"dice {zone}"] = dice(labels.array == result.label_values[zone], there)
        return CaseScore(labeled.case.id, finite(found))

    def naive_baseline(self, training: Sequence[LabeledCase]) -> Method:
        """The mean shape of the training cases' glands, in the middle of the image."""
        self.require_training(training)
        zones = ZONES if all(zone in one.masks for one in training for zone in ZONES) else (Label.PROSTATE,)
        shares: list[np.ndarray] = [
            np.stack([soft_mask(one.masks[zone]).resample_to(_box(one)).array for one in training]).mean(axis=0)
            for zone in zones
        ]

        def baseline(labeled: LabeledCase) -> Result:
            grid = labeled.case[MRSequence.T2W].geometry
            placed = {
                str(zone): Volume(share, _box(labeled)).resample_to(grid)
                for zone, share in zip(zones, shares, strict=True)
            }
            stacked = np.stack([volume.array for volume in placed.values()])
            labels = np.where(stacked.sum(axis=0) > _HALF, stacked.argmax(axis=0) + 1, 0).astype(np.uint8)
            values = {name: number for number, name in enumerate(placed, start=1)}
            return self.baseline_result(
                labeled, label_values=values, labels=Volume(labels, grid, "labels"), probabilities=placed
            )

        return baseline

    def training(self) -> AnatomyTraining:
        from .training import AnatomyTraining

        return AnatomyTraining(self)


def _masks(gland: Volume, zones: Volume | None) -> dict[Label, Volume]:
    masks = {Label.PROSTATE: gland}
    if zones is not None:
        values = {Label.PERIPHERAL_ZONE: 1, Label.TRANSITION_ZONE: 2}
        masks |= {zone: zones.with_array((zones.array == value).astype(np.uint8)) for zone, value in values.items()}
    return masks


def _box(labeled: LabeledCase) -> Geometry:
    """A grid of fixed size around the middle of the T2w, along its axes."""
    seen = labeled.case[MRSequence.T2W].to_nearest_lps().geometry
    return Geometry.centered(seen.center_mm, _SHAPE_SIZE, _SHAPE_SPACING_MM, np.reshape(seen.direction, (3, 3)))


TASK = AnatomySegmentation()
