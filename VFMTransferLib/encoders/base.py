"""The two sides of an encoder: the tables that describe one network, and the contract of a whole family. No torch here.

A `ModelSpec` states each fact about a network once, and drives preprocessing, building, weights, export and
postprocessing. An `EncoderFamily` is what `encoders/<family>/` gives to the rest of the library.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_type_hints

from ..core.decoding import from_json, to_json
from ..core.terms import Sequence as ImageSequence
from ..core.volume import Geometry, IntTriple, Triple, Volume

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from .pretext import PretextTask

Size = Literal["published", "demonstration"]
NORMALIZATIONS = ("zscore-nonzero", "zscore-tissue", "zscore-gland")
ACTIVATIONS = ("softmax", "sigmoid", "none")
IMAGE_HEADS = ("restoration", "matching")
PIRADS_LABELS = ("PI-RADS 2", "PI-RADS 3", "PI-RADS 4", "PI-RADS 5")
T2W_HBV_ADC = (ImageSequence.T2W, ImageSequence.HBV, ImageSequence.ADC)
BOX = "box"
"""The optional input of a network that decodes a part of its window; see `EncoderFamily.decodes_boxes`."""
_BYTES_A_VOXEL = 512.0  # of networks whose peak was not measured by itself, above what the demonstrations take
NEIGHBORS = 3
"""Slices that a slice-based network sees at once: the slice and its two neighbors."""


@dataclass(frozen=True)
class HeadSpec:
    """What turns features into logits.

    Attributes:
        kind: One of the family's `head_kinds`. All families share `none` (one feature vector a sample), `classifier`,
            `restoration` (image to image) and `matching` (cost volume); the others give dense logits.
        out_channels: Channels of the logits, or of the image.
        width: Channels within the head.
        auxiliary_width: Channels of UPerNet's auxiliary head, which serves training only.
    """

    kind: str
    out_channels: int
    width: int
    auxiliary_width: int = 256

    @property
    def is_vector(self) -> bool:
        """Whether the output is one vector a sample, and not a map."""
        return self.kind in ("none", "classifier")


@dataclass(frozen=True)
class PreprocessSpec:
    """How a case becomes a network's input.

    Attributes:
        sequences: Sequence of each input channel; `None` is a channel of zeros. Of a slice-based network each is a
            window of slices of its own.
        spacing_mm: Network grid (x, y, z).
        patch: Input size in voxels (D, H, W); of a slice-based network D is 1, and H, W are the in-plane grid before
            the slice is scaled to the encoder's size.
        normalization: `zscore-nonzero` (by the non-zero voxels, zeros stay), `zscore-tissue` (by the same, zeros too),
            or `zscore-gland` (by the voxels in the gland mask).
        overlap: Fraction by which neighboring windows overlap where the volume is larger.
        whole_volume: Run windows over the whole volume, not over one crop.
        shift_voxels: How far four crops are moved from the only one along both in-plane diagonals; their outputs are
            averaged. 0 for one crop.
    """

    sequences: tuple[ImageSequence | None, ...]
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    normalization: str = "zscore-nonzero"
    overlap: float = 0.5
    whole_volume: bool = False
    shift_voxels: int = 0

    @property
    def images(self) -> tuple[ImageSequence, ...]:
        """The sequences without the channels of zeros."""
        return tuple(sequence for sequence in self.sequences if sequence is not None)


@dataclass(frozen=True)
class ModelSpec:
    """One network, whole.

    Attributes:
        name: Lower-case name of the architecture.
        task: Id of its task; `None` for an encoder alone.
        encoder: Its sizes, the family's own dataclass.
        labels: Name of each output channel that is a class; `Label` values where the meaning is known.
        activation: `softmax`, `sigmoid` or `none`.
        threshold: Probability above which a voxel counts as the label (sigmoid, ProViCNet).
        license: Of the authors' code, not of any weights.
    """

    name: str
    title: str
    task: str | None
    encoder: Any
    head: HeadSpec
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    activation: str
    threshold: float = 0.5
    paper: str = ""
    license: str = "Apache-2.0"

    @property
    def family(self) -> str:
        """The name of the encoder's family."""
        return family_of(self).name

    @property
    def is_slice_based(self) -> bool:
        """Whether it sees slices with their neighbors, one after another, and not windows (D, H, W)."""
        return family_of(self).is_slice_based


