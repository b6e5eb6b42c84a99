"""How networks are run on a case: the options of a user, and what `auto` stands for in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..bundles.bundle import Bundle
from ..core.case import Case
from ..core.measurements import PHASE_AXES, checked_psa
from ..core.notes import Note
from ..core.terms import Sequence
from ..core.volume import Volume
from ..encoders.inputs import CROPS, REGIONS

AUTO = "auto"
# Ways of the patient's axes, against and along them.
_WAYS = {"left-right": ("the right", "the left"), "anterior-posterior": ("the front", "the back")}
AXIS_STATED = "phase-axis-stated"


@dataclass(frozen=True)
class PredictOptions:
    """How networks are run on a case.

    Attributes:
        runtime: `auto`, `onnx` or `torch`.
        device: `auto`, or a device of the runtime; see `runtimes.open_session`.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        gland: Mask of the prostate, before the case's own. Without one, networks that profit from knowing where the
            gland is get it from the shipped gland network, and the result's notes state so.
        roi: Mask of a region of interest: networks that see one crop see the one around it, and nothing is marked
            outside of it. Class probabilities and images are not cut.
        crop: `auto`, `gland` or `center`; see `encoders.inputs.prepare`. With `auto` a network that finds the gland is
            given no mask of it, by which it would be helped.
        threshold: Probability above which a voxel counts, instead of the network's own.
        only_cspca: Of a network that marks cancer grades, mark clinically significant cancer alone.
        phase_axis: Along which axis diffusion images are distorted: `left-right`, `anterior-posterior`, or `auto`: as
            DICOM states it, else `left-right`, which the notes of a result that depends on it state.
        psa_ng_ml: Prostate-specific antigen, for its density; nothing is predicted from it.
        region: `gland` where lesions are to be marked in the prostate and around it only, which takes less time and
            there gives the same; else `whole`. Other tasks do not heed it.

    Raises:
        ValueError: A word or a number is none of these.
        PsaError: The PSA cannot be one.
    """

    runtime: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    gland: Volume | None = None
    roi: Volume | None = None
    crop: str = "auto"
    threshold: float | None = None
    only_cspca: bool = False
    phase_axis: str = "auto"
    psa_ng_ml: float | None = None
    region: str = "whole"

    def __post_init__(self) -> None:
        if self.psa_ng_ml is not None:
            checked_psa(self.psa_ng_ml)
        if self.phase_axis not in (AUTO, *PHASE_AXES):
            raise ValueError(f"The phase axis must be one of auto, {', '.join(PHASE_AXES)}, got '{self.phase_axis}'.")
        if self.region not in REGIONS:
            raise ValueError(f"Region must be one of {', '.join(REGIONS)}, got '{self.region}'.")
        if self.crop not in CROPS:
            raise ValueError(f"Crop must be one of {', '.join(CROPS)}, got '{self.crop}'.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"The threshold must be a probability between 0 and 1, got {self.threshold}.")

    @property
    def recorded(self) -> dict[str, str | float | bool | None]:
        """The options that change what is predicted, as `result.json` records them."""
        names = ("crop", "threshold", "only_cspca", "phase_axis", *(["region"] if self.region != "whole" else []))
        return {name: getattr(self, name) for name in names}

    def min_confidence(self, bundle: Bundle) -> float | None:
        """Below which a place is no mark: the network's operating point, unless the user states a threshold."""
        point = bundle.operating_point
        return None if point is None or self.threshold is not None else point.min_confidence

    def predicts_as(self, recorded: Mapping[str, object], notes: Iterable[Note] | None = None) -> bool:
        """Whether these options predict what those predicted that `result.json` records.

        Args:
            recorded: The options there.
            notes: The notes there, of a result that depends on the phase axis. What `auto` found is `left-right` or
                stands in them; another axis was chosen.
        """
        axis = recorded.get("phase_axis")
        if self.phase_axis == AUTO and axis in PHASE_AXES:
            was_found = notes is None or axis == next(iter(PHASE_AXES)) or any(n.code == AXIS_STATED for n in notes)
            axis = AUTO if was_found else axis
        return {**recorded, "phase_axis": axis} == self.recorded


def resolve_phase_axis(case: Case, chosen: str) -> tuple[str, Note | None]:
    """Along which axis diffusion is distorted, and a sentence on how that is known; empty where the user chose it."""
    if chosen != AUTO:
        return chosen, None
    about = case.acquisitions.get(Sequence.HBV) or case.acquisitions.get(Sequence.ADC)
    if about is not None and about.phase_axis is not None:
        way = ""
        if about.is_phase_positive is not None:
            way = f", toward {_WAYS[about.phase_axis][about.is_phase_positive]} by the vendor's polarity"
        return about.phase_axis, Note(
            AXIS_STATED, f"Diffusion was encoded along {about.phase_axis}{way}, as DICOM states."
        )
    return next(iter(PHASE_AXES)), (
        Note(
            "phase-axis-assumed",
            "The phase-encoding axis is unknown; left-right was assumed. Run again with the correct axis if that is "
            "wrong.",
            "caution",
        )
    )
