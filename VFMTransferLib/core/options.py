"""How networks are run: one record for the command line, Python, the worker's messages, cohorts and Slicer.

Plain values only; masks belong to the case. Each field's metadata holds what a surface needs to offer it: `help`,
`choices` or `parse`, `unit`, `group` and `flag`. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, get_args

from .decoding import Limits
from .measurements import PhaseAxis, checked_psa, read_psa

AUTO = "auto"
RuntimeName = Literal["auto", "onnx", "torch"]
PrecisionName = Literal["auto", "fp32", "fp16", "bf16"]
CropName = Literal["auto", "gland", "center"]
RegionName = Literal["whole", "gland"]
PhaseAxisChoice = Literal["auto", PhaseAxis]
RUNTIMES: tuple[str, ...] = get_args(RuntimeName)
PRECISIONS: tuple[str, ...] = get_args(PrecisionName)
CROPS: tuple[str, ...] = get_args(CropName)
REGIONS: tuple[str, ...] = get_args(RegionName)
PHASE_AXIS_CHOICES: tuple[str, ...] = (AUTO, *get_args(PhaseAxis))


def read_probability(text: str) -> float:
    """A probability as a user writes it; ValueError where it is not a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"must be a number from 0 to 1, e.g. 0.5, got '{text:.20}'")
    return value


def _about(
    text: str,
    group: str,
    choices: tuple[str, ...] = (),
    parse: Callable[[str], Any] = str,
    unit: str = "",
    flag: str = "",
) -> dict[str, Any]:
    return {"help": text, "group": group, "choices": choices, "parse": parse, "unit": unit, "flag": flag}


@dataclass(frozen=True)
class Options:
    """How networks are run on a case.

    Attributes:
        runtime: `auto`, `onnx` or `torch`.
        device: `auto`, or a device of the runtime; see `runtimes.open_session`.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        crop: `auto`, `gland` or `center`; see `encoders.inputs.prepare`. With `auto` a network that finds the gland is
            given no mask of it, by which it would be helped.
        region: `gland` marks lesions in the prostate and around it only, which takes less time and gives the same
            there; or `whole`. Other tasks do not heed it.
        threshold: Probability above which a voxel counts, instead of the network's own.
        only_cspca: Of a network that marks cancer grades, mark clinically significant cancer alone.
        phase_axis: Along which axis diffusion images are distorted: `left-right`, `anterior-posterior`, or `auto`: as
            DICOM states it, else `left-right`, which the notes of a result that depends on it state.
        psa_ng_ml: Prostate-specific antigen, for its density; nothing is predicted from it.

    Raises:
        ValueError: A word or a number is not among the choices.
        PsaError: The PSA cannot be one.
    """

    runtime: RuntimeName = field(
        default="auto", metadata=_about("what runs the network (default: ONNX Runtime)", "running", RUNTIMES)
    )
    device: str = field(
        default="auto", metadata=_about("as `vfm-transfer doctor` lists them (default: the best)", "running", unit="D")
    )
    precision: PrecisionName = field(
        default="auto", metadata=_about("floating-point precision (default: fp32)", "running", PRECISIONS)
    )
    crop: CropName = field(
        default="auto", metadata=_about("where the crop lies (default: on the gland, if known)", "network", CROPS)
    )
    region: RegionName = field(
        default="whole",
        metadata=_about(
            "where lesions are marked: gland takes less time and gives the same there (default: %(default)s)",
            "network",
            REGIONS,
        ),
    )
    threshold: Annotated[float, Limits(minimum=0.0, maximum=1.0)] | None = field(
        default=None,
        metadata=_about(
            "probability above which a voxel counts (default: the network's)",
            "network",
            parse=read_probability,
            unit="P",
        ),
    )
    only_cspca: bool = field(
        default=False, metadata=_about("of cancer grades, mark clinically significant cancer alone", "network")
    )
    phase_axis: PhaseAxisChoice = field(
        default="auto",
        metadata=_about(
            "phase-encoding axis of the diffusion images (default: as DICOM states it, else left-right)",
            "network",
            PHASE_AXIS_CHOICES,
        ),
    )
    psa_ng_ml: float | None = field(
        default=None,
        metadata=_about(
            "prostate-specific antigen in ng/ml, for the PSA density in the results",
            "images",
            parse=read_psa,
            unit="X",
            flag="psa",
        ),
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            value, choices = getattr(self, option.name), option.metadata["choices"]
            if choices and value not in choices:
                title = option.name.replace("_", " ")
                raise ValueError(f"The {title} '{value}' is not known. Choose one of {', '.join(choices)}.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"The threshold {self.threshold} is not a probability. Choose one between 0 and 1.")
        if self.psa_ng_ml is not None:
            checked_psa(self.psa_ng_ml)

    @property
    def engine(self) -> dict[str, str]:
        """What runs a network, as `runtimes.open_session` takes it."""
        return {"runtime": self.runtime, "device": self.device, "precision": self.precision}

    @property
    def recorded(self) -> Mapping[str, str | float | bool | None]:
        """The options that change what is predicted, as `result.json` records them."""
        names = ("crop", "threshold", "only_cspca", "phase_axis", *(["region"] if self.region != "whole" else []))
        return {name: getattr(self, name) for name in names}
