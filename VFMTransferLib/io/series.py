"""What a DICOM series is: by its tags first, then by the words of its description."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .headers import Header

MIN_T2W_ECHO_MS = 60.0
MAX_T2W_ECHO_MS = 250.0  # above lie the heavily weighted series of urography
MIN_COS_AXIAL = 0.7  # nearer to axial than to any other plane
T2_WORDS = frozenset({"t2", "t2w", "t2wi"})
_NOT_T2_WORDS = frozenset(
    {"t1", "t1w", "pd", "ref", "dwi", "adc", "diff", "dce", "sag", "cor", "loc", "localizer", "scout", "survey", "map"}
)
_DIFFUSION_WORDS = frozenset({"dwi", "diff", "diffusion", "trace", "tracew", "hbv", "bval"})
_EXPONENTIAL_WORDS = frozenset({"eadc", "exp", "exponential"})
_RECONSTRUCTED = frozenset({"LOCALIZER", "PROJECTION IMAGE", "MPR", "SUBTRACT", "SUBTRACTION", "MIP", "COMPOSITE"})


@dataclass(frozen=True)
class Series:
    """The slices of one series, in no order.

    Attributes:
        headers: One a slice, at least one.
    """

    headers: tuple[Header, ...]

    @property
    def first(self) -> Header:
        return self.headers[0]

    @property
    def label(self) -> str:
        """What to call the series in messages: number, description, count; no identifiers."""
        name = self.first.description or "no description"
        return f"series {self.first.number or '?'} '{name}' ({len(self.headers)} images)"

    @property
    def b_values(self) -> set[float]:
        return {h.b_value for h in self.headers if h.b_value is not None}

    @property
    def highest_b(self) -> float:
        """Highest b value in s/mm²; 0 where none is stated."""
        return max(self.b_values, default=0.0)

    @property
    def is_axial_mr(self) -> bool:
        return self.first.modality == "MR" and abs(self.first.normal[2]) >= MIN_COS_AXIAL and self.first.frames == 1

    @property
    def is_reconstructed(self) -> bool:
        return bool(self.first.image_type & _RECONSTRUCTED)

    @property
    def is_adc(self) -> bool:
        first = self.first
        if first.words & _EXPONENTIAL_WORDS or "EADC" in first.image_type:
            return False
        by_name = any(w.endswith("adc") for w in first.words) or {"apparent", "diffusion"} <= first.words
        return "ADC" in first.image_type or by_name

    @property
    def is_calculated(self) -> bool:
        """A high-b image that the scanner computed."""
        return "CALC_BVALUE" in self.first.image_type or "calc" in self.first.description.lower()

    @property
    def is_diffusion(self) -> bool:
        first = self.first
        by_tags = "DIFFUSION" in first.image_type or "EP" in first.scanning_sequence
        by_name = bool(first.words & _DIFFUSION_WORDS)
        is_weighted = self.highest_b > 0  # some scanners write a b of 0 into every series
        return not self.is_adc and not first.words & _EXPONENTIAL_WORDS and (by_tags or by_name or is_weighted)

    @property
    def is_t2w(self) -> bool:
        first = self.first
        if self.is_diffusion or self.is_adc or first.words & _NOT_T2_WORDS:
            return False
        if first.scanning_sequence & {"GR", "EP"}:
            return False
        if "SE" in first.scanning_sequence and first.echo_time_ms is not None:
            return MIN_T2W_ECHO_MS <= first.echo_time_ms <= MAX_T2W_ECHO_MS
        return bool(first.words & T2_WORDS)


def grouped(headers: Iterable[Header]) -> list[Series]:
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.series_uid].append(header)
    return [Series(tuple(group)) for group in groups.values()]


def listed(series: Iterable[Series]) -> str:
    """Series as a message lists them, each with a file by which a user can name it."""
    return "; ".join(f"{s.label[:-1]}, such as {s.first.path.name})" for s in series)
