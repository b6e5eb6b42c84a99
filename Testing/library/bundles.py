"""Small bundles for tests: real networks with made-up weights, written and exported by the product."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from networks import SMALL_SPECS, small_network
from specs import ViTSpec

from VFMTransferLib.bundles.bundle import Bundle, write_bundle
from VFMTransferLib.bundles.onnx_export import export_onnx
from VFMTransferLib.core.terms import Arm
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.base import ModelSpec


def make_bundle(
    folder: Path, spec: str = "profound-classifier", *, half: bool = False, onnx: bool = False, **about: Any
):
    """Write the bundle of a small network; `about` sets further fields of `Bundle`."""
    about = {"name": folder.name, "title": "A test network", "version": "1.2.3", **about}
    bundle = Bundle(folder, spec=SMALL_SPECS[spec], **about)
    bundle = write_bundle(bundle, small_network(spec).state_dict(), half=half)
    return export_onnx(bundle) if onnx else bundle


def make_anatomy_pair(folder: Path) -> tuple[Bundle, Bundle]:
    """Two arms of a zone network with fresh weights: `folder/tiny-pretrained` and `folder/tiny-scratch`."""
    first, second = (_make_arm(folder / f"tiny-{arm}", arm, seed) for seed, arm in enumerate(Arm))
    return first, second


def tiny_anatomy() -> ModelSpec:
    """Anatomy of two zones at 4 mm by ProViCNet, whose graph is the smallest; the small test images fill a window."""
    spec = SMALL_SPECS["provicnet-anatomy"]
    return replace(
        spec,
        encoder=ViTSpec(depth=1, dim=16, heads=2, registers=1, patch_px=8, image_px=32, pretrained_image_px=32),
        preprocess=replace(spec.preprocess, spacing_mm=(2.0, 2.0, 4.0), patch=(1, 32, 32)),
    )


def _make_arm(folder: Path, arm: Arm, seed: int) -> Bundle:
    torch.manual_seed(seed)
    weights = build_network(tiny_anatomy()).state_dict()
    bundle = Bundle(folder, folder.name, f"A tiny network, {arm}", "1.0.0", tiny_anatomy(), arm, demonstration=True)
    return export_onnx(write_bundle(bundle, weights))
