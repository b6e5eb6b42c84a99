"""Label maps of any structures, on the scanned grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import CENTER_MM, SOURCE, an_anatomy_spec, ball, decode, dice, distance_mm, with_preprocess
from specs import MODELS, prepare

from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.tasks.segmentation import label_values

ZONES = (Label.BACKGROUND, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)


def test_label_values_are_channels_counted_past_the_background():
    assert label_values(replace(MODELS["profound-upernet-anatomy"], labels=ZONES)) == {
        "peripheral-zone": 1,
        "transition-zone": 2,
    }
    assert label_values(MODELS["profound-upernet-lesion"]) == {"csPCa": 1}
    assert label_values(MODELS["provicnet-t2w"])["csPCa"] == 3


def test_unnamed_structures_keep_all_their_parts(a_case):
    spec = an_anatomy_spec((Label.BACKGROUND, "structure-1", "structure-2"))
    prepared = prepare(a_case, spec)
    one, two = distance_mm(prepared) < 5, distance_mm(prepared, (-14.0, 10.0, 0.0)) < 4
    logits = np.stack([np.where(one | two, -9.0, 9.0), np.where(one | two, 9.0, -9.0), np.full(one.shape, -9.0)])
    result = decode(logits, prepared, a_case, spec, SOURCE)
    reference = a_case[Sequence.T2W].geometry
    truth = (ball(reference, CENTER_MM, 5).array > 0) | (ball(reference, (-14.0, 10.0, 0.0), 4).array > 0)
    assert dice(result.labels.array == 1, truth) > 0.9
    assert "prostate" not in result.volumes_ml


def test_threshold_of_the_caller_goes_before_the_networks(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(32, 48, 48))
    prepared = prepare(a_case, spec)
    logits = np.where(distance_mm(prepared) < 4, 3.0, -6.0)[None]
    assert decode(logits, prepared, a_case, spec, SOURCE, threshold=0.99).lesions == ()
    with pytest.raises(ValueError, match="between 0 and 1"):
        decode(logits, prepared, a_case, spec, SOURCE, threshold=40)
