"""Whether what a batch wants of one case and bundle is there already, proved by the files themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .batch_summary import COMPARISON, read_json
from .bundle import Bundle
from .loaded_networks import LoadedNetworks
from .predict import DEFAULT_OPTIONS
from .result_files import RESULT
from .runtimes import Session


@dataclass(frozen=True)
class Wanted:
    """How results were asked for.

    Attributes:
        runtime, device, precision: As in `predict`; `auto` agrees with any.
        options: What else `predict` was told; the rest is its defaults.
    """

    runtime: str
    device: str
    precision: str
    options: dict[str, Any]

    def open(self, bundle: Bundle, networks: LoadedNetworks) -> Session:
        """The bundle's network, loaded where and how it is wanted."""
        return networks.open(bundle, runtime=self.runtime, device=self.device, precision=self.precision)

    def is_met(self, folder: Path, bundle: Bundle, newest_image_s: float) -> bool:
        """Whether a folder holds the bundle's whole result as it was asked for.

        Args:
            folder: The result's folder.
            bundle: The network whose weights must have made it.
            newest_image_s: When the case's newest file was written; a result must not be older.
        """
        document = read_json(folder / RESULT)
        if document is None or document.get("options") != {**DEFAULT_OPTIONS, **self.options}:
            return False
        model, files = document.get("model", {}), document.get("files", [])
        is_same = model.get("sha256") == bundle.weights_sha256 and self._ran_as_asked(model)
        is_whole = all((folder / name).is_file() for name in files)
        return is_same and is_whole and (folder / RESULT).stat().st_mtime >= newest_image_s

    def _ran_as_asked(self, model: dict[str, Any]) -> bool:
        asked = {"runtime": self.runtime, "device": self.device, "precision": self.precision}
        return all(value in ("auto", model.get(name)) for name, value in asked.items())


def is_compared(folder: Path, bundles: tuple[Bundle, ...]) -> bool:
    """Whether a comparison is there that is no older than the results that it compares."""
    path = folder / COMPARISON
    results = [folder / bundle.name / RESULT for bundle in bundles]
    if read_json(path) is None or not all(result.is_file() for result in results):
        return False
    return path.stat().st_mtime >= max(result.stat().st_mtime for result in results)


def newest_s(folder: Path) -> float:
    """When the newest file of a case was written, in seconds since the epoch; 0 where there is none."""
    return max((file.stat().st_mtime for file in folder.rglob("*") if file.is_file()), default=0.0)
