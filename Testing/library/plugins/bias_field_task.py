"""A seventh task in one file: remove the slow shading that a receive coil leaves on T2w."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.notes import Note
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.phantom import Phantom
from VFMTransferLib.phantom.canvas import Lattice, smooth_field
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.tasks.image_to_image import ImageTask

CORRECTED = "t2w-bias-corrected"
STRENGTH, SMOOTHNESS_MM = 0.3, 60.0  # standard deviation of the field's logarithm, and how slowly it varies


class BiasFieldCorrection(ImageTask):
    """Truth: the T2w as it is; the network sees it times a random smooth field, and adds what is missing."""

    id = "bias-field-correction"
    title = "Bias-field correction"
    short_title = "bias field"
    network_title = "bias-field correction of T2w"
    sequences = (Sequence.T2W,)
    outputs = (CORRECTED,)
    decoded_note = Note("decoding", "The network adds to the T2w what its shading took away.")

    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        return self._shaded(self.labeled(phantom.case, gland=phantom.gland), zlib.crc32(phantom.case.id.encode()))

    def from_scan(self, case: Case, *, seed: int = 0, gland: Volume | None = None) -> LabeledCase:
        return self._shaded(self.labeled(case, gland=gland, is_phantom=False), seed)

    def _shaded(self, labeled: LabeledCase, seed: int) -> LabeledCase:
        t2w = labeled.case[Sequence.T2W]
        lattice = Lattice(t2w.geometry.shape, t2w.geometry.spacing_mm[::-1])
        field = np.exp(STRENGTH * smooth_field(lattice, np.random.default_rng(seed), SMOOTHNESS_MM))
        shaded = t2w.with_array((t2w.array * field).astype(np.float32))
        return replace(labeled, case=replace(labeled.case, volumes={Sequence.T2W: shaded}), images={CORRECTED: t2w})


TASK = BiasFieldCorrection()
