"""Names that the documentation and the shipped bundles of earlier states use still import, with a warning."""

import json
import re
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

from VFMTransferLib.core.aliases import MOVED, RENAMED

BUNDLES = Path(__file__).parents[3] / "Resources" / "Bundles"
# Module → names that could be imported from it before the library had rooms, those of README, docs and the bundles'
# inference.json among them.
IMPORTS = {
    "augment": "Augmentation",
    "batch.summary": "SUMMARY Row write_summary",
    "bundle": "read_bundle",
    "case": "Case",
    "catalog": "default_pair",
    "checkpoint": "read_network",
    "demonstration": "demonstration published",
    "doctor": "examine describe",
    "errors": "VFMTransferError",
    "estimators": "ESTIMATORS",
    "export": "export_onnx",
    "fast_convolution": "FastDepthwiseConv3d FastPatchConv3d accelerate",
    "fetching": "fetch_bundle",
    "finetune": "FinetuneConfig finetune initial_network",
    "grid_cell": "trained_run",
    "importing": "import_files",
    "job": "ArmResult Error ImageFile Progress Run",
    "job_replies": "CaseDone Compared Error Finished Progress Ready",
    "job_requests": "Batch Cancel Hello ImageFile Ping Run Shutdown",
    "models": "",
    "models.network": "build_network",
    "postprocess": "label_values",
    "predict": "predict predict_each predict_in_turn save_result",
    "preprocess": "prepare",
    "registration": "displacement_along registered",
    "registry": "MODELS ModelSpec",
    "report.colors": "ARM_A label_color",
    "result": "Lesion Provenance Result",
    "runtimes": "Session choose_runtime open_session",
    "specialised": "specialised_network",
    "study.candidates": "advise try_estimators",
    "study.cases": "real_cases task_cases training_cases",
    "study.comparison": "compare",
    "study.distance": "distance_to_pretraining paired_mmd2 unpaired_mmd2",
    "study_scores": "score_results",
    "terms": "Sequence",
    "trivial": "trivial_baseline",
    "version": "__version__",
    "volume": "Geometry Volume",
    "weights": "load_network",
    "worker_client": "WorkerClient",
    "worker_process": "end_process_tree how_it_ended worker_command",
}
# These modules are rooms now, so that nothing warns.
STILL_THERE = {
    "VFMTransferLib": "compare predict read_case save_result write_report",
    "VFMTransferLib.metrics": "dice hausdorff95_mm",
    "VFMTransferLib.tasks": "TASKS",
}
NEEDS_TORCH = r"augment|checkpoint|estimators|export|fast_conv|finetune|grid_cell|specialised|study.[cd]|weights"


@pytest.fixture
def not_yet_imported(monkeypatch):
    for name in MOVED:
        monkeypatch.delitem(sys.modules, f"VFMTransferLib.{name}", raising=False)


@pytest.mark.parametrize("old", IMPORTS)
def test_what_the_documentation_imported_still_imports_with_a_warning(old, not_yet_imported):
    if re.search(NEEDS_TORCH, old):
        pytest.importorskip("torch")
    with pytest.warns(DeprecationWarning, match="the old name is deprecated"):
        module = import_module(f"VFMTransferLib.{old}")
    for name in IMPORTS[old].split():
        assert getattr(module, name) is not None


def test_every_old_module_is_among_them():
    assert set(MOVED) == set(IMPORTS)


@pytest.mark.parametrize("module", STILL_THERE)
def test_names_that_stayed_import_without_a_warning(module):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for name in STILL_THERE[module].split():
            assert getattr(import_module(module), name) is not None


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_leads_to_modules_that_exist(old, not_yet_imported):
    pytest.importorskip("torch")
    with pytest.warns(DeprecationWarning, match=f"VFMTransferLib.{old} is now VFMTransferLib.{MOVED[old][0]};"):
        module = import_module(f"VFMTransferLib.{old}")
    for home in MOVED[old]:
        name = next(name for name in vars(import_module(f"VFMTransferLib.{home}")) if name[0] != "_")
        assert hasattr(module, name)


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_a_renamed_name_leads_to_its_successor(old, not_yet_imported):
    pytest.importorskip("torch")
    module, _, name = old.rpartition(".")
    with pytest.warns(DeprecationWarning, match=module):
        assert getattr(import_module(f"VFMTransferLib.{module}"), name) is not None


def test_an_old_function_gives_what_its_successor_gives(not_yet_imported):
    from VFMTransferLib.encoders import find_family, published_models
    from VFMTransferLib.tasks import TASKS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from VFMTransferLib.demonstration import demonstration
        from VFMTransferLib.registry import MODELS
        from VFMTransferLib.trivial import trivial_baseline
    task = TASKS["lesion-segmentation"]
    assert demonstration("profound", task.id) == find_family("profound").network_for(task, "demonstration")
    assert published_models() == MODELS
    assert callable(trivial_baseline(task.id, []))


def test_a_name_that_never_was_is_an_error(not_yet_imported):
    with pytest.warns(DeprecationWarning, match="registry"):
        module = import_module("VFMTransferLib.registry")
    with pytest.raises(AttributeError, match=r"module 'VFMTransferLib\.registry' has no attribute 'no_such_name'"):
        module.no_such_name  # noqa: B018


def test_ids_of_tasks_are_still_members_of_an_enumeration_that_equal_plain_text():
    from VFMTransferLib.tasks import TASKS

    with pytest.warns(DeprecationWarning, match="plain text"):
        from VFMTransferLib.core.terms import TaskId
    assert list(TaskId) == list(TASKS)
    assert TaskId.ANATOMY_SEGMENTATION == "anatomy-segmentation"


def test_names_in_the_shipped_bundles_configurations_lead_somewhere(not_yet_imported):
    pytest.importorskip("torch")
    found = set()
    for file in BUNDLES.glob("*/configs/inference.json"):
        config = json.dumps(json.loads(file.read_text(encoding="utf-8")))
        found |= set(re.findall(r"from (VFMTransferLib[\w.]*) import (\w+)", config))
        found |= set(re.findall(r"\b(VFMTransferLib(?:\.\w+)*)\.(\w+)\b", config))
    assert len(found) > 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for module, name in found:
            assert hasattr(import_module(module), name) or import_module(f"{module}.{name}")


def test_the_warning_points_at_the_importing_line():
    code = "import warnings\nwarnings.simplefilter('always')\n\nimport VFMTransferLib.errors\n"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "<string>:4: DeprecationWarning" in run.stderr


def test_the_old_functions_of_predict_give_one_result_a_network_and_predict_can_still_be_called():
    script = """
import VFMTransferLib
from VFMTransferLib.predict import predict_each, predict_in_turn
from VFMTransferLib import predict
from prediction_cases import FakeSession, a_bundle, a_small_case, with_preprocess
bundles = [a_bundle(with_preprocess("profound-upernet-lesion", patch=(16, 32, 40)), name) for name in "ab"]
session = FakeSession(lambda x: x[:, :1])
found = predict_each(a_small_case(), bundles, crop="center", open_network=lambda bundle: session)
assert [result.provenance.bundle for result in found] == ["a", "b"]
turn = predict_in_turn(a_small_case(), bundles, "auto", "cpu", crop="center", open_network=lambda bundle: session)
assert next(turn).provenance.bundle == "a"
assert predict(a_small_case(), bundles[1], crop="center", open_network=lambda bundle: session).provenance.bundle == "b"
"""
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{script}"], check=True)
