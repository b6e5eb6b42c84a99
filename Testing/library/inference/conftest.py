"""A small case, and the network that searches the prostate on it, or none."""

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import CROP, FakeSession, a_bundle, a_small_case, with_preprocess
from specs import MODELS

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import BundleError
from VFMTransferLib.core.terms import Arm, Label
from VFMTransferLib.inference import predict as prediction


@pytest.fixture
def a_case() -> Case:
    return a_small_case()


@pytest.fixture
def no_bundle_installed(monkeypatch):
    def none(task):
        raise BundleError("No pair.")

    monkeypatch.setattr(prediction, "default_pair", none)


@pytest.fixture
def gland_network(monkeypatch):
    """A shipped gland bundle whose network marks a ball in the middle of its window."""
    spec = with_preprocess(MODELS["profound-upernet-anatomy"], patch=(27, 65, 72), whole_volume=False)
    bundle = a_bundle(replace(spec, labels=(Label.PROSTATE,), activation="sigmoid", head=CROP.head), "gland")
    bundle = replace(bundle, arm=Arm.PRETRAINED)
    monkeypatch.setattr(prediction, "default_pair", lambda task: (bundle, bundle))
    z, y, x = np.indices((27, 65, 72))
    marked = ((z - 13) / 8) ** 2 + ((y - 32) / 16) ** 2 + ((x - 20) / 16) ** 2 < 1
    return FakeSession(lambda array: np.where(marked, 9.0, -9.0)[None, None])
