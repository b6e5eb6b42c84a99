"""The document on scale says what its script computes, and the script computes what its formulas say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDED = {
    "machine": "a machine",
    "torch": "2",
    "seconds": {
        "prepare_view": 2.0,
        "prepare_slice": 1.0,
        "draw_view": 0.5,
        "draw_slice": 0.1,
        "step_mae": 10.0,
        "step_contrast": 5.0,
        "scheduled_task": 0.001,
    },
    "prepared_bytes": {"view": 20e6, "slice": 30e6},
    "two_threads": 1.9,
    "forward_flop": {"mae": 104e9, "provicnet lesion-segmentation": 52e9, "profound classification": 26e9},
    "parameters": {"mae": 40e6, "provicnet lesion-segmentation": 70e6, "profound classification": 30e6},
}


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import scale

    return scale


def test_the_documents_tables_are_those_of_the_recorded_measurements(scale):
    text = scale.DOCUMENT.read_text(encoding="utf-8")
    recorded = json.loads(scale.RECORDED.read_text(encoding="utf-8"))
    assert scale.BEGIN in text
    assert scale.rewritten(text, recorded) == text


def test_what_was_counted_is_still_so(scale):
    """The two published networks that are pretrained; counting builds them without memory."""
    import torch
    from specs import MODELS, PROFOUND_ENCODER

    from benchmarks.scale_measurements import DECODER_WIDTH, _inputs, of_network
    from VFMTransferLib.encoders import build_network
    from VFMTransferLib.encoders.profound.pretraining import MaskedAutoencoder
    from VFMTransferLib.training.samples import SLICES_A_CASE

    recorded = json.loads(scale.RECORDED.read_text(encoding="utf-8"))
    with torch.device("meta"):
        autoencoder = MaskedAutoencoder(PROFOUND_ENCODER, DECODER_WIDTH)
        fusion = build_network(MODELS["provicnet-fusion"])
        assert [tuple(x.shape) for x in _inputs(MODELS["provicnet-fusion"])] == [(1, 3, 448, 448)] * 3 + [(1, 2)]
    for network, name in ((autoencoder, "mae"), (fusion, "provicnet lesion-segmentation")):
        assert sum(p.numel() for p in network.parameters()) == recorded["parameters"][name]
    classifier = "provicnet classification"  # whose order of classes must come to the meta device too
    counted = recorded["forward_flop"][classifier], recorded["parameters"][classifier]
    assert of_network(*classifier.split()) == counted
    assert scale.GLAND_SLICES == SLICES_A_CASE


def test_a_gpus_seconds_by_hand(scale):
    mae = scale.Training("x", "mae", 1000, "view")
    assert mae.gpu_s(RECORDED, 0.1) == pytest.approx(1000 * 3 * 104e9 / 31.2e12)  # ten seconds
    assert mae.draw_s(RECORDED) == 500
    assert mae.share_s(RECORDED, 1) == 0
    steps, moved = 1000 / 32, 2 * 7 / 8 * 4 * 40e6
    assert mae.share_s(RECORDED, 8) == pytest.approx(steps * moved / 300e9)


def test_trainings_are_handed_out_longest_first(scale):
    assert scale._makespan_s([3, 3, 2, 2, 2], 1) == 12
    assert scale._makespan_s([2, 3, 2, 3, 2], 2) == 7
    assert scale._makespan_s([5, 1], 64) == 5


def test_a_row_of_the_table_by_hand(scale):
    rows = [row for row in scale._gpus(RECORDED).splitlines() if row.startswith("| masked autoencoder")]
    cells = [cell.strip() for cell in rows[1].strip("|").split("|")]
    views, cores = 4e6, 8 * 16
    prepare, draw = 5000 * 2 / cores / 3600, views * 0.5 / cores / 3600
    compute = views * 3 * 104e9 / 31.2e12 / 8 / 3600
    share = views / 32 * 2 * 7 / 8 * 160e6 / 300e9 / 3600
    assert prepare + draw > compute + share  # samples are what a GPU waits for
    expected = [prepare, draw, compute, share, prepare + draw, compute + share]
    assert cells[1:8] == ["8", *(f"{hours:.2f}" for hours in expected)]
    assert cells[8:] == [
        f"{1 - compute / (prepare + draw):.0%}",
        "100%",
    ]  # 8 times the cores, an eighth of the time


def test_a_training_whose_samples_are_cheap_takes_what_its_gpus_compute(scale):
    cheap = {**RECORDED, "seconds": {**RECORDED["seconds"], "draw_view": 1e-3, "prepare_view": 0.0}}
    mae = scale.PRETRAININGS[0]
    _, _, compute, share = scale._parts_s(mae, cheap, 64, scale.STUDIES)
    assert scale._in_all_s(mae, cheap, 64, scale.STUDIES) == compute + share > 0
