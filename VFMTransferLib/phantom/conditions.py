"""What phantoms may deviate in from the default: body, coil, scanner, protocol and artifacts, one parameter each.

The default changes no voxel. A `PhantomRange` states how often each deviation is drawn; recipes and studies name one.
Numbers are round and ours: they cover what public multi-center collections show, and are fitted to no exam.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np

from ..core.decoding import Limits, Share
from ..core.volume import Geometry, Triple
from .gland import LESION_MM, LESION_RANGE_MM, LESIONS_IN_TRANSITION, Gland
from .pelvis import Habitus
from .scanner import EchoPlanar, Scanner, SpinEcho

Vendor = Literal["siemens", "philips", "ge"]
FIELDS_TESLA = (1.5, 3.0)
GLAND_RANGE_ML = (8.0, 260.0)
VIEW_RANGE_MM = (100.0, 320.0)
_VIEW_MARGIN_MM = 24.0  # of the field of view beyond the gland, at least
_COIL_RADIUS_MM, _COIL_PUSH_MM = (17.0, 23.0), (4.0, 9.0)
_COIL_SQUEEZE = (1.10, 0.80, 1.08)  # of the gland's half axes (x, y, z) by the balloon
_OFTEN = 0.9  # probability of a lesion to lie in the transition zone, in phantoms with more of them there
_NOISE_AT_1_5_T = 2.0  # signal to noise goes with the field

_RANGES = (
    "gland_ml",
    "slice_mm",
    "isotropic_mm",
    "field_of_view_mm",
    "lesion_mm",
    "misregistration_mm",
    "off_resonance",
)

GlandMl = Annotated[float, Limits(minimum=GLAND_RANGE_ML[0], maximum=GLAND_RANGE_ML[1])]
SliceMm = Annotated[float, Limits(minimum=1.0, maximum=8.0)]
IsotropicMm = Annotated[float, Limits(minimum=0.5, maximum=3.0)]
ViewMm = Annotated[float, Limits(minimum=VIEW_RANGE_MM[0], maximum=VIEW_RANGE_MM[1])]
LesionMm = Annotated[float, Limits(minimum=LESION_RANGE_MM[0], maximum=LESION_RANGE_MM[1])]
ApartMm = Annotated[float, Limits(minimum=0.0, maximum=10.0)]
OffResonance = Annotated[float, Limits(minimum=0.0, maximum=5.0)]


@dataclass(frozen=True)
class VendorProtocol:
    """How one vendor's T2w of the prostate usually comes out: ranges of what is drawn.

    Attributes:
        shading: Strength of the coil's uneven gain that the vendor's own correction leaves over.
        kept: Fraction of k-space along (rows, columns) that was measured; the rest is interpolated.
        apparent_t2: Factor of T2 by the refocusing train: low flip angles mix T1 in and flatten contrast.
        full_scale: Stored value of water at TE 0.
    """

    tr_ms: tuple[float, float]
    te_ms: tuple[float, float]
    shading: tuple[float, float]
    kept: tuple[tuple[float, float], tuple[float, float]]
    apparent_t2: tuple[float, float]
    full_scale: tuple[float, float]


VENDORS: dict[str, VendorProtocol] = {
    "siemens": VendorProtocol(
        (4000, 7500), (98, 112), (0.1, 0.6), ((0.72, 1.0), (0.85, 1.0)), (0.95, 1.1), (500, 1000)
    ),
    "philips": VendorProtocol(
        (2800, 5000), (90, 125), (0.05, 0.4), ((0.6, 0.9), (0.7, 0.95)), (1.05, 1.35), (900, 2600)
    ),
    "ge": VendorProtocol((3000, 4800), (88, 135), (0.6, 1.5), ((0.45, 0.75), (0.5, 0.8)), (0.9, 1.15), (1800, 6000)),
}
ISOTROPIC = VendorProtocol((1500, 2200), (95, 130), (0.1, 0.6), ((0.8, 1.0), (0.8, 1.0)), (1.15, 1.4), (300, 900))


@dataclass(frozen=True)
class Conditions:
    """How one phantom deviates from the default; each parameter alone, or all together.

    Attributes:
        tesla: 1.5 has shorter T1, longer T2, twice the noise and half the off-resonance.
        vendor: Contrast, shading, interpolation and numbers of one vendor's T2w; None for the default's.
        endorectal_coil: A balloon in the rectum, its bright near field, and the gland pushed forward and flattened.
        hip_implants: 0, 1 (left) or 2: metal heads with void, pile-up and their field in diffusion.
        hemorrhage: Share of the peripheral zone after a biopsy: dark on T2w, moderately low ADC. Not a lesion.
        gland_ml: Volume of the prostate, about; None for a random one.
        slice_mm: Thickness of T2w's slices; None for the option's.
        isotropic_mm: Edge of the voxels of a 3D T2w; None for slices.
        field_of_view_mm: Of T2w; None for the option's. It is widened where the gland needs it.
        interleave: By how much every other slice is darker, 0..0.5.
        ghosts: Strength of the ghosts along the phase axis against the image, 0..0.3; of diffusion the N/2 ghost.
        motion_mm: Deviation of the patient's place between the shots of T2w.
        surroundings: What lies outside of the gland as on a scan at b 1400: dark blood, nerves, lymph nodes, bowel
            loops, uneven muscle and coil, fat that saturation missed, and nothing shown where signal is weak.
        lesion_mm: Median of the lesions' longest axis.
        lesions_in_transition: Probability of a lesion to lie in the transition zone.
        misregistration_mm: How far diffusion lies beside T2w, in a direction that the seed draws, as where the prostate
            moved in between. Labels stay T2w's.
        off_resonance: Factor of the field that distorts diffusion: of gas in the rectum, and what a shim leaves over.
    """

    tesla: float = 3.0
    vendor: Vendor | None = None
    endorectal_coil: bool = False
    hip_implants: Annotated[int, Limits(minimum=0, maximum=2)] = 0
    hemorrhage: Share = 0.0
    gland_ml: GlandMl | None = None
    slice_mm: SliceMm | None = None
    isotropic_mm: IsotropicMm | None = None
    field_of_view_mm: ViewMm | None = None
    interleave: Annotated[float, Limits(minimum=0.0, maximum=0.5)] = 0.0
    ghosts: Annotated[float, Limits(minimum=0.0, maximum=0.3)] = 0.0
    motion_mm: Annotated[float, Limits(minimum=0.0, maximum=6.0)] = 0.0
    surroundings: bool = False
    lesion_mm: LesionMm = LESION_MM
    lesions_in_transition: Share = LESIONS_IN_TRANSITION
    misregistration_mm: ApartMm = 0.0
    off_resonance: OffResonance = 1.0

    def __post_init__(self) -> None:
        if self.tesla not in FIELDS_TESLA:
            raise ValueError(f"tesla must be one of {', '.join(f'{t:g}' for t in FIELDS_TESLA)}, got {self.tesla:g}")
        if self.vendor is not None and self.vendor not in VENDORS:
            raise ValueError(f"vendor must be one of {', '.join(VENDORS)}, got '{self.vendor}'")
        if self.slice_mm is not None and self.isotropic_mm is not None:
            raise ValueError("a T2w must have slice_mm or isotropic_mm, got both")

    def spacing_mm(self, asked: Triple) -> Triple:
        """Voxel of the T2w (x, y, z), where the option asks for another."""
        if self.isotropic_mm is not None:
            return (self.isotropic_mm,) * 3
        return asked if self.slice_mm is None else (*asked[:2], self.slice_mm)

    def view_mm(self, asked: float, gland: Gland) -> float:
        """Edge of the T2w's field of view, which shows the whole gland."""
        if self.field_of_view_mm is None:
            return asked
        return max(self.field_of_view_mm, 2 * max(gland.half_mm[:2]) + _VIEW_MARGIN_MM)

    def body(self, gland: Gland, habitus: Habitus, rng: np.random.Generator) -> tuple[Gland, Habitus]:
        """The body with an endorectal coil in it."""
        if not self.endorectal_coil:
            return gland, habitus
        half: Triple = tuple(h * s for h, s in zip(gland.half_mm, _COIL_SQUEEZE, strict=True))  # type: ignore[assignment]
        x, y, z = gland.center_mm
        push = float(rng.uniform(*_COIL_PUSH_MM))
        center = (x, y + gland.half_mm[1] - half[1] - push, z)
        moved = replace(gland, half_mm=half, center_mm=center, turn_deg=(gland.turn_deg[0] / 2, *gland.turn_deg[1:]))
        radius = float(rng.uniform(*_COIL_RADIUS_MM))
        return moved, replace(habitus, rectum_radius_mm=radius, rectum_content="balloon")

    def scanner(self, scanner: Scanner, rng: np.random.Generator) -> tuple[Scanner, VendorProtocol | None]:
        """The T2w's protocol, and the vendor's ranges from which it was drawn."""
        noise = scanner.noise * (_NOISE_AT_1_5_T if self.tesla < FIELDS_TESLA[1] else 1.0)
        how = ISOTROPIC if self.isotropic_mm is not None else VENDORS.get(self.vendor or "")
        if how is None:
            return replace(scanner, noise=noise), None
        echo = SpinEcho(float(rng.uniform(*how.tr_ms)), float(rng.uniform(*how.te_ms)))
        rows, columns = how.kept
        kept = (float(rng.uniform(*rows)), float(rng.uniform(*columns)))
        return Scanner(echo, noise, float(rng.uniform(*how.shading)), kept), how

    def moved(self, t2w: Geometry, rng: np.random.Generator) -> Geometry:
        """Where the tissue that T2w's grid shows lies when diffusion is acquired."""
        direction = rng.standard_normal(3)
        shift = self.misregistration_mm * direction / np.linalg.norm(direction)
        origin: Triple = tuple(np.add(t2w.origin_mm, shift).tolist())
        return replace(t2w, origin_mm=origin)

    def echo_planar(self, protocol: EchoPlanar) -> EchoPlanar:
        """Diffusion's protocol at this field."""
        protocol = replace(protocol, field_strength=protocol.field_strength * self.off_resonance)
        if self.tesla == protocol.tesla:
            return protocol
        return replace(protocol, tesla=self.tesla, noise=protocol.noise * _NOISE_AT_1_5_T)


