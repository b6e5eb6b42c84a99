"""How a network is trained: one description for recipes, commands and transfer studies. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from ..core.decoding import OMITTED, Limits, NotNegative, Share
from ..encoders.pretext import MOST_DROPPED

COOL_DOWN = 0.2  # part of the maximum of steps in which the rate of a training with patience falls
PRETRAINING_RATE = 1e-3
Precision = Literal["float32", "bfloat16"]

Factor = Annotated[float, Limits(minimum=1.0)]
Positive = Annotated[float, Limits(above=0.0)]
Count = Annotated[int, Limits(minimum=1)]


@dataclass(frozen=True)
class Augmentation:
    """How far a random view may go from the case; the defaults are those of the shipped networks."""

    rotation_deg: tuple[NotNegative, NotNegative, NotNegative] = (10.0, 10.0, 25.0)  # largest about (x, y, z)
    log_scale: NotNegative = 0.25  # largest logarithm of the common scale
    log_axis_scale: NotNegative = 0.12  # and of each axis' own
    shift_mm: tuple[NotNegative, NotNegative, NotNegative] = (12.0, 12.0, 10.0)  # largest along (x, y, z)
    flip: Share = 0.5  # probability of mirroring left and right
    elastic: Share = 0.7  # probability of a smooth random warp
    elastic_mm: NotNegative = 5.0  # its largest displacement
    narrow: Share = 0.3  # probability of a narrower field of view
    narrowest: Annotated[float, Limits(above=0.0, maximum=1.0)] = 0.6  # its smallest part of each axis
    gamma: Share = 0.5  # probability of another exponent
    log_gamma: NotNegative = 0.4  # its largest logarithm
    bias: Share = 0.5  # probability of a smooth brightness field
    log_bias: NotNegative = 0.4  # its largest logarithm
    near_coil: Share = field(default=0.0, metadata=OMITTED)  # probability of an endorectal coil's gain
    contrast: Share = 0.15  # probability of a random tone curve
    thick: Share = 0.2  # probability of thicker slices
    thickest_mm: Factor = 6.0  # where the network's slices are 1 mm; else as many times their thickness
    coarse: Share = 0.25  # probability of a lower resolution in the plane
    coarsest: Factor = 2.5  # its largest factor
    noise: Share = 0.4  # probability of Gaussian noise
    noise_std: NotNegative = 0.25  # its largest deviation, in units of the image's
    level: NotNegative = 0.2  # largest change of mean and of logarithmic scale of all intensities
    # Largest shift of diffusion against T2w along either axis in plane, as when the prostate moves between the scans;
    # the truth stays where T2w is. Of networks whose truth is no image.
    misregistration_mm: NotNegative = field(default=0.0, metadata=OMITTED)
    # Probability that places of the high-b image alone are brighter or darker, as where echo-planar distortion piles
    # signal up; ADC, a ratio, does not show it.
    pile_up: Share = field(default=0.0, metadata=OMITTED)


NO_AUGMENTATION = Augmentation(
    rotation_deg=(0.0, 0.0, 0.0),
    log_scale=0.0,
    log_axis_scale=0.0,
    shift_mm=(0.0, 0.0, 0.0),
    **dict.fromkeys(("flip", "elastic", "narrow", "gamma", "bias", "contrast", "thick", "coarse", "noise"), 0.0),
    level=0.0,
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and on what views a network learns; the same for both arms.

    Attributes:
        steps: Of the optimizer; with `patience` the maximum.
        learning_rate: The highest.
        encoder_learning_rate: That of the encoder where it differs: a lower one leaves it more of its pretraining.
        patience: Part of the steps after which a validation score that has not improved ends the training. The rate
            then stays at its highest until it falls over `COOL_DOWN` of the steps. None: all steps.
        batch: Samples a step, of all processes; None: the family's or the pretext task's.
        precision: Of matrix products and convolutions.
        seed: Of head, order, samples, and of what is random in a pretext task.
        augmentation: None: the task's.
        drop_path: Stochastic depth of the encoder; None: the task's.
        phantom_share: Part of the samples that show a phantom, where real cases train.
        measure_every: Steps between measurements on validation cases; None: a tenth of all.
        checkpoint_every: Steps between checkpoints.
        warm_up: Part of the steps in which the rate rises linearly; then it falls as a half cosine to 0.
        weight_decay: Of matrices and kernels; not of biases, norms and GRN.
        betas: AdamW's.
        clip: Largest norm of the gradient.
        averaging: Decay of the exponential moving average of the weights, which is what a run yields.
    """

    steps: Count
    learning_rate: Positive = 2e-3  # at 1e-3 two hundred steps taught ProViCNet no displacement; 3e-3 overfitted
    encoder_learning_rate: Positive | None = None
    patience: Annotated[float, Limits(above=0.0, maximum=1.0)] | None = None
    batch: Count | None = None
    precision: Precision = "float32"
    seed: int = 0
    augmentation: Augmentation | None = None
    drop_path: Annotated[float, Limits(minimum=0.0, maximum=MOST_DROPPED)] | None = None
    phantom_share: Annotated[float, Limits(minimum=0.0, maximum=0.999)] = 0.0
    measure_every: Count | None = None
    checkpoint_every: Count = 50
    warm_up: Share = 0.04
    weight_decay: NotNegative = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    clip: Positive = 1.0
    averaging: Share = 0.998

    @property
    def cooling(self) -> int:
        """Steps in which the rate of a training with patience falls to 0."""
        return max(round(COOL_DOWN * self.steps), 1)

    def plateau(self, points: Iterable[tuple[float, float]]) -> int | None:
        """The measured step at which the best score was older than the patience; None where it still improved.

        Args:
            points: Step and score, larger is better, oldest first; a score that is not a number is none.
        """
        if self.patience is None:
            return None
        best, best_step = -math.inf, 0.0
        for step, score in points:
            if step > self.steps - self.cooling:  # there the rate falls in any case
                break
            if score > best:
                best, best_step = score, step
            elif step - best_step >= self.patience * self.steps and math.isfinite(best):
                return int(step)
        return None

    def end(self, plateau: int | None) -> int:
        """The step at which a training ends."""
        return self.steps if plateau is None else min(plateau + self.cooling, self.steps)

    def rate(self, step: int, plateau: int | None = None) -> float:
        """Learning rate of a step, 0 .. steps - 1."""
        rising = max(round(self.warm_up * self.steps), 1)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        start, length = rising, max(self.steps - rising, 1)
        if self.patience is not None:
            start, length = max(self.end(plateau) - self.cooling, rising), self.cooling
            if step < start:
                return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - start) / length))
