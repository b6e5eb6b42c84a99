"""Tissues of the male pelvis as MR sees them at 3 T.

T1 and T2 of muscle, fat, marrow and prostate follow de Bazelaire et al., Radiology 230:652 (2004) and
Bojorquez et al., Magn Reson Imaging 35:69 (2017). Fat and marrow carry a longer, apparent T2, because the
refocusing train of a turbo spin echo undoes their J-coupling (Henkelman et al., J Magn Reson Imaging 4:533
(1994)). ADC of cancer falls with its grade as in Hambrock et al., Radiology 259:453 (2011): medians of 1.30,
1.07 and 0.94 mm²/s e-3 for low, intermediate and high grade. Single numbers are round and lie inside the
published ranges; the phantom varies them from case to case.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class Tissue:
    """What the signal equations need of one tissue: proton density relative to water, T1, T2 as a turbo spin echo sees
    it, ADC (1e-6 mm²/s), and the standard deviation of the logarithm of T2 over the tissue's fine texture.
    """

    pd: float
    t1_ms: float
    t2_ms: float
    adc: float
    grain: float

    @property
    def values(self) -> np.ndarray:
        """The parameters in the order of `PARAMETERS`, float32."""
        return np.array(astuple(self), dtype=np.float32)

    def scaled(self, t2: float = 1.0, adc: float = 1.0) -> Tissue:
        """The same tissue with T2 and ADC times a factor."""
        return replace(self, t2_ms=self.t2_ms * t2, adc=self.adc * adc)


PARAMETERS = tuple(field.name for field in fields(Tissue))
AIR = Tissue(0.0, 1000, 50, 0, 0.0)
FAT = Tissue(0.92, 380, 160, 80, 0.05)
MARROW = Tissue(0.84, 480, 140, 200, 0.10)
RED_MARROW = Tissue(0.76, 560, 120, 300, 0.13)
CORTEX = Tissue(0.12, 1000, 20, 300, 0.10)
CARTILAGE = Tissue(0.65, 1200, 38, 1100, 0.15)
SYNOVIA = Tissue(0.8, 2000, 110, 1800, 0.25)
SKIN = Tissue(0.75, 900, 45, 700, 0.10)
MUSCLE = Tissue(0.80, 1300, 36, 1350, 0.16)
SMOOTH_MUSCLE = Tissue(0.82, 1350, 46, 1300, 0.15)
LOOSE = Tissue(0.80, 700, 88, 500, 0.15)
FASCIA = Tissue(0.45, 900, 38, 600, 0.10)
URINE = Tissue(1.0, 4000, 600, 2900, 0.01)
STOOL = Tissue(0.55, 900, 48, 900, 0.55)
GEL = Tissue(0.98, 3000, 420, 2300, 0.05)
FLOWING_BLOOD = Tissue(0.10, 1600, 30, 1500, 0.20)
VENOUS_BLOOD = Tissue(0.45, 1600, 60, 1500, 0.30)
SLOW_BLOOD = Tissue(0.95, 1600, 190, 1800, 0.10)
PERIPHERAL_ZONE = Tissue(0.90, 1900, 165, 1700, 0.22)
TRANSITION_ZONE = Tissue(0.86, 1600, 78, 1350, 0.26)
CENTRAL_ZONE = Tissue(0.84, 1500, 68, 1150, 0.16)
FIBROMUSCULAR = Tissue(0.80, 1350, 46, 1100, 0.14)
CAPSULE = Tissue(0.70, 1300, 42, 1000, 0.05)
GLANDULAR_NODULE = Tissue(0.92, 1900, 145, 1750, 0.30)
STROMAL_NODULE = Tissue(0.82, 1450, 64, 1080, 0.18)
SEMINAL_FLUID = Tissue(0.95, 2300, 230, 1900, 0.10)
SEMINAL_WALL = Tissue(0.82, 1400, 66, 1400, 0.15)
HEMORRHAGE = Tissue(0.84, 850, 62, 1080, 0.16)  # weeks after a biopsy: T1 and T2 short, ADC moderately low
NERVE = Tissue(0.85, 1300, 82, 1150, 0.10)
LYMPH_NODE = Tissue(0.88, 1400, 88, 980, 0.08)
BOWEL_WALL = Tissue(0.85, 1350, 66, 1150, 0.12)
CHYME = Tissue(0.90, 2200, 180, 2200, 0.35)
METAL = Tissue(0.0, 1000, 10, 0, 0.0)
# At b 1400 blood that flows gives no signal: its apparent ADC is that of perfusion.
DARK_BLOOD = {blood: replace(blood, adc=3500.0) for blood in (FLOWING_BLOOD, VENOUS_BLOOD, SLOW_BLOOD)}

CANCER_ADC = {1: 1300.0, 2: 1100.0, 3: 990.0, 4: 890.0, 5: 780.0}
CANCER_T2_MS = {1: 92.0, 2: 82.0, 3: 77.0, 4: 72.0, 5: 67.0}


def cancer(isup_grade: int) -> Tissue:
    """Cancer of an ISUP grade group, 1..5: the higher, the denser, and so the lower T2 and ADC."""
    return Tissue(0.86, 1500, CANCER_T2_MS[isup_grade], CANCER_ADC[isup_grade], 0.09)
