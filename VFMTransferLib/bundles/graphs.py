"""What an ONNX graph may hold: checked in the file's own bytes, before ONNX Runtime sees it and without `onnx`.

A graph of ours is a chain of plain operators whose weights lie in `model.safetensors` beside it. Loops, branches,
functions, operators of other domains, and data in other files have no place in it. Format: protocol buffers
(https://protobuf.dev/programming-guides/encoding) of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..core.errors import BundleError
from ..core.files import plain_text, read_small

MAX_GRAPH_BYTES = 256 << 20
WEIGHTS_LOCATION = "model.safetensors"
# Arithmetic on tensors. Not here, on purpose: If, Loop, Scan and sequences (control), random numbers, strings.
_ALLOWED = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv
ConvTranspose Cos CumSum DepthToSpace Div Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu
Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK
Transpose Trilu Unsqueeze Where Xor
"""
OPERATORS = frozenset(_ALLOWED.split())
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Numbers of fields in onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = 5, 10
_ATTRIBUTE_REFUSED = (6, 11, 22, 23)  # graph, graphs, sparse tensors
_TENSOR_EXTERNAL = 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_OUR_DOMAINS = (b"", b"ai.onnx")


def require_plain_graph(path: Path, bundle: str) -> None:
    """Raise BundleError unless a graph holds plain operators only, and data in itself or in the bundle's weights.

    Args:
        bundle: Its name, for the message.
    """
    try:
        problem = _problem(read_small(path, MAX_GRAPH_BYTES))
    except (OSError, ValueError, IndexError):
        problem = "its bytes are no graph"
    if problem:
        problem = plain_text(problem)
        raise BundleError(
            f"The ONNX graph of bundle '{bundle}' must hold plain operators and no data of other files, but {problem}. "
            "Do not use it; get the bundle again from its source, or export the graph again."
        )


def _problem(content: bytes) -> str:
    graphs = 0
    for field, value in _fields(content):
        if field == _MODEL_FUNCTIONS:
            return "it defines functions"
        if field == _MODEL_GRAPH:
            graphs += 1
            if problem := _graph_problem(value):
                return problem
    return "" if graphs == 1 else f"it holds {graphs} graphs"


def _graph_problem(content: bytes) -> str:
    for field, value in _fields(content):
        if field == _GRAPH_NODE and (problem := _node_problem(value)):
            return problem
        if field == _GRAPH_SPARSE:
            return "it holds sparse tensors"
        if field == _GRAPH_INITIALIZER and (problem := _tensor_problem(value)):
            return problem
    return ""


def _node_problem(content: bytes) -> str:
    for field, value in _fields(content):
        if field == _NODE_OPERATOR and value.decode("utf-8") not in OPERATORS:
            return f"it uses the operator '{value.decode('utf-8'):.40}'"
        if field == _NODE_DOMAIN and value not in _OUR_DOMAINS:
            return f"it uses operators of '{value.decode('utf-8'):.40}'"
        for inner, part in _fields(value) if field == _NODE_ATTRIBUTE else ():
            if inner in _ATTRIBUTE_REFUSED:
                return "it holds a graph within a graph"
            if inner in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and (problem := _tensor_problem(part)):
                return problem
    return ""


def _tensor_problem(content: bytes) -> str:
    for field, value in _fields(content):
        if field == _TENSOR_EXTERNAL:
            entry = dict(_fields(value))
            location = entry.get(_ENTRY_VALUE, b"").decode("utf-8")
            if entry.get(_ENTRY_KEY) == b"location" and location != WEIGHTS_LOCATION:
                return f"it takes data from '{location:.60}'"
    return ""


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field that is text, bytes or a message; numbers are skipped.

    Raises:
        ValueError, IndexError: The bytes are no message.
    """
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _varint(content, at)
            if at + length > len(content):
                raise ValueError("a field ends after its message")
            yield key >> 3, content[at : at + length]
            at += length
        else:
            raise ValueError("no kind of field")
    if at != len(content):
        raise ValueError("a field ends after its message")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has no end")
