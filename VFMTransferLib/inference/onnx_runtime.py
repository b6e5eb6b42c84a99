"""ONNX Runtime as a runtime: TensorRT, CUDA, OpenVINO, CoreML or CPU, by execution provider."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from threading import Timer
from typing import Any

import numpy as np

from ..bundles.bundle import Bundle
from ..core.errors import BundleError, OutOfMemoryError, RuntimeUnavailableError
from ..core.machine import usable_cores
from ..core.notes import Note
from ..encoders.base import BOX
from .runtimes import Session, raise_if_memory

_CPU = "CPUExecutionProvider"
_ON_GPU = ("cuda", "tensorrt")
_THREADS_VARIABLE = "OMP_NUM_THREADS"
# ONNX Runtime's levels: 4 is fatal only. What else it would print names files and nodes, and errors are raised anyway.
_LOG_FATAL_ONLY = 4


MAX_RUN_S = 900.0  # of a window; the largest published network takes less than a minute on one core


@dataclass(frozen=True)
class Provider:
    """One execution provider of ONNX Runtime.

    Attributes:
        name: ONNX Runtime's name.
        remedy: What to do to have it, a sentence.
        precisions: What it can compute in; the first is the default.
        selectable: Whether a device number or name may follow, as in `cuda:1`.
    """

    name: str
    remedy: str
    precisions: tuple[str, ...] = ("fp32",)
    selectable: bool = False


def _swap(package: str) -> str:
    every = "onnxruntime onnxruntime-gpu onnxruntime-openvino"
    return f"Run: python -m pip uninstall -y {every} && python -m pip install {package}"


_GPU = '"onnxruntime-gpu[cuda,cudnn]"'  # quoted as every shell takes it, also cmd.exe
PROVIDERS: dict[str, Provider] = {
    "cuda": Provider("CUDAExecutionProvider", _swap(_GPU), ("fp32",), True),
    "tensorrt": Provider("TensorrtExecutionProvider", _swap(f"{_GPU} tensorrt"), ("fp32", "fp16", "bf16"), True),
    "openvino": Provider("OpenVINOExecutionProvider", _swap("onnxruntime-openvino"), ("fp32", "fp16", "bf16"), True),
    "coreml": Provider("CoreMLExecutionProvider", "CoreML exists on Macs only.", ("fp32", "fp16")),
    "cpu": Provider(_CPU, _swap("onnxruntime")),
}
# TensorRT is used only by name, for it compiles the graph for minutes. CoreML has no 3D convolution
# (https://onnxruntime.ai/docs/execution-providers/CoreML-ExecutionProvider.html): it serves networks of slices.
AUTO_ORDER = ("cuda", "openvino", "coreml", "cpu")


def open_onnx(bundle: Bundle, device: str, precision: str, notes: tuple[Note, ...]) -> Session:
    """Load the graph onto a device; see `runtimes.open_session`."""
    import onnxruntime

    if device != "auto":
        return _open(bundle, device, precision, notes)
    for candidate in candidates(bundle, precision):
        try:
            return _open(bundle, candidate, precision, (*notes, Note("device", f"Device {candidate} was chosen.")))
        except (RuntimeUnavailableError, OutOfMemoryError) as error:
            if candidate == "cpu":
                raise
            notes = (*notes, Note("device", f"Device {candidate} was passed over: {error}"))
    raise RuntimeUnavailableError(
        f"Precision {precision} is for no device of onnxruntime {onnxruntime.__version__} here. Choose fp32."
    )


def candidates(bundle: Bundle, precision: str = "auto") -> list[str]:
    """Devices to try for `auto`: those of this build that have the precision, in the order of `AUTO_ORDER`."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return [
        name
        for name in AUTO_ORDER
        if PROVIDERS[name].name in available
        and (name != "coreml" or bundle.spec.is_slice_based)
        and (precision == "auto" or precision in PROVIDERS[name].precisions)
    ]


def unavailable_reason(device: str) -> str:
    """A sentence, or nothing where this build of ONNX Runtime has the device's provider.

    That the provider also starts is known only when a session opens.
    """
    import onnxruntime

    kind, _, which = device.partition(":")
    provider = PROVIDERS.get(kind)
    if provider is None or (which and not provider.selectable):
        return f"it must be one of {', '.join(PROVIDERS)}; cuda, tensorrt and openvino may name one, e.g. cuda:1."
    if kind in ("cuda", "tensorrt") and which and not which.isdigit():
        return f"'{which}' must be a number."
    if provider.name not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} is built without {provider.name}. {provider.remedy}"
    return ""


