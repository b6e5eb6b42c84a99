"""What the command line says of an error: one sentence, never a traceback."""

from __future__ import annotations

import errno

from ..errors import VFMTransferError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
# What C++ libraries (ITK, ONNX Runtime, torch) say when memory ends, where Python would raise MemoryError.
_OUT_OF_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "failed to map segment",
)


def sentence(error: BaseException) -> str:
    """The one line that tells a user what happened and what to do."""
    if isinstance(error, VFMTransferError):
        text = str(error)
    elif _is_out_of_memory(error):
        text = (
            "The memory must hold the volumes and the network, but it ran out. "
            "Close other programs, crop the images, or use a machine with more memory."
        )
    elif isinstance(error, ModuleNotFoundError) and error.name:
        text = _missing_package(error.name)
    elif isinstance(error, OSError):
        text = _file_system(error)
    elif isinstance(error, ValueError):
        text = str(error)
    else:
        text = (
            f"An unexpected error stopped the command ({_described(error)}). Run it again with --debug for the details."
        )
    return " ".join(text.split())


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, ImportError, OSError))
        and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
    )


def _missing_package(name: str) -> str:
    package = name.partition(".")[0]
    extra = {
        "torch": "torch",
        "safetensors": "torch",
        "onnx": "torch",
        "monai": "train",
        "lightning_fabric": "fabric",
        "distributed": "study",
        "yaml": "study",
    }.get(package)
    target = f"vfm-transfer[{extra}]" if extra else "vfm-transfer"
    return f"This command needs the package {package}, which is not installed. Install it with: pip install '{target}'"


def _file_system(error: OSError) -> str:
    # The file's name alone: a folder's name may be a patient's.
    name = str(error.filename).replace("\\", "/").rpartition("/")[2] if error.filename else "a file"
    if error.errno in _DISK_FULL:
        return f"The disk must have room for {name}, but it is full. Free some space, or choose another folder with -o."
    if error.errno in _NOT_ALLOWED:
        return (
            f"{name} must be readable and its folder writable, but the system refused. Choose another file or folder."
        )
    reason = error.strerror or _described(error)
    return f"{name} must be usable, but the system said: {reason}. Check the name and the folder."


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
