"""Inputs of one case for many networks: each made once, with the gland found by a network where nobody drew it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .bundle import Bundle
from .case import Case
from .catalog import default_pair
from .errors import BundleError, MissingSequenceError
from .inference import OnWindow, Session, infer
from .placement import Prepared
from .postprocess import postprocess, reaches_edge
from .preprocess import needs_gland, prepare
from .registry import ModelSpec
from .result import Provenance, Result
from .roi import RESTORED_NOTE, RIM_NOTE, Bounds
from .terms import Label, Sequence, TaskId
from .volume import Volume

ZONE_LABELS = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)

SECOND_LOOK_NOTE = (
    "The prostate reached the edge of the middle crop, so the network looked a second time, around what it had found."
)

OpenNetwork = Callable[[Bundle], Session]


@dataclass
class CaseInputs:
    """The inputs that networks take of one case.

    Attributes:
        case: The study; it stays as it is.
        gland: Mask of the prostate, before the case's own.
        crop, roi: As in `preprocess.prepare`.
        open_network: Gives the loaded network of a bundle.
    """

    case: Case
    gland: Volume | None
    crop: str
    open_network: OpenNetwork
    roi: Volume | None = None
    _made: dict[object, tuple[Prepared, tuple[str, ...]]] = field(default_factory=dict)
    _found: tuple[Result | None, str] | None = None

    def of(self, spec: ModelSpec, on_window: OnWindow | None = None) -> tuple[Prepared, tuple[str, ...]]:
        """The input of a network, and what was decided for it, in sentences.

        Args:
            spec: The network.
            on_window: Called with the fraction that is done where the gland is looked for; may raise to stop.

        Raises:
            MissingSequenceError: The network needs a gland mask, and none can be had.
        """
        key = (spec.family, spec.task, spec.preprocess)
        if key not in self._made:
            self._made[key] = self._prepare(spec, on_window)
        return self._made[key]

    @property
    def known_gland(self) -> Volume | None:
        """The mask of the prostate that was given, comes with the case, or was found by a network; None as yet."""
        if self.gland is not None or self.case.gland is not None:
            return self.gland if self.gland is not None else self.case.gland
        return self._found[0].labels if self._found and self._found[0] else None

    def _prepare(self, spec: ModelSpec, on_window: OnWindow | None) -> tuple[Prepared, tuple[str, ...]]:
        gland = self.gland if self.gland is not None else self.case.gland
        notes: tuple[str, ...] = ()
        if gland is None and self._profits_from_gland(spec):
            anatomy, note = self._anatomy_by_network(on_window)
            gland, notes = anatomy.labels if anatomy else None, (note,)
            if gland is None and needs_gland(spec, self.crop, self.roi):
                raise MissingSequenceError(
                    f"Case '{self.case.id}' must come with a gland mask for {spec.title}, but has none. {note} "
                    "Select a mask of the prostate (--gland on the command line)."
                )
        prepared = prepare(self.case, spec, crop=self.crop, gland=gland, roi=self.roi)
        return prepared, (*notes, _centered(prepared), *self._roi_notes(prepared, spec))

    def _roi_notes(self, prepared: Prepared, spec: ModelSpec) -> tuple[str, ...]:
        if self.roi is None:
            return ()
        if spec.prediction_task.output == "image" and spec.preprocess.whole_volume:
            return (RESTORED_NOTE,)
        return (RIM_NOTE,) if Bounds.of(self.roi, prepared.geometry).exceeds(prepared.box) else ()

    def around(self, found: Result, prepared: Prepared, spec: ModelSpec) -> tuple[Prepared, tuple[str, ...]] | None:
        """The input for a second look, around what a network found, where the first look cut the prostate off.

        Args:
            found: What the network made of `prepared`.
            prepared: Its input, in the middle of the image.
            spec: The network.

        Returns:
            As `of`; None where a second look would show nothing new, or the user chose the crop.
        """
        if (
            self.crop != "auto"
            or self.roi is not None
            or prepared.centered_on != "image"
            or not reaches_edge(found, prepared)
        ):
            return None
        again = prepare(self.case, spec, crop="gland", gland=found.labels)
        return again, (SECOND_LOOK_NOTE, _centered(again))

    def _profits_from_gland(self, spec: ModelSpec) -> bool:
        """Whether a mask changes the input; a network that looks for the gland itself is not told where it is."""
        looks_for_middle = not spec.preprocess.whole_volume and self.crop != "center" and self.roi is None
        is_anatomy = spec.task is TaskId.ANATOMY_SEGMENTATION
        return needs_gland(spec, self.crop, self.roi) or (looks_for_middle and not is_anatomy)

    def _anatomy_by_network(self, on_window: OnWindow | None) -> tuple[Result | None, str]:
        if self._found is None:
            self._found = anatomy_by_network(self.case, self.open_network, on_window)
        return self._found

    @property
    def zones(self) -> dict[str, Volume]:
        """Zone name → mask, where the gland was found by a network that tells zones apart; else nothing."""
        anatomy = self._found[0] if self._found else None
        if anatomy is None or anatomy.labels is None:
            return {}
        zones = {name: value for name, value in anatomy.label_values.items() if name in ZONE_LABELS}
        return {n: anatomy.labels.with_array((anatomy.labels.array == v).astype(np.uint8)) for n, v in zones.items()}


def _centered(prepared: Prepared) -> str:
    return f"What the network saw was centered on: {prepared.centered_on}."


def anatomy_by_network(
    case: Case, open_network: OpenNetwork, on_window: OnWindow | None = None
) -> tuple[Result | None, str]:
    """The prostate, not empty, as the shipped pretrained network marks it, or None; and a sentence on either.

    Args:
        case: The study.
        open_network: Gives the loaded network of a bundle.
        on_window: As for `inference.infer`.
    """
    if Sequence.T2W not in case:
        return None, "The gland could not be looked for, since the case has no t2w."
    try:
        bundle, _ = default_pair(TaskId.ANATOMY_SEGMENTATION)
    except BundleError:
        return None, "The gland could not be looked for, since no gland segmentation bundle is installed."
    session = open_network(bundle)
    unused = Provenance(bundle.name, bundle.title, "", bundle.weights_sha256, "", "")
    inputs = CaseInputs(case, None, "auto", open_network)
    look: tuple[Prepared, tuple[str, ...]] | None = (prepare(case, bundle.spec), ())
    while look is not None:
        logits = infer(session, look[0], bundle.spec, on_window)
        anatomy = postprocess(logits, look[0], case, bundle.spec, unused)
        look = inputs.around(anatomy, look[0], bundle.spec)
    if anatomy.labels is None or not anatomy.labels.array.any():
        return None, f"Bundle '{bundle.name}' was asked for the gland and marked none."
    found_ml = anatomy.labels.volume_ml
    return anatomy, f"The gland was marked by bundle '{bundle.name}' ({found_ml:.1f} ml), since no mask was given."
