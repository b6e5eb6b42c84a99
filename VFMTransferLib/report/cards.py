"""What each arm is, as HTML: weights, runtime, versions, time, and the bundle's own words."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ..bundle import Bundle
from ..result import Provenance
from ..study.titles import ARM_TITLES

MAX_ITEMS = 12


def model_card(who: str, provenance: Provenance, bundle: Bundle | None) -> str:
    """The card of arm `who` ("a" or "b")."""
    rows = {"Bundle": escape(provenance.bundle)}
    if bundle is not None:
        rows |= _bundle_rows(bundle)
    rows |= {
        "Weights, SHA-256": f"<code>{escape(provenance.sha256)}</code>",
        "Ran with": escape(f"{provenance.runtime} on {provenance.device}"),
        "Time": escape(_seconds_text(provenance.seconds)),
        "Versions": escape(", ".join(f"{name} {version}" for name, version in provenance.versions.items())),
    }
    rows |= {"Notes": "<br>".join(escape(note) for note in provenance.notes)}
    arm = ARM_TITLES.get(provenance.arm, "")
    tags = [arm] if arm else []
    if bundle is not None and bundle.demonstration:
        tags.append("Demonstration network")
    return (
        f'<article class="card-{who}"><h3><span class="arm-{who}">{who.upper()}</span> {escape(provenance.title)}'
        + "".join(f'<span class="tag">{escape(tag)}</span>' for tag in tags)
        + "</h3><dl>"
        + "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows.items() if text)
        + "</dl></article>"
    )


def _bundle_rows(bundle: Bundle) -> dict[str, str]:
    return {
        "Description": escape(bundle.description),
        "Version": escape(bundle.version),
        "Architecture": f"{escape(bundle.spec.title)}, {escape(bundle.spec.paper)}",
        "License of the weights": escape(bundle.license),
        "Training": _mapping(bundle.training),
        "Metrics": _mapping(bundle.metrics),
    }


def _mapping(values: Mapping[str, Any]) -> str:
    """Plain entries of free JSON; nested ones are left to the bundle's own files."""
    plain = {key: value for key, value in values.items() if isinstance(value, str | int | float | bool)}
    items = [f"{escape(str(key).replace('_', ' '))}: {escape(_value(value))}" for key, value in plain.items()]
    return "<br>".join(items[:MAX_ITEMS])


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _seconds_text(seconds: Mapping[str, float]) -> str:
    stages = ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items())
    return f"{sum(seconds.values()):.2f} s ({stages})" if seconds else ""
