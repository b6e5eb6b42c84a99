"""Networks of another size than the demonstration's, as a study's configuration states it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ..errors import ConfigError
from ..registry import ModelSpec
from ..volume import IntTriple, Triple

_OF_THE_GRID = ("spacing_mm", "patch")


@dataclass(frozen=True)
class Size:
    """What differs; what is left out stays as it is.

    Attributes:
        depths, dims: Of ProFound's four stages.
        depth, dim, heads, patch_px, image_px: Of ProViCNet's encoders.
        spacing_mm, patch: The network's grid (x, y, z), and its input in voxels (D, H, W).
        head_width: Channels within the head.
    """

    depths: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None
    depth: int | None = None
    dim: int | None = None
    heads: int | None = None
    patch_px: int | None = None
    image_px: int | None = None
    spacing_mm: Triple | None = None
    patch: IntTriple | None = None
    head_width: int | None = None


def resized(spec: ModelSpec, size: Size | None) -> ModelSpec:
    """A network at another size.

    Raises:
        ConfigError: The size is of the other encoder.
    """
    if size is None:
        return spec
    stated = {field.name: getattr(size, field.name) for field in fields(size)}
    stated = {name: value for name, value in stated.items() if value is not None}
    width = stated.pop("head_width", spec.head.width)
    grid = {name: stated.pop(name) for name in _OF_THE_GRID if name in stated}
    known = {field.name for field in fields(spec.encoder)}
    if unknown := sorted(stated.keys() - known):
        raise ConfigError(f"The size of {spec.family} must hold no {', '.join(unknown)}: its encoder has none.")
    if "image_px" in stated:
        stated["pretrained_image_px"] = stated["image_px"]
    encoder = replace(spec.encoder, **stated)
    head = replace(spec.head, width=width)
    if head.kind == "none":  # the features themselves
        features = stated.get("dims", (spec.head.width,))[-1]
        head = replace(head, width=features, out_channels=features)
    return replace(spec, encoder=encoder, head=head, preprocess=replace(spec.preprocess, **grid))
