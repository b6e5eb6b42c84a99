"""PyTorch as a runtime: CUDA, MPS or CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ..bundles.bundle import Bundle
from ..bundles.weights import load_network
from ..core.errors import RuntimeUnavailableError
from ..core.notes import Note
from ..encoders.base import BOX, family_of
from ..layers.convolutions import accelerate
from .runtimes import Session

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def open_torch(bundle: Bundle, device: str, precision: str, notes: tuple[Note, ...]) -> Session:
    """Load the network onto a device; see `runtimes.open_session`."""
    place = choose_device(device)
    if device == "auto":
        notes = (*notes, Note("device", f"Device {place} was chosen."))
    precision = "fp32" if precision == "auto" else precision
    _check_precision(place, precision)
    network = accelerate(load_network(bundle)).to(place)

    takes_box = family_of(bundle.spec).decodes_boxes(bundle.spec)

    def forward(inputs: list[np.ndarray], box: np.ndarray | None) -> np.ndarray:
        precise = _without_tf32() if precision == "fp32" else torch.autocast(place.type, _DTYPES[precision])
        with torch.inference_mode(), precise:
            part = {} if box is None else {BOX: torch.from_numpy(box)}
            output = network(*(torch.from_numpy(array).to(place) for array in inputs), **part)
        return output.float().cpu().numpy()

    return Session(bundle, "torch", str(place), precision, {"torch": torch.__version__}, notes, forward, takes_box)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Convolutions and products in fp32 also on CUDA, where PyTorch takes TF32 of 10 bits for them.

    The settings are those of the whole process, so that they are put back: a training there goes on as it began.
    """
    # By the older of torch's two ways: all versions have it, and newer ones refuse to compute after a mixture of both.
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def choose_device(device: str) -> torch.device:
    """The device of a name; for `auto` CUDA before MPS before CPU.

    Raises:
        RuntimeUnavailableError: It is not available; the message gives the reason.
    """
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if not unavailable_reason(name)))
    reason = unavailable_reason(device)
    if reason:
        raise RuntimeUnavailableError(f"Device '{device}' cannot be used by PyTorch: {reason}")
    return torch.device(device)


def unavailable_reason(device: str) -> str:
    """A sentence, or nothing where PyTorch can use the device."""
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        return ""
    if kind == "mps" and not index:
        if not torch.backends.mps.is_built():
            return "torch is built without MPS, which exists on Macs with Apple silicon only."
        return "" if torch.backends.mps.is_available() else "MPS needs macOS 12.3 or newer and an Apple GPU."
    if kind == "cuda" and (not index or index.isdigit()):
        if torch.version.cuda is None and torch.version.hip is None:
            return f"torch {torch.__version__} is built without CUDA; install a CUDA build from https://pytorch.org."
        if not torch.cuda.is_available():
            return "no NVIDIA GPU with a working driver was found; see nvidia-smi."
        count = torch.cuda.device_count()
        return "" if int(index or 0) < count else f"this machine has {count} such devices, numbered from 0."
    return "it must be cpu, cuda, cuda:<number> or mps."


def _check_precision(device: torch.device, precision: str) -> None:
    """Raise where a device lacks a precision."""
    if precision == "fp16" and device.type == "cpu":
        raise RuntimeUnavailableError("Precision fp16 is not for device 'cpu' of PyTorch. Choose fp32 or bf16.")
    if precision == "bf16" and device.type == "mps":
        raise RuntimeUnavailableError("Precision bf16 is not for device 'mps'. Choose fp32 or fp16.")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise RuntimeUnavailableError(f"Precision bf16 is not for this GPU (device '{device}'). Choose fp32 or fp16.")
