"""A prepared input through a network, window by window, and back together as logits on the network grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.errors import BundleError
from ..core.placement import Blend, NetworkInput, cut, gaussian_weight, most_severe
from ..core.volume import IntTriple
from ..encoders.base import ModelSpec, family_of
from ..encoders.inputs import neighbor_slices, scale_slices, slice_positions

Run = Callable[..., np.ndarray]
OnWindow = Callable[[float], None]


def infer(
    run: Run,
    prepared: NetworkInput,
    spec: ModelSpec,
    on_window: OnWindow | None = None,
    *,
    takes_box: bool = False,
    on_output: Callable[[np.ndarray, IntTriple], None] | None = None,
) -> np.ndarray:
    """The network's logits for a case.

    Args:
        run: A loaded network, arrays in and array out, as `runtimes.Session.run`.
        prepared, spec: Its input, and what kind of network it is.
        on_window: Called with the fraction that is done after each window; may raise to stop.
        takes_box: Whether `run` decodes a part of a window, see `EncoderFamily.decodes_boxes`.
        on_output: Called with each window's output (C, *patch) and its first voxel.

    Returns:
        Logits (C, D, H, W) on `prepared.region`; of a classifier (C,), those of the worst window (`most_severe`).

    Raises:
        BundleError: The network's output has not the size that its specification states, or is no finite number.
    """
    is_classifier = spec.head.is_vector
    expected = (spec.head.out_channels, *(() if is_classifier else prepared.patch))
    weight = np.ones(prepared.patch, np.float32)  # windows count alike wherever they lie ...
    if spec.preprocess.whole_volume and len(prepared.starts) > 1:
        weight = gaussian_weight(prepared.patch)  # ... but those over a whole volume fade into each other
    blend = Blend(*prepared.box, weight)
    vectors = []
    for done, start in enumerate(prepared.starts, start=1):
        output = _run_on_window(run, prepared, spec, start) if takes_box else run(*network_input(prepared, spec, start))
        if output.size != np.prod(expected) or output.shape[:2] != (1, expected[0]):
            raise BundleError(
                f"The network must give {expected} for each window, got {output.shape[1:]}. "
                "Its specification does not describe its weights; import it again."
            )
        if not np.isfinite(output).all():
            raise BundleError(
                "The network must give finite numbers, but gave NaN or infinity, as it can where half precision does "
                "not suffice. Run it again in precision fp32; where it was, its weights are broken: import it again."
            )
        output = output.reshape(expected).astype(np.float32, copy=False)  # of slices (1, C, H, W) → (C, 1, H, W)
        if is_classifier:
            vectors.append(output)
        else:
            blend.add(output, start)
        if on_output is not None:
            on_output(output, start)
        if on_window is not None:
            on_window(done / len(prepared.starts))
    return vectors[most_severe(np.stack(vectors))] if is_classifier else blend.mean()


def network_input(prepared: NetworkInput, spec: ModelSpec, start: IntTriple) -> tuple[np.ndarray, ...]:
    """What a network's `forward` takes for one window, as a batch of one.

    Returns:
        The window (1, C, D, H, W) that starts at a voxel (z, y, x). Of a slice-based network for each sequence three
        slices as channels (1, 3, S, S), then the slice's place (1, 2).
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


def _run_on_window(run: Run, prepared: NetworkInput, spec: ModelSpec, start: IntTriple) -> np.ndarray:
    """The logits of a window (1, C, *patch), decoded only where they are asked for and 0 elsewhere."""
    box, size = prepared.box
    first = np.maximum(np.subtract(box, start), 0)
    end = np.minimum(np.add(box, size) - start, prepared.patch)
    found = run(*network_input(prepared, spec, start), box=np.array([first, end], np.int64))
    output = np.zeros((*found.shape[:2], *prepared.patch), np.float32)
    output[:, :, *(slice(a, b) for a, b in zip(first, end, strict=True))] = found
    return output
