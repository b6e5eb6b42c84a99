"""Model cards in the form of PI-CAI's algorithm cards, of any bundle and of those that ship."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import make_bundle

from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.bundles.card import INAPPROPRIATE, STOP_WHEN, card_sections, model_card
from VFMTransferLib.bundles.metadata import inference_config
from VFMTransferLib.tasks import TASKS

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(path for path in (ROOT / "Resources" / "Bundles").iterdir() if path.is_dir())
HEADINGS = (
    *("Summary", "Mechanism", "Population", "Training", "Validation and performance", "Uses and directions"),
    *("Warnings", "Inappropriate settings", "Stop using it when"),
)


@pytest.fixture(scope="module")
def a_bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "b")


def test_a_card_has_every_section_in_order(a_bundle):
    card = model_card(a_bundle)
    found = re.findall(r"^#{2,3} (.*)$", card, flags=re.MULTILINE)
    assert tuple(found) == HEADINGS
    for lines in (INAPPROPRIATE, STOP_WHEN):
        assert all(line in card for line in lines)


def test_a_card_states_whom_the_network_was_trained_on(a_bundle):
    trained = replace(a_bundle, training={"data": "3 phantoms"})
    assert "Trained on 3 phantoms. Patients, scanners and protocols beyond those" in model_card(trained)
    assert "Trained on men." in model_card(trained, population="Trained on men.")
    assert "not stated" in card_sections(model_card(replace(a_bundle, training={})))["Population"]


def test_limits_and_measurements_that_are_given_are_in_their_sections(a_bundle):
    sections = card_sections(model_card(a_bundle, measured=["| a |"], limits=["Small."], training=["From nothing."]))
    assert sections["Limits"] == "- Small."
    assert sections["Validation and performance"] == "| a |"
    assert sections["Training"] == "From nothing."


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_what_monai_runs_of_a_shipped_bundle_is_of_this_version(folder):
    assert json.loads((folder / "configs" / "inference.json").read_text(encoding="utf-8")) == inference_config()


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_card_has_the_form_and_its_measurements(folder):
    bundle = read_bundle(folder)
    sections = card_sections(bundle.card_path.read_text(encoding="utf-8"))
    assert all(sections.get(name) is not None for name in (*HEADINGS, "Limits"))
    task = TASKS[bundle.spec.task]
    assert all(line in sections["Inappropriate settings"] for line in (*task.inappropriate_settings, *INAPPROPRIATE))
    assert all(line in sections["Stop using it when"] for line in (*task.stop_using_when, *STOP_WHEN))
    assert sections["Population"].startswith("Trained on")
    assert "|---|" in sections["Validation and performance"]
