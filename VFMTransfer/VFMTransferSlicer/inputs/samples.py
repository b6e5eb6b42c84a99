"""Sample data: phantoms, made on this computer by a child process. No network, no patient.

Runs wherever there is a stand-in for `qt.QProcess`; only `registerSampleData` needs the application.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import slicer

from VFMTransferLib.core.errors import JobError, VFMTransferError
from VFMTransferLib.core.terms import Sequence

from ..signals import Signal
from ..workers.process import LibraryProcess, MakeProcess, newProcess
from ..workers.steps import StepQueue, Steps
from .phantoms import findPhantom, loadPhantom, nameOf

CATEGORY = "VFM Transfer"
SAMPLE_SEED = 7  # one lesion of the peripheral zone, ISUP grade group 3
THUMBNAIL = Path(__file__).resolve().parents[2] / "Resources" / "Icons" / "VFMTransferPhantom.png"
_LAST_LINES = 10


class PhantomMaker:
    """Makes one phantom at a time and loads it; the window goes on meanwhile.

    Args:
        later: Calls a function when the window had its turn.
        makeProcess: Makes a `qt.QProcess`; see `process.newProcess`.

    Attributes:
        loaded: Emitted with the `PhantomInScene`.
        failed: Emitted with a sentence to show, and details for a bug report.
    """

    def __init__(self, later: Callable[[Callable[[], None]], None], makeProcess: MakeProcess = newProcess) -> None:
        self._steps = StepQueue(later)
        self._makeProcess = makeProcess
        self._process: LibraryProcess | None = None
        self._folder: TemporaryDirectory | None = None
        self._closing: tuple[slicer.vtkMRMLScene, int] | None = None
        self.loaded, self.failed = Signal(), Signal()

    @property
    def isBusy(self) -> bool:
        return self._folder is not None

    def make(self, seed: int, scene: slicer.vtkMRMLScene) -> None:
        """Bring a phantom into the scene, unless it is there; `loaded` or `failed` tells.

        Raises:
            JobError: Another one is on its way.
        """
        if self.isBusy:
            raise JobError("A phantom must be finished before the next one begins. Wait a moment.")
        if (phantom := findPhantom(scene, seed)) is not None:
            self.loaded.emit(phantom)
            return
        folder = self._folder = TemporaryDirectory(prefix="VFMTransfer-", ignore_cleanup_errors=True)
        self._closing = scene, scene.AddObserver(scene.StartCloseEvent, lambda caller, event: self.cancel())
        arguments = ["phantom", "--seed", str(seed), "--no-full-resolution", "--output", folder.name]
        self._process = LibraryProcess(
            arguments,
            onLine=lambda line: None,
            onDone=lambda code, output, errors: self._onMade(folder, seed, scene, code, errors),
            makeProcess=self._makeProcess,
        )
        self._process.start()

    def cancel(self) -> None:
        """Stop, and leave nothing; nobody is told. The end of the scene does this as well."""
        if self.isBusy:
            if self._process is not None and self._process.isRunning:
                self._process.cancel()
            self._steps.clear()
            self._tidy()

    def _onMade(
        self, folder: TemporaryDirectory, seed: int, scene: slicer.vtkMRMLScene, code: int, errors: list[str]
    ) -> None:
        if folder is not self._folder:  # canceled
            return
        if code:
            self._fail(
                errors[-1] if errors else f"{nameOf(seed)} could not be made: its process ended with exit code {code}.",
                errors,
            )
            return
        self._steps.add(self._load(Path(folder.name), seed, scene), lambda error: self._fail(str(error), []))

    def _load(self, folder: Path, seed: int, scene: slicer.vtkMRMLScene) -> Steps:
        made = sorted(folder.iterdir())
        if not made:
            raise VFMTransferError(f"{nameOf(seed)} was made, but its files are gone. Try again.")
        if findPhantom(scene, seed) is None:  # two makers may have been asked
            yield from loadPhantom(made[0], seed, scene)
        self._tidy()
        self.loaded.emit(findPhantom(scene, seed))

    def _fail(self, sentence: str, errors: list[str]) -> None:
        self._tidy()
        self.failed.emit(sentence, "\n".join(errors[-_LAST_LINES:]))

    def _tidy(self) -> None:
        folder, self._folder = self._folder, None
        closing, self._closing = self._closing, None
        if closing is not None:
            scene, tag = closing
            scene.RemoveObserver(tag)
        if folder is not None:
            folder.cleanup()


def showInViews(volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Show a volume in the slice views, in the plane of its own slices, if there are any views."""
    if slicer.app.layoutManager() is not None:
        slicer.util.setSliceViewerLayers(background=volume, foreground=None, fit=True, rotateToVolumePlane=True)


def registerSampleData() -> None:
    """Offer the sample study in Slicer's Sample Data module; called once the application has started."""
    import qt
    import SampleData
    from slicer.i18n import tr as _

    maker = PhantomMaker(lambda step: qt.QTimer.singleShot(0, step))
    maker.loaded.connect(lambda phantom: showInViews(phantom.volumes[Sequence.T2W]))
    maker.failed.connect(lambda sentence, details: slicer.util.errorDisplay(sentence, detailedText=details))

    def download(source: SampleData.SampleDataSource) -> None:
        if not maker.isBusy:
            slicer.util.showStatusMessage(_("Making the phantom; it takes some seconds."), 10000)
            maker.make(SAMPLE_SEED, slicer.mrmlScene)

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # from Slicer 5.12 on
        logic.registerCustomSampleDataCategory(CATEGORY, _("VFM Transfer"))
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=nameOf(SAMPLE_SEED),
        thumbnailFileName=str(THUMBNAIL),
        uris="",
        customDownloader=download,
    )
