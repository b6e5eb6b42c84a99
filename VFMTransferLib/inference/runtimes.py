"""A bundle's network on this machine, arrays in, array out: ONNX Runtime or PyTorch; and networks that stay loaded.

Both are imported when a session opens, never before. What was wanted and is not there is an error;
`auto` chooses, and `Session.notes` say what and why.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..bundles.bundle import Bundle, verify
from ..bundles.metadata import ONNX
from ..core.errors import OutOfMemoryError, RuntimeUnavailableError, is_out_of_memory
from ..core.machine import missing_reason, resident_bytes
from ..core.notes import Note
from ..core.options import PRECISIONS, RUNTIMES
from .case_cache import CaseCache


@dataclass(frozen=True)
class Session:
    """A network that is loaded and ready.

    Attributes:
        bundle: What it was loaded from.
        runtime: `onnx` or `torch`.
        device: Where it runs, for example `cpu`, `cuda:0`, `openvino`.
        precision: In what it computes: `fp32`, `fp16` or `bf16`.
        versions: Package → version of the runtime.
        notes: What was chosen on the way, in sentences.
        forward: Arrays, and the box to decode or None, to logits.
        takes_box: Whether it can decode a box alone.
    """

    bundle: Bundle
    runtime: str
    device: str
    precision: str
    versions: dict[str, str]
    notes: tuple[Note, ...]
    forward: Callable[[list[np.ndarray], np.ndarray | None], np.ndarray]
    takes_box: bool = False

    def run(self, *arrays: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
        """Logits, float32, contiguous, of the inputs of the network's `forward`, which are converted to float32.

        Args:
            arrays: The inputs.
            box: Where to decode, (2, 3), int64; see `EncoderFamily.decodes_boxes`. None for the whole.

        Raises:
            OutOfMemoryError: The input did not fit in memory.
        """
        inputs = [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]
        try:
            output = self.forward(inputs, box)
        except (RuntimeError, MemoryError) as error:
            raise_if_memory(error, self.device, inputs[0].shape)
            raise
        return np.ascontiguousarray(output, dtype=np.float32)


def open_session(bundle: Bundle, runtime: str = "auto", device: str = "auto", precision: str = "auto") -> Session:
    """Load a bundle's network, after checking its files against their checksums.

    Args:
        bundle: The network.
        runtime: `onnx`, `torch`, or `auto`: ONNX Runtime where it is installed and the bundle has a graph,
            else PyTorch.
        device: `auto`, or for ONNX Runtime `cpu`, `cuda[:i]`, `tensorrt[:i]`, `openvino[:DEVICE]`, `coreml`;
            for PyTorch `cpu`, `cuda[:i]`, `mps`.
        precision: `auto` is fp32 everywhere, so that every runtime gives one answer; `fp16` and `bf16` where
            the device has them.

    Raises:
        RuntimeUnavailableError: The runtime, device or precision is not available here; the message gives the reason.
        ChecksumError: A file of the bundle was changed or damaged.
        OutOfMemoryError: The network did not fit in memory.
        ValueError: `runtime` or `precision` is no known word.
    """
    if runtime not in RUNTIMES or precision not in PRECISIONS:
        raise ValueError(
            f"runtime must be one of {', '.join(RUNTIMES)} and precision one of {', '.join(PRECISIONS)}, "
            f"got {runtime} and {precision}."
        )
    chosen, notes = choose_runtime(bundle, runtime, device)
    try:
        if chosen == "onnx":
            verify(bundle)
            from .onnx_runtime import open_onnx

            return open_onnx(bundle, device, precision, notes)
        from .torch_runtime import open_torch

        return open_torch(bundle, device, precision, notes)
    except (RuntimeError, MemoryError) as error:
        raise_if_memory(error, device, None)
        raise


def choose_runtime(bundle: Bundle, runtime: str, device: str) -> tuple[str, tuple[Note, ...]]:
    """Which runtime serves, and a sentence about it where it was ours to choose.

    Raises:
        RuntimeUnavailableError: The wanted one, or any, is not to be had.
    """
    if runtime != "auto":
        reason = onnx_unavailable_reason(bundle) if runtime == "onnx" else torch_unavailable_reason()
        if reason:
            raise RuntimeUnavailableError(f"Runtime '{runtime}' cannot run here: {reason}")
        return runtime, ()
    no_onnx = onnx_unavailable_reason(bundle, device)
    if not no_onnx:
        return "onnx", (Note("runtime", "ONNX Runtime was chosen: it is installed, and the bundle has an ONNX graph."),)
    no_torch = torch_unavailable_reason(device)
    if not no_torch:
        return "torch", (Note("runtime", f"PyTorch was chosen, not ONNX Runtime: {no_onnx}"),)
    raise RuntimeUnavailableError(
        f"Device '{device}' cannot be used here. ONNX Runtime: {no_onnx} PyTorch: {no_torch}"
        if device != "auto"
        else f"No runtime can run this bundle. ONNX Runtime: {no_onnx} PyTorch: {no_torch}"
    )


def onnx_unavailable_reason(bundle: Bundle, device: str = "auto") -> str:
    """A sentence, or nothing where ONNX Runtime can run the bundle (on the device, where one is named)."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the package onnxruntime is not installed; install it under Setup (pip install onnxruntime)."
    if ONNX not in bundle.sha256:
        return f"bundle '{bundle.name}' has no {ONNX}; export it (vfm-transfer models export-onnx)."
    if device == "auto":
        return ""
    from . import onnx_runtime

    return onnx_runtime.unavailable_reason(device)