def thread_count() -> int:
    """CPU cores that this process may use; OMP_NUM_THREADS lowers it."""
    cores = usable_cores()
    wanted = os.environ.get(_THREADS_VARIABLE, "")
    return min(cores, int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else cores


def _open(bundle: Bundle, device: str, precision: str, notes: tuple[Note, ...]) -> Session:
    import onnxruntime

    reason = unavailable_reason(device)
    if reason:
        raise RuntimeUnavailableError(f"Device '{device}' cannot be used by ONNX Runtime: {reason}")
    kind = device.partition(":")[0]
    provider = PROVIDERS[kind]
    precision = provider.precisions[0] if precision == "auto" else precision
    if precision not in provider.precisions:
        have = ", ".join(provider.precisions)
        raise RuntimeUnavailableError(
            f"Precision {precision} is not for device '{device}' of ONNX Runtime. Choose {have}."
        )
    if kind in _ON_GPU:
        onnxruntime.preload_dlls()
    session = _create(bundle, device, provider, precision)
    run = DeviceBuffers(session, device).run if kind in _ON_GPU else lambda *run: session.run(None, *run)[0]
    names = [node.name for node in session.get_inputs()]
    takes_box = BOX in names
    arrays = [name for name in names if name != BOX]

    def forward(inputs: list[np.ndarray], box: np.ndarray | None) -> np.ndarray:
        if len(inputs) != len(arrays):
            raise ValueError(f"The network must be given {', '.join(arrays)}, got {len(inputs)} arrays.")
        feed = dict(zip(arrays, inputs, strict=True))
        if takes_box:
            whole = np.array([(0, 0, 0), inputs[0].shape[2:]], np.int64)
            feed[BOX] = whole if box is None else box
        options = onnxruntime.RunOptions()
        timer = Timer(MAX_RUN_S, setattr, (options, "terminate", True))  # heeded before each operator of the graph
        timer.daemon = True
        timer.start()
        try:
            return run(feed, options)
        except Exception as error:  # ONNX Runtime's own classes share no public parent
            if options.terminate:
                raise BundleError(
                    f"The network of bundle '{bundle.name}' took more than {MAX_RUN_S:g} s for a window. "
                    "Choose a smaller network or another device."
                ) from error
            raise_if_memory(error, session.get_providers()[0], inputs[0].shape)
            raise
        finally:
            timer.cancel()

    versions = {"onnxruntime": onnxruntime.__version__}
    return Session(bundle, "onnx", device, precision, versions, notes, forward, takes_box)


class DeviceBuffers:
    """A session's inputs and output at fixed places on its device, as long as their sizes stay.

    A window then goes there and its output comes back, and nothing else is allocated or copied. The same code runs on
    the processor, where it gives the same and saves nothing.
    """

    def __init__(self, session: Any, device: str) -> None:
        kind, _, which = device.partition(":")
        self._session = session
        self._place = ("cuda" if kind in _ON_GPU else "cpu", int(which or 0))
        self._output = session.get_outputs()[0].name
        self._sizes: object = None
        self._inputs: dict[str, Any] = {}
        self._binding: Any = None

    def run(self, feed: dict[str, np.ndarray], options: Any = None) -> np.ndarray:
        """The first output of arrays by the names of the inputs; the arrays stay as they are."""
        # The output's size follows from these.
        sizes = {name: a.tobytes() if name == BOX else (a.shape, a.dtype) for name, a in feed.items()}
        if sizes == self._sizes:
            for name, array in feed.items():
                self._inputs[name].update_inplace(array)
            self._session.run_with_iobinding(self._binding, options)
            return np.array(self._binding.get_outputs()[0].numpy())
        from onnxruntime import OrtValue

        self._sizes, self._binding = None, self._session.io_binding()
        # Of copies, since on the processor a value may be the array itself, which later windows must not overwrite.
        self._inputs = {name: OrtValue.ortvalue_from_numpy(a.copy(), *self._place) for name, a in feed.items()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_output(self._output, *self._place)
        self._session.run_with_iobinding(self._binding, options)
        output = self._binding.get_outputs()[0]
        self._binding.clear_binding_outputs()
        self._binding.bind_ortvalue_output(self._output, output)
        self._sizes = sizes
        return np.array(output.numpy())


def _create(bundle: Bundle, device: str, provider: Provider, precision: str) -> Any:
    """An inference session that truly runs on `provider`.

    ONNX Runtime itself turns to the CPU with a warning where a provider does not start; here that is an error.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    options.inter_op_num_threads = 1
    # A pattern is one block of all that a run needs, made at its second run beside what the first one keeps: of the
    # published UNETR half as much memory again, and no time saved.
    options.enable_mem_pattern = False
    options.log_severity_level = _LOG_FATAL_ONLY
    path = bundle.cpu_onnx_path if provider.name == _CPU else bundle.onnx_path
    wanted = [(provider.name, _provider_options(device, precision))]
    if provider.name != _CPU:
        wanted.append((_CPU, {}))
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=wanted)
    except Exception as error:  # ONNX Runtime's own classes share no public parent
        raise_if_memory(error, device, None)
        if provider.name == _CPU:
            raise BundleError(
                f"The ONNX graph of bundle '{bundle.name}' cannot be loaded: {_first_line(error, bundle)}"
            ) from error
        raise RuntimeUnavailableError(f"Device '{device}' did not start: {_first_line(error, bundle)}") from error
    session.disable_fallback()
    if session.get_providers()[0] != provider.name:
        raise RuntimeUnavailableError(
            f"Device '{device}' did not start: {provider.name} found no device or lacks its libraries. "
            "Choose the device cpu, or see under Setup (vfm-transfer doctor) what is missing."
        )
    return session


def _provider_options(device: str, precision: str) -> dict[str, Any]:
    """Options that make a provider compute in `precision`."""
    kind, _, which = device.partition(":")
    if kind == "cuda":
        return {"device_id": which or "0", "use_tf32": "0"}
    if kind == "tensorrt":
        types = {"trt_fp16_enable": str(precision == "fp16"), "trt_bf16_enable": str(precision == "bf16")}
        return {"device_id": which or "0", **types}
    if kind == "openvino":
        hint = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[precision]
        config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": str(thread_count())}
        return {"device_type": which or "CPU", "load_config": json.dumps({which or "CPU": config})}
    if kind == "coreml":
        # The Neural Engine computes in fp16 only.
        units = "CPUAndGPU" if precision == "fp32" else "ALL"
        return {"ModelFormat": "MLProgram", "MLComputeUnits": units}
    return {}


def _first_line(error: BaseException, bundle: Bundle) -> str:
    """What an error of ONNX Runtime says, without the folder, whose name may be a patient's or a user's."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for folder in (bundle.folder.resolve(), bundle.folder.absolute(), bundle.folder):
        text = text.replace(f"{folder}{os.sep}", "")
    return text[:300]
