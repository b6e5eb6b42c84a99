"""A prepared input through a network, window by window, and back together as logits on the network grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..core.errors import BundleError
from ..core.placement import Blend, Prepared, cut, gaussian_weight
from ..core.volume import IntTriple
from ..encoders.base import ModelSpec, family_of
from ..encoders.inputs import neighbor_slices, scale_slices, slice_positions

OnWindow = Callable[[float], None]


class Session(Protocol):
    """A loaded network, arrays in and array out, as `runtimes.open_session` gives it."""

    @property
    def runtime(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def versions(self) -> dict[str, str]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def run(self, *arrays: np.ndarray) -> np.ndarray: ...


def infer(session: Session, prepared: Prepared, spec: ModelSpec, on_window: OnWindow | None = None) -> np.ndarray:
    """The network's logits for a case.

    Args:
        session: The network.
        prepared: Its input.
        spec: What kind of network it is.
        on_window: Called with the fraction that is done after each window; may raise to stop.

    Returns:
        Logits (C, D, H, W) on `prepared.region`; of a classifier (C,), the mean over windows.

    Raises:
        BundleError: The network's output has not the size that its specification states.
    """
    is_classifier = spec.head.is_vector
    expected = (spec.head.out_channels, *(() if is_classifier else prepared.patch))
    blend = Blend(*prepared.box, _weight(prepared, spec))
    vectors = []
    for done, start in enumerate(prepared.starts, start=1):
        output = _checked(session.run(*network_input(prepared, spec, start)), expected)
        if is_classifier:
            vectors.append(output)
        else:
            blend.add(output, start)
        if on_window is not None:
            on_window(done / len(prepared.starts))
    return np.mean(vectors, axis=0) if is_classifier else blend.mean()


def network_input(prepared: Prepared, spec: ModelSpec, start: IntTriple) -> tuple[np.ndarray, ...]:
    """What a network's `forward` takes for one window, as a batch of one.

    Args:
        prepared: The case.
        spec: The network.
        start: First voxel (z, y, x) of the window.

    Returns:
        The window (1, C, D, H, W). Of a slice-based network for each sequence three slices as channels (1, 3, S, S),
        then the slice's place (1, 2).
    """
    if not spec.is_slice_based:
        return (cut(prepared.array, start, prepared.patch)[None],)
    z, y, x = start
    depth = prepared.array.shape[1]
    _, height, width = prepared.patch
    neighbors = list(neighbor_slices(z, depth))
    window = cut(prepared.array[:, neighbors], (0, y, x), (len(neighbors), height, width))
    scaled = scale_slices(window, family_of(spec).image_px(spec))  # (sequences, 3, S, S)
    return (*(stream[None] for stream in scaled), slice_positions(z, depth))


def _weight(prepared: Prepared, spec: ModelSpec) -> np.ndarray:
    """How windows blend: windows over a whole volume fade into each other, others count alike wherever they lie."""
    if spec.preprocess.whole_volume and len(prepared.starts) > 1:
        return gaussian_weight(prepared.patch)
    return np.ones(prepared.patch, np.float32)


def _checked(output: np.ndarray, expected: tuple[int, ...]) -> np.ndarray:
    """The output of a batch of one; a slice gains its axis: (1, C, H, W) → (C, 1, H, W)."""
    if output.size != np.prod(expected) or output.shape[:2] != (1, expected[0]):
        raise BundleError(
            f"The network must give {expected} for each window, got {output.shape[1:]}. "
            "Its specification does not describe its weights; import it again."
        )
    return output.reshape(expected).astype(np.float32, copy=False)
