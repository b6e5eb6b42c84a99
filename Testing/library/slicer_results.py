"""Runs whose numbers the library itself compared, as the logic hands them to the panel."""

from __future__ import annotations

import json
from typing import Any

import slicer_scenes  # noqa: F401  (makes the module importable, and skips where there is no MRML)
from comparison_cases import a_case

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.result import Result
from VFMTransferLib.evaluation.comparison import compare, comparison_document
from VFMTransferLib.io.results import result_to_json
from VFMTransferSlicer.runs import ArmInScene, RunInScene


def as_read(document: dict[str, Any]) -> dict[str, Any]:
    """As it comes out of a file."""
    return json.loads(json.dumps(document))


def a_run(*results: Result, about=None, compared: bool = True, reference=None, case: Case | None = None, **more: Any):
    """A run of one or two networks.

    Args:
        results: What they say.
        about: The input's node, where the test needs one.
        compared: Whether the comparison is there already.
        reference: The truth, as `compare` takes it.
        case: What they saw.
        more: Further fields of the run.
    """
    arms = [ArmInScene(result.provenance.bundle, as_read(result_to_json(result))) for result in results]
    comparison = None
    if compared and len(results) > 1:
        comparison = as_read(comparison_document(compare(case or a_case(), *results, reference)))
    return RunInScene(results[0].task, {}, about, arms, comparison=comparison, **more)
