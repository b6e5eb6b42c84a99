"""The pretext task `synthetic`, of any family: from images of random appearance back to the tissue that they show.

A phantom is known by the tissue that it is made of. At every sample it is scanned again, by a contrast, coil, noise and
resolution drawn at random and with sequences missing, and the network gives the tissue: T2, proton density and ADC, the
signed distance to the prostate's capsule, and its zones. `synthetic-contrastive` is the variant without a decoder: two
appearances of one anatomy have equal features at each place.

The idea is that of SynthSeg (Billot et al., Med Image Anal 86:102789 (2023)) and anatomix (arXiv 2411.02372): what is
learned from images of every appearance holds for the appearance of any scanner. What is drawn, the targets and their
weights are this project's own. No label of a patient enters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..core.terms import Sequence
from ..layers.blocks import resize
from .base import NEIGHBORS, ModelSpec, family_of
from .dense_pretext import dense_network, with_encoders_of
from .inputs import neighbor_slices
from .pretext import PretextTask, View

OUTPUTS = ("t2", "pd", "adc", "capsule", "background", "peripheral", "transition")
_MAPS, _ZONES = slice(0, 3), slice(4, 7)
_CAPSULE = 3
# Middle and spread by which a map becomes a target: logarithm of T2 in ms, proton density, ADC in 1e-6 mm²/s.
_LOG_T2, _PD, _ADC = (math.log(100.0), 0.5), (0.75, 0.25), (1200.0, 600.0)
_CAPSULE_MM = 10.0
_TISSUE_PD = 0.05  # below is air
_GLAND_WEIGHT = 4.0  # of the gland's voxels beside 1 of all
_TARGET_STRIDE = 2  # of volumes: finer than the networks' own maps
_FREE_CONTRAST, _NEAR_COIL, _COARSE, _THICK, _BY_GLAND = 0.3, 0.2, 0.5, 0.3, 0.5  # probabilities
_FAT_T1_MS, _WATER_T1_MS = 850.0, 1250.0
_MIN_GLAND_VOXELS = 100
_LEAST_NOISE = 0.005  # deviation, in units of the mean signal of tissue
_OWN = "network."  # of the encoder within `ProjectedEncoder`


@dataclass(frozen=True)
class SyntheticTissues(PretextTask):
    """Tissue maps, zones and distance to the capsule from one random appearance.

    Attributes:
        diffusion_missing: Probability that both diffusion sequences are missing, as for tasks of T2w alone; none where
            the network takes no T2w.
        missing: Probability, of each sequence, that it is missing for itself; one always stays.
        noise: Largest deviation of noise, in units of the mean signal of tissue.
    """

    name = "synthetic"
    version = 2
    needs_maps = True

    limits = MappingProxyType({"diffusion_missing": (0, 1), "missing": (0, 1), "noise": (_LEAST_NOISE, 1)})

    diffusion_missing: float = 0.35
    missing: float = 0.1
    noise: float = 0.12

    @property
    def batch(self) -> int:  # type: ignore[override]
        """Views a step: as many as a fine-tuning to dense logits shows."""
        return family_of(self.spec).batch_size(self.learned)

    @property
    def learned(self) -> ModelSpec:
        """The network that learns."""
        return dense_network(self.spec, self.name, OUTPUTS)

    def build(self) -> nn.Module:
        """The encoders with the decoder that is dropped afterwards."""
        return family_of(self.spec).build_for_training(self.learned)

    def sample(self, view: View, generator: Generator) -> tuple[Tensor, ...]:
        """Images (S, D, H, W) and targets (8, ...), and of slices the position (2,)."""
        targets = targets_of(view.image)
        if view.position is None:
            return self.appearance(view.image, generator), F.avg_pool3d(targets[None], _TARGET_STRIDE)[0]
        own, count = (int(number) for number in view.position)
        shown = neighbor_slices(own, count).index(own)
        return self.appearance(view.image, generator), targets[:, shown], view.position

    def loss(self, network: nn.Module, generator: Generator, *batch: Tensor) -> Tensor:
        """Absolute error of the maps in tissue and of the distance; cross-entropy and Dice of the zones."""
        images, targets, *positions = batch
        family, size = family_of(self.spec), targets.shape[2:]
        inputs = _inputs(self.learned, images, positions)
        outputs = family.training_outputs(network, self.learned, inputs, size)
        return torch.stack([dense_loss(resize(output.float(), size), targets) for output in outputs]).mean()

    def pretrained(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoders alone; a head that `spec` has beside them is untrained."""
        return with_encoders_of(self.spec, weights, self.learned)

    def appearance(self, maps: Tensor, generator: Generator) -> Tensor:
        """A random scan of tissue: normalized channels (S, D, H, W), of a missing sequence zeros."""
        return random_appearance(maps, self.learned, generator, self.diffusion_missing, self.missing, self.noise)