@dataclass(frozen=True)
class OnePass:
    """How a network takes a whole volume at once: each axis a multiple of `step`, of `smallest` voxels at least."""

    step: int
    smallest: int

    def padded(self, shape: IntTriple) -> IntTriple:
        """The size of the pass over a volume (D, H, W)."""
        depth, height, width = (max(-(-n // self.step) * self.step, self.smallest) for n in shape)
        return depth, height, width


class TaskInput(Protocol):
    """What an encoder requires of a task; `tasks.base.Task` satisfies it and explains the attributes."""

    @property
    def id(self) -> str: ...
    @property
    def network_title(self) -> str: ...
    @property
    def sequences(self) -> tuple[ImageSequence, ...]: ...
    @property
    def reference(self) -> ImageSequence: ...
    @property
    def marks_voxels(self) -> bool: ...
    @property
    def head(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def activation(self) -> str: ...
    @property
    def finds_gland(self) -> bool: ...
    @property
    def uses_gland_slices(self) -> bool: ...
    @property
    def works_within_slices(self) -> bool: ...
    @property
    def initial_output(self) -> float: ...

    def network_grid(self, seen: Geometry, spacing_mm: Triple) -> Geometry:
        """The grid of the network's input for the reference sequence's grid `seen`, at a spacing (x, y, z)."""

    def place(self, volume: Volume, grid: Geometry) -> Volume:
        """A sequence on the network's grid, 0 outside of what was scanned."""


class EncoderFamily(ABC):
    """An encoder's architecture at any size: what `encoders/<family>/` gives to the rest of the library.

    One instance a family, registered by `register`. Nothing here imports torch before a method that returns networks or
    takes tensors is called.

    Attributes:
        name, title: In specifications, configurations and tables; on screen.
        spec_type: The frozen dataclass of sizes; `ModelSpec.encoder` of this family is one.
        json_kind: What `model.encoder.kind` is in a bundle's metadata.
        pretext_tasks: What it can be pretrained by, the default first: name → how, and from what cases.
        is_slice_based: Whether its networks take, for each sequence, a slice with its two neighbors (B, 3, S, S), and
            then (slice index, number of slices) (B, 2); the others take windows (B, C, D, H, W).
        baseline_of: Of a task-specific baseline the family whose inputs, settings and number of parameters it has.
        weights_license, weights_note: Of the authors' released weights.
    """

    name: str
    title: str
    paper: str
    license: str = "Apache-2.0"
    spec_type: type
    json_kind: str
    head_kinds: tuple[str, ...]
    pretext_tasks: Mapping[str, str] = MappingProxyType({})
    is_slice_based: bool = False
    baseline_of: str = ""
    weights_license: str = "not stated by the authors"
    weights_note: str = ""

    # Specifications, without torch.

    def published(self) -> tuple[ModelSpec, ...]:
        """The networks whose weights the authors released, or whose description is fixed otherwise."""
        return ()

    @abstractmethod
    def new_network(self, task: TaskInput) -> ModelSpec:
        """The network for a task at published size where `published` has none."""

    @abstractmethod
    def demonstration(self, spec: ModelSpec, task: TaskInput | None) -> ModelSpec:
        """A published network, of a task or None, at a size that two cores can train; all have the same encoder."""

    def network_for(self, task: TaskInput, size: Size = "demonstration") -> ModelSpec:
        """The network for a task: a published one of all the task's sequences, or a new one."""
        rows = (row for row in self.published() if row.task == task.id)
        found = (row for row in rows if set(row.preprocess.images) == {*task.sequences})
        spec = next(found, None) or self.new_network(task)
        if not set(task.labels) <= set(spec.labels):
            head = replace(spec.head, out_channels=len(task.labels))
            spec = replace(spec, labels=task.labels, activation=task.activation, head=head)
        return self.demonstration(spec, task) if size == "demonstration" else spec

    def pretraining_network(self, size: Size = "demonstration") -> ModelSpec | None:
        """The network that pretraining writes: an encoder alone, or one of several encoders; None of a baseline."""
        return None

    def matched_baseline(self, spec: ModelSpec) -> ModelSpec:
        """Of a task-specific baseline: the network to compare with one of `baseline_of`, as large. Imports torch."""
        raise ValueError(f"{self.title} is no task-specific baseline.")

    def row_name(self, task: TaskInput) -> str:
        """What the tables of a transfer study call its network for a task."""
        return self.name

    def row_title(self, task: TaskInput) -> str:
        """The same on screen."""
        return self.title

    def resized(self, spec: ModelSpec, size: Mapping[str, Any]) -> ModelSpec:
        """A network with other sizes: fields of `spec_type`, and of any family `spacing_mm`, `patch` and `head_width`.

        Raises:
            ValueError: The encoder has no such size.
        """
        of_grid = {"spacing_mm": Triple, "patch": IntTriple}
        kinds = {**get_type_hints(self.spec_type), **of_grid, "head_width": int}
        if unknown := sorted(size.keys() - kinds):
            raise ValueError(f"The size of {self.name} must hold no {', '.join(unknown)}: its encoder has none.")
        stated: dict[str, Any] = {name: from_json(kinds[name], to_json(value), name) for name, value in size.items()}
        head = replace(spec.head, width=stated.pop("head_width", spec.head.width))
        grid = {name: stated.pop(name) for name in of_grid if name in stated}
        encoder = replace(spec.encoder, **stated)
        return replace(spec, encoder=encoder, head=head, preprocess=replace(spec.preprocess, **grid))

    def problems(self, encoder: Any) -> Iterable[tuple[str, str]]:
        """What cannot be in sizes of right type: name of the field, and what it must be."""
        return ()

    @abstractmethod
    def batch_size(self, spec: ModelSpec) -> int:
        """Samples a step with which the demonstration's networks are fine-tuned."""

    # Inputs.

    def image_px(self, spec: ModelSpec) -> int:
        """Side of the square that a slice-based network's slices are scaled to."""
        return int(spec.encoder.image_px)

    def input_names(self, spec: ModelSpec) -> tuple[str, ...]:
        """Names of the network's inputs in its ONNX graph, in the order of its `forward`."""
        return (*map(str, spec.preprocess.images), "positions") if self.is_slice_based else ("x",)

    def decodes_boxes(self, spec: ModelSpec) -> bool:
        """Whether `forward` takes a `box` (2, 3), int64, first voxel and one after the last, and decodes only that."""
        return False

    def one_pass(self, spec: ModelSpec) -> OnePass | None:
        """How a network takes a whole volume at once, where its authors run it so; None where it takes windows."""
        return None

    def bytes_a_voxel(self, spec: ModelSpec) -> float:
        """About the memory that a pass takes on a processor, for each voxel of its window or pixel of its slices."""
        return _BYTES_A_VOXEL

    def window_bytes(self, spec: ModelSpec) -> int:
        """The same of the network's own window, or slice with its neighbors."""
        window = spec.preprocess.patch
        if self.is_slice_based:
            window = (len(spec.preprocess.sequences), *2 * (self.image_px(spec),))
        return round(self.bytes_a_voxel(spec) * math.prod(window))

    # Networks; each of these imports torch.

    @abstractmethod
    def build(self, spec: ModelSpec, drop_path: float = 0.0, initial_output: float = 0.0) -> nn.Module:
        """A network with fresh weights, in training mode; `spec.head.kind` is one of `head_kinds`.

        Args:
            drop_path: Stochastic depth of the encoder's last block, in training; it rises linearly from 0 at the first.
            initial_output: What an image-to-image head gives before it is trained.
        """

    def build_for_training(self, spec: ModelSpec, drop_path: float = 0.0, initial_output: float = 0.0) -> nn.Module:
        """The same, with fast gradients on processors; the names and shapes of its tensors are those of `build`."""
        from ..layers.convolutions import accelerate

        return accelerate(self.build(spec, drop_path, initial_output))

    def training_outputs(
        self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor], size: Sequence[int]
    ) -> list[Tensor]:
        """The output of a network in training mode, and after it those of auxiliary heads; they may have any size."""
        found = network(*inputs)
        return found if isinstance(found, list) else [found]

    # What pretraining needs, and the features that the transfer study compares; a baseline has none of it.

    def own_name(self, name: str, spec: ModelSpec) -> str | None:
        """The name that a network's tensor has within its encoder, the same whatever the head; None of the head's."""
        return None

    def encoder_of(self, own_name: str) -> str:
        """Which of a network's encoders bears a name of `own_name`; empty where there is but one."""
        return ""

    def features(self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Layer → features (B, C) of a network in evaluation mode, in order, the whole encoder's under `encoder`."""
        raise self._not_pretrained()

    def patch_features(self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> Tensor:
        """Of one sample, features of each place where the encoder answers: (C, d, h, w), where d is 1 for a slice."""
        raise self._not_pretrained()

    def features_for(self, features: Any, own: ModelSpec, spec: ModelSpec) -> Any:
        """Of features (cases, C) of a pretrained network's encoder those that a network of fewer sequences has too."""
        return features

    # The authors' files.

    def convert(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A file's tensors by the names of `build`, without what serves training only; those of others as they are."""
        return state

    def join(self, states: Mapping[Path, Mapping[str, Tensor]], own_streams: bool) -> dict[str, Tensor] | None:
        """The tensors of one network that the authors released in several files; None where none is of this family.

        CheckpointError where the files do not belong together; `own_streams` as of `checkpoint.read_network`.
        """
        return None

    def identify(self, state: Mapping[str, Tensor], sequence: ImageSequence | None = None) -> ModelSpec | None:
        """The network whose tensors a state dict holds, sizes by their shapes; None where it is another family's.

        Args:
            state: By the names of `build`.
            sequence: What the network takes, where its tensors do not show it.

        Raises:
            CheckpointError: It is of this family, but no network that can be used here.
        """
        return None

    def import_record(self, spec: ModelSpec, own_streams: bool) -> dict[str, str]:
        """What a bundle of the authors' files records beside the files' checksums."""
        return {}

    # Pretraining.

    def pretext_task(self, name: str, spec: ModelSpec) -> PretextTask:
        """One of `pretext_tasks`, of a network such as `pretraining_network`, with its default settings."""
        raise self._not_pretrained()

    def _not_pretrained(self) -> ValueError:
        pretrained = ", ".join(family.name for family in FAMILIES.values() if family.pretext_tasks)
        return ValueError(f"The encoder must be one that is pretrained ({pretrained}), got the baseline {self.name}.")


FAMILIES: dict[str, EncoderFamily] = {}
"""The families by name, in the order in which tables show them."""

Family = TypeVar("Family", bound=EncoderFamily)


def register(family: Family) -> Family:
    """Add a family; ValueError where its name or sizes are there already."""
    for other in FAMILIES.values():
        if other.name == family.name or other.spec_type is family.spec_type or other.json_kind == family.json_kind:
            raise ValueError(f"A family must have a name and sizes of its own, but {other.name} has those.")
    FAMILIES[family.name] = family
    return family


def find_family(name: str) -> EncoderFamily:
    """The family of a name; ValueError lists those that there are."""
    if name not in FAMILIES:
        raise ValueError(f"The encoder must be one of {', '.join(FAMILIES)}, got '{name}'.")
    return FAMILIES[name]


def family_of(spec: ModelSpec) -> EncoderFamily:
    """The family whose sizes a specification states; ValueError where none has such."""
    found = next((family for family in FAMILIES.values() if type(spec.encoder) is family.spec_type), None)
    if found is None:
        raise ValueError(f"No family has the sizes of {spec.name}, a {type(spec.encoder).__name__}. Register it first.")
    return found
