"""Errors that a user can act on: each states what must be what, what was found, and what to do.

`ValueError` stays for a caller's mistake. The command line prints `str(error)` and exits with 1;
Slicer shows the same sentence.
"""

from __future__ import annotations


class VFMTransferError(Exception):
    """The parent of every error that a user can fix."""


class ImageError(VFMTransferError):
    """An image file is missing, damaged, or not what its role needs (dimensions, values, unit)."""


class GeometryError(ImageError):
    """Images that must lie in one space do not, or a grid cannot be used."""


class PlacementError(GeometryError):
    """The images of a case, each usable alone, do not lie in one space."""


class MixedExamsError(ImageError):
    """Images belong to different patients, studies or frames of reference."""


class MissingSequenceError(VFMTransferError):
    """A case lacks a sequence, or a mask, that the network needs."""


class AmbiguousInputError(VFMTransferError):
    """Several files or series could fill one role; the message lists them."""


class PsaError(VFMTransferError):
    """A PSA is no number in ng/ml that can be one."""


class UnknownTaskError(VFMTransferError, ValueError):
    """No task has this name; the message lists those that there are."""


class BundleError(VFMTransferError):
    """A bundle is incomplete, its metadata is wrong, or it does not fit the task."""


class ChecksumError(BundleError):
    """Weights differ from the checksum that their bundle or source states."""


class CheckpointError(VFMTransferError):
    """A checkpoint holds no network that is known here, or holds what must not be loaded."""


class RuntimeUnavailableError(VFMTransferError):
    """The requested runtime or device is not on this machine; the message gives the reason."""


class OutOfMemoryError(VFMTransferError):
    """A network did not fit in memory."""


# For what ran out anywhere; who knows what did not fit names it instead.
OUT_OF_MEMORY = (
    "The memory must hold the images and the network's window, but ran out. Close other programs, crop the images, or "
    "choose a smaller network."
)
# What C++ libraries (ITK, ONNX Runtime, torch, CUDA) report when memory ends, where Python would raise MemoryError.
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "memory allocation",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
    "failed to map segment",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library means that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


class OutputError(VFMTransferError):
    """Results could not be written: folder not writable, disk full."""


class DownloadError(VFMTransferError):
    """A file could not be fetched whole."""


class DatasetError(VFMTransferError):
    """A folder of cases cannot serve for training or for the task."""


class DivergedError(VFMTransferError):
    """The gradients of a training are no longer finite; its last checkpoint is from before."""


class ConfigError(VFMTransferError):
    """A study's configuration is invalid; the message names file and key."""


class BatchError(VFMTransferError):
    """Some cases of a batch failed; the others are done."""


class JobError(VFMTransferError):
    """A message between a program and its worker cannot be understood, or names what cannot be."""


class WorkerError(VFMTransferError):
    """The worker, a child process, did not start or died; the message gives the reason."""


class ClusterError(VFMTransferError):
    """A cluster does not answer, lost its workers, or does not see what it needs."""