def torch_unavailable_reason(device: str = "auto") -> str:
    """A sentence, or nothing where PyTorch can run a bundle (on the device, where one is named)."""
    lacking = missing_reason("torch", "safetensors", extra="torch")
    if lacking or device == "auto":
        return lacking
    from . import torch_runtime

    return torch_runtime.unavailable_reason(device)


def raise_if_memory(error: BaseException, device: str, shape: tuple[int, ...] | None) -> None:
    """Raise an `OutOfMemoryError` where an error of a runtime means that memory ran out; else do nothing."""
    if is_out_of_memory(error):
        what = "loading the network" if shape is None else f"an input of {' x '.join(map(str, shape))}"
        raise OutOfMemoryError(
            f"The memory of device '{device}' must hold {what}, but ran out. Close other programs, or choose another "
            "device (cpu), a smaller crop or a smaller network."
        ) from error


class LoadedNetworks:
    """Sessions by what they were opened with; those used longest ago go first when memory is short.

    A bundle whose files were replaced has other checksums, and is loaded again. What was made of cases is kept with
    them, since whoever keeps networks loaded meets the same case again.

    Args:
        limit_bytes: Memory that the process may hold before networks are let go.
        held_bytes: Returns what the process holds.
        load: Opens a session.
        case_cache: Keeps what was made of cases.
    """

    def __init__(
        self,
        limit_bytes: int,
        held_bytes: Callable[[], int] = resident_bytes,
        load: Callable[..., Session] = open_session,
        case_cache: CaseCache | None = None,
    ) -> None:
        self.loads = 0
        self.case_cache = CaseCache() if case_cache is None else case_cache
        self._limit_bytes = limit_bytes
        self._held_bytes = held_bytes
        self._load = load
        self._sessions: dict[object, Session] = {}  # the one used last at the end

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the bundles, the one used last at the end."""
        return tuple(session.bundle.name for session in list(self._sessions.values()))

    @property
    def is_full(self) -> bool:
        """Whether another network would take the place of loaded ones."""
        return self._held_bytes() > self._limit_bytes

    def open(self, bundle: Bundle, *, runtime: str = "auto", device: str = "auto", precision: str = "auto") -> Session:
        """The bundle's network, loaded now if it is not there; see `runtimes.open_session`.

        Where it does not fit beside the other networks, these are let go.
        """
        key = (bundle.folder, *sorted(bundle.sha256.items()), runtime, device, precision)
        session = self._sessions.pop(key, None)
        if session is None:
            self.make_room()
            try:
                session = self._load(bundle, runtime, device, precision)
            except OutOfMemoryError:  # of a GPU, whose memory the limit does not count
                if not self._sessions:
                    raise
                self._sessions.clear()
                gc.collect()
                session = self._load(bundle, runtime, device, precision)
            self.loads += 1
        self._sessions[key] = session
        return session

    def make_room(self) -> None:
        """Let go of networks, those used longest ago first, until the process holds no more than it may."""
        while self._sessions and self.is_full:
            self._sessions.pop(next(iter(self._sessions)))
            gc.collect()

    def clear(self) -> None:
        """Let go of all."""
        self._sessions.clear()
        self.case_cache.clear()
        gc.collect()
