"""The pretrainings that a fine-tuning could start from, and such cases as they were trained on, where at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .bundle import Bundle, read_bundle
from .catalog import find_bundle, list_bundles, shipped_folder
from .errors import DatasetError
from .metadata_fields import METADATA
from .study_cases import StudyCase, from_phantom
from .study_source import pretraining_phantoms
from .terms import TaskId

PHANTOM_COUNT = 8  # of pretraining's phantoms, made again
_STUDY = "Study"
OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class Start:
    """A pretraining.

    Attributes:
        bundle: Its bundle, as `vfm-transfer pretrain` writes it.
        cases: Cases such as it was trained on, of all sequences and with the gland, as cases of lesion segmentation;
            empty where they are not at hand.
    """

    bundle: Bundle
    cases: tuple[StudyCase, ...] = ()

    @property
    def objective(self) -> str:
        """How it was pretrained, as `mae`; empty where the bundle does not say."""
        return str(self.bundle.training.get("objective", ""))


def find_starts(names: Iterable[str], study: Path, on_progress: OnProgress | None = None) -> list[Start]:
    """The pretrainings of some names or folders; by default those that are installed, and the study's own.

    Raises:
        DatasetError: There is none.
        BundleError: A name stands for no bundle.
    """
    bundles = [find_bundle(name) for name in names] or _found(study)
    if not bundles:
        raise DatasetError(
            "Advice needs a pretraining to speak of, but none is installed. Make one with `vfm-transfer pretrain`, or "
            "name its folder with --pretrained."
        )
    made: tuple[StudyCase, ...] = ()
    if any(_is_of_phantoms(bundle) for bundle in bundles):
        phantoms = pretraining_phantoms(PHANTOM_COUNT, on_progress)
        made = tuple(from_phantom(phantom, TaskId.LESION_SEGMENTATION) for phantom in phantoms)
    return [Start(bundle, made if _is_of_phantoms(bundle) else ()) for bundle in bundles]


def shipped_study() -> Path:
    """The folder of the study that comes with the product; it may not be there."""
    bundles = shipped_folder()
    return Path(_STUDY) if bundles is None else bundles.parent / _STUDY


def _found(study: Path) -> list[Bundle]:
    """Bundles without a head that was trained: they name the objective of their pretraining."""
    installed = [b for b in list_bundles() if b.arm is None and "objective" in b.training]
    own = sorted(folder for folder in study.glob("work/pretrained/*") if (folder / METADATA).is_file())
    return [*installed, *map(read_bundle, own)]


def _is_of_phantoms(bundle: Bundle) -> bool:
    return str(bundle.training.get("data", "")).endswith("phantoms")