@dataclass(frozen=True)
class SyntheticContrast(SyntheticTissues):
    """Equal features of two random appearances at each place, other ones where the tissue is other.

    InfoNCE (arXiv 1807.03748) over places, through a perceptron that is dropped afterwards. Places whose targets
    differ by less than `likeness` are no negatives: two veins need not be told apart. `width` channels of `places` are
    compared.
    """

    name = "synthetic-contrastive"
    limits = MappingProxyType(
        {
            **SyntheticTissues.limits,
            "places": (2, math.inf),
            "temperature": (1e-3, math.inf),
            "likeness": (0, math.inf),
            "width": (1, math.inf),
        }
    )

    places: int = 96
    temperature: float = 0.1
    likeness: float = 0.2
    width: int = 64

    @property
    def learned(self) -> ModelSpec:
        return self.spec

    @property
    def batch(self) -> int:  # type: ignore[override]
        return 4 if self.spec.is_slice_based else 1

    def build(self) -> nn.Module:
        return ProjectedEncoder(self.spec, self.width)

    def sample(self, view: View, generator: Generator) -> tuple[Tensor, ...]:
        """Two appearances and the targets as of `SyntheticTissues`."""
        first, *others = super().sample(view, generator)
        return first, self.appearance(view.image, generator), *others

    def loss(self, network: nn.Module, generator: Generator, *batch: Tensor) -> Tensor:
        """InfoNCE of the places' features, in both directions."""
        assert isinstance(network, ProjectedEncoder)
        first, second, targets, *positions = batch
        found = [network.maps(_inputs(self.spec, images, positions)) for images in (first, second)]  # (B, C, d, h, w)
        shown = targets if targets.ndim == 5 else targets[:, :, None]
        depth, height, width = found[0].shape[2:]
        like = F.adaptive_avg_pool3d(shown.float(), (depth, height, width)).flatten(2)  # (B, K, N)
        count = like.shape[2]
        # Half of them where there is most of the gland, as far as that goes: it is a small part of all places.
        near = like[:, _CAPSULE].argsort(dim=1)[:, : max(count // 4, 1)]
        drawn = []
        for nearest in near:
            half = min(self.places // 2, len(nearest))
            some = nearest[torch.randperm(len(nearest), generator=generator)[:half].to(nearest.device)]
            every = torch.randperm(count, generator=generator)[: min(self.places, count)].to(nearest.device)
            drawn.append(torch.cat([some, every])[: min(self.places, count)].unique())
        a, b = (
            torch.cat([one[:, places] for one, places in zip(maps.flatten(2), drawn, strict=True)], dim=1).T
            for maps in found
        )  # each (N, C)
        tissue = torch.cat([one[:, places] for one, places in zip(like, drawn, strict=True)], dim=1).T
        a, b = (F.normalize(network.projection(part).float(), dim=1) for part in (a, b))
        alike = torch.cdist(tissue, tissue, p=1) / tissue.shape[1] < self.likeness
        alike &= ~torch.eye(len(a), dtype=torch.bool, device=a.device)
        logits = (a @ b.T / self.temperature).masked_fill(alike, -torch.inf)
        own = torch.arange(len(a), device=a.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def pretrained(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoders, without the perceptron."""
        return {name.removeprefix(_OWN): t for name, t in weights.items() if name.startswith(_OWN)}


class ProjectedEncoder(nn.Module):
    """An encoder whose features at each place go through a perceptron to `width` channels."""

    def __init__(self, spec: ModelSpec, width: int) -> None:
        super().__init__()
        self.spec, self.family = spec, family_of(spec)
        self.network = self.family.build_for_training(spec)
        with torch.no_grad():
            channels = self.maps(_trial_inputs(spec)).shape[1]
        self.projection = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def maps(self, inputs: list[Tensor]) -> Tensor:
        """Features of each place, (B, C, d, h, w)."""
        samples = zip(*(part.split(1) for part in inputs), strict=True)
        return torch.stack([self.family.patch_features(self.network, self.spec, sample) for sample in samples])


def _inputs(spec: ModelSpec, images: Tensor, positions: list[Tensor]) -> list[Tensor]:
    """What a network takes, from images (B, S, D, H, W) and of slices positions (B, 2)."""
    return [*images.unbind(1), *positions] if spec.is_slice_based else [images]


def _trial_inputs(spec: ModelSpec) -> list[Tensor]:
    if spec.is_slice_based:
        size = [NEIGHBORS, *2 * [family_of(spec).image_px(spec)]]
    else:
        size = [min(n, 32) for n in spec.preprocess.patch]
    return _inputs(spec, torch.zeros(1, len(spec.preprocess.sequences), *size), [torch.zeros(1, 2)])


def targets_of(maps: Tensor) -> Tensor:
    """Targets (8, ...) of tissue maps (len(TISSUE_MAPS), ...): `OUTPUTS`, then the share of tissue."""
    pd, _, t2, adc, capsule, peripheral, transition = maps.unbind(0)
    scaled = [
        (t2.clamp_min(1).log() - _LOG_T2[0]) / _LOG_T2[1],
        (pd - _PD[0]) / _PD[1],
        (adc - _ADC[0]) / _ADC[1],
        (capsule / _CAPSULE_MM).clamp(-1, 1),
    ]
    background = (1 - peripheral - transition).clamp(0, 1)
    return torch.stack([*scaled, background, peripheral, transition, (pd > _TISSUE_PD).float()])


def dense_loss(output: Tensor, targets: Tensor) -> Tensor:
    """Loss of `OUTPUTS` (B, 7, ...) against targets (B, 8, ...), the gland's voxels counting more."""
    zones, tissue = targets[:, _ZONES], targets[:, 7]
    weight = 1 + _GLAND_WEIGHT * (1 - zones[:, 0])
    error = (output[:, _MAPS] - targets[:, _MAPS]).abs().mean(dim=1) * tissue * weight
    maps = error.sum() / (tissue * weight).sum().clamp_min(1)
    distance = ((output[:, _CAPSULE] - targets[:, _CAPSULE]).abs() * weight).sum() / weight.sum()
    logits = output[:, _ZONES]
    entropy = (-(zones * logits.log_softmax(dim=1)).sum(dim=1) * weight).sum() / weight.sum()
    axes = (0, *range(2, output.ndim))
    found, truth = logits.softmax(dim=1)[:, 1:], zones[:, 1:]
    overlap = (2 * (found * truth).sum(axes) + 1) / (found.square().sum(axes) + truth.square().sum(axes) + 1)
    return maps + distance + entropy + (1 - overlap).mean()


def random_appearance(
    maps: Tensor, spec: ModelSpec, generator: Generator, diffusion_missing: float, missing: float, noise: float
) -> Tensor:
    """A scan of tissue maps (len(TISSUE_MAPS), D, H, W) by a scanner drawn at random.

    Normalized channels (S, D, H, W) in the order of `spec`, by the gland's voxels or by all, since tasks do either;
    zeros where a sequence is missing.
    """
    pd, t1, t2, adc, capsule, *_ = maps.unbind(0)
    drawn = _uniform(generator, 0, 1, 1 + len(Sequence))
    own = spec.preprocess.images
    able = (Sequence.T2W,) if Sequence.T2W in own and drawn[0] < diffusion_missing else own
    kept = [s for s, d in zip(Sequence, drawn[1:], strict=True) if d >= missing and s in able] or able[:1]
    high_b, base = _diffusion(pd, t1, t2, adc, generator)
    scans = {Sequence.T2W: _t2_weighted(pd, t1, t2, adc, generator), Sequence.HBV: high_b, Sequence.ADC: adc}
    shared = [_gain(pd.shape, generator) for _ in range(2)]  # of T2w, and of diffusion
    inside, channels = capsule < 0, []
    by_gland = _happens(generator, _BY_GLAND) and int(inside.sum()) >= _MIN_GLAND_VOXELS
    visible = base > 0.12 * base.mean()
    for sequence in spec.preprocess.sequences:
        # What is drawn is drawn for missing ones too, so that the rest does not depend on them.
        image = scans[sequence] if sequence is not None else torch.zeros_like(pd)
        seed = _Draw(generator, noise)
        if sequence is None or sequence not in kept:
            channels.append(torch.zeros_like(pd))
            continue
        if sequence is Sequence.ADC:
            image = image * torch.exp(seed.level * seed.noise_like(image) * 0.5) * visible
        else:
            image = image * shared[0 if sequence is Sequence.T2W else 1]
            level = seed.level * image.mean()
            image = torch.hypot(image + level * seed.noise_like(image), level * seed.noise_like(image))
            if sequence is Sequence.HBV:
                image = image * visible
        image = _coarser(image, seed, is_flat=spec.is_slice_based)
        within = image[inside if by_gland else image != 0]
        within = within if len(within) > 1 else image.flatten()
        normal = (image - within.mean()) / (within.std() + 1e-6)
        if not by_gland:
            normal = torch.where(image != 0, normal, 0.0)
        channels.append(normal * torch.exp(seed.scale) + seed.shift)
    return torch.stack(channels)


class _Draw:
    """What is random in one sequence's scan."""

    def __init__(self, generator: Generator, noise: float) -> None:
        numbers = _uniform(generator, 0, 1, 7)
        least = math.log(_LEAST_NOISE)
        self.level = float(torch.exp(least + numbers[0] * (math.log(noise) - least)))
        self.coarse = 1 + 1.5 * float(numbers[1]) if numbers[2] < _COARSE else 1.0
        self.thick = 1 + 2 * float(numbers[3]) if numbers[4] < _THICK else 1.0
        self.scale, self.shift = 0.4 * (numbers[5] - 0.5), 0.4 * (numbers[6] - 0.5)
        self._noise = Generator().manual_seed(int(torch.randint(2**31, (1,), generator=generator)))

    def noise_like(self, image: Tensor) -> Tensor:
        return torch.randn(image.shape, generator=self._noise)


def _t2_weighted(pd: Tensor, t1: Tensor, t2: Tensor, adc: Tensor, generator: Generator) -> Tensor:
    """A turbo spin echo of random times or, in a part of the samples, any smooth function of the tissue."""
    tr, te = (float(v) for v in _uniform(generator, 0, 1, 2))
    powers = _uniform(generator, -1, 1, 4)
    if not _happens(generator, _FREE_CONTRAST):
        return pd * (1 - torch.exp(-(2500 + 5500 * tr) / t1)) * torch.exp(-(60 + 100 * te) / t2)
    logarithm = pd.clamp_min(0.02).log() * (1 + 0.5 * powers[0]) + (t1 / 1500).log() * powers[1]
    return torch.exp(logarithm + (t2 / 90).log() * powers[2] + (adc / 1500 - 0.7) * 0.5 * powers[3])


def _diffusion(pd: Tensor, t1: Tensor, t2: Tensor, adc: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A fat-saturated image at a random high b-value, and the same without diffusion weighting."""
    te, b = (float(v) for v in _uniform(generator, 0, 1, 2))
    water = ((t1 - _FAT_T1_MS) / (_WATER_T1_MS - _FAT_T1_MS)).clamp(0.02, 1)
    base = pd * water * (1 - torch.exp(-4000 / t1)) * torch.exp(-(50 + 40 * te) / t2)
    return base * torch.exp(-(800 + 1200 * b) * 1e-6 * adc), base


def _gain(shape: torch.Size, generator: Generator) -> Tensor:
    """Of a coil: smooth over the field of view; in a part of the samples steep, as near an endorectal one."""
    strength = float(_uniform(generator, 0, 0.5))
    knots = torch.rand((1, 1, 3, 4, 4), generator=generator) * 2 - 1
    smooth = torch.exp(strength * F.interpolate(knots, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0])
    near = near_coil_gain(shape, generator)
    return smooth * near if _happens(generator, _NEAR_COIL) else smooth


def near_coil_gain(shape: torch.Size, generator: Generator) -> Tensor:
    """Gain (D, H, W) of a coil in the rectum: up to nine times near it, behind the middle, steeply falling off."""
    height, reach, *place = (float(v) for v in _uniform(generator, 0, 1, 5))
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape), indexing="ij")
    away = torch.sqrt((0.3 * (z - place[0] + 0.5)) ** 2 + (y - 0.2 - 0.5 * place[1]) ** 2 + (x - place[2] + 0.5) ** 2)
    return 1 + (1 + 7 * height) * torch.exp(-away / (0.15 + 0.35 * reach))


def _coarser(image: Tensor, draw: _Draw, is_flat: bool) -> Tensor:
    """The image (D, H, W) at a lower resolution in plane and, of volumes, of thicker slices."""
    factors = (1.0 if is_flat else draw.thick, draw.coarse, draw.coarse)
    if factors == (1.0, 1.0, 1.0):
        return image
    depth, height, width = (max(round(n / f), 1) for n, f in zip(image.shape, factors, strict=True))
    small = F.adaptive_avg_pool3d(image[None, None], (depth, height, width))
    return F.interpolate(small, size=tuple(image.shape), mode="trilinear", align_corners=False)[0, 0]


def _uniform(generator: Generator, low: float, high: float, count: int = 1) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _happens(generator: Generator, probability: float) -> bool:
    return bool(torch.rand(1, generator=generator) < probability)


SYNTHETIC: tuple[type[PretextTask], ...] = (SyntheticTissues, SyntheticContrast)
"""For any family's pretext tasks."""