@dataclass(frozen=True)
class PhantomRange:
    """How often each deviation is drawn: shares of the phantoms, and the ranges of what is drawn then.

    What is not stated is as wide as it goes: `{}` in a recipe is the whole range, `{"hip_implants": 0}` lacks implants.
    """

    tesla: tuple[float, ...] = FIELDS_TESLA
    vendors: tuple[Vendor, ...] = ("siemens", "philips", "ge")
    endorectal_coil: Share = 0.12
    hip_implants: Share = 0.08
    hemorrhage: Share = 0.2
    unusual_gland: Share = 0.25
    gland_ml: tuple[GlandMl, GlandMl] = (12.0, 220.0)
    thick_slices: Share = 0.25
    slice_mm: tuple[SliceMm, SliceMm] = (3.5, 6.0)
    isotropic: Share = 0.08
    isotropic_mm: tuple[IsotropicMm, IsotropicMm] = (0.9, 1.3)
    other_view: Share = 0.4
    field_of_view_mm: tuple[ViewMm, ViewMm] = (120.0, 260.0)
    interleave: Share = 0.3
    ghosts: Share = 0.25
    motion: Share = 0.3
    surroundings: Share = 0.8
    large_lesions: Share = 0.25
    lesion_mm: tuple[LesionMm, LesionMm] = (15.0, 26.0)
    transition_lesions: Share = 0.3
    misregistration: Share = 0.3
    misregistration_mm: tuple[ApartMm, ApartMm] = (0.5, 4.0)
    strong_distortion: Share = 0.3
    off_resonance: tuple[OffResonance, OffResonance] = (1.5, 4.0)

    def __post_init__(self) -> None:
        for name in _RANGES:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must run from a smaller to a larger number, got {low:g}, {high:g}")
        for tesla in self.tesla:
            Conditions(tesla=tesla)
        if not self.tesla:
            raise ValueError("tesla must name a field at least, got none")

    def draw(self, rng: np.random.Generator) -> Conditions:
        """The conditions of one phantom. Each is drawn whether it applies or not, so that shares leave others alone."""

        def one_of(share: float, value: Callable[[], float]) -> float | None:
            happens, drawn = rng.random() < share, float(value())
            return drawn if happens else None

        tesla = self.tesla[int(rng.integers(len(self.tesla)))]
        vendor = self.vendors[int(rng.integers(len(self.vendors)))] if self.vendors else None
        coil = bool(rng.random() < self.endorectal_coil)
        hips = one_of(self.hip_implants, lambda: float(rng.integers(1, 3)))
        blood = one_of(self.hemorrhage, lambda: rng.uniform(0.1, 0.6))
        gland_ml = one_of(self.unusual_gland, lambda: np.exp(rng.uniform(*np.log(self.gland_ml))))
        thick = one_of(self.thick_slices, lambda: rng.uniform(*self.slice_mm))
        isotropic = one_of(self.isotropic, lambda: rng.uniform(*self.isotropic_mm))
        view = one_of(self.other_view, lambda: rng.uniform(*self.field_of_view_mm))
        return Conditions(
            tesla=tesla,
            vendor=vendor,
            endorectal_coil=coil,
            hip_implants=int(hips or 0),
            hemorrhage=blood or 0.0,
            gland_ml=gland_ml,
            slice_mm=None if isotropic else thick,
            isotropic_mm=isotropic,
            field_of_view_mm=view,
            interleave=one_of(self.interleave, lambda: rng.uniform(0.03, 0.25)) or 0.0,
            ghosts=one_of(self.ghosts, lambda: rng.uniform(0.02, 0.12)) or 0.0,
            motion_mm=one_of(self.motion, lambda: rng.uniform(0.3, 2.0)) or 0.0,
            surroundings=bool(rng.random() < self.surroundings),
            lesion_mm=one_of(self.large_lesions, lambda: rng.uniform(*self.lesion_mm)) or LESION_MM,
            lesions_in_transition=_OFTEN if rng.random() < self.transition_lesions else LESIONS_IN_TRANSITION,
            misregistration_mm=one_of(self.misregistration, lambda: rng.uniform(*self.misregistration_mm)) or 0.0,
            off_resonance=one_of(self.strong_distortion, lambda: rng.uniform(*self.off_resonance)) or 1.0,
        )
