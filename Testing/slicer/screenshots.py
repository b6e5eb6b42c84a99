"""Takes the pictures of `docs/slicer.md`: the module in each of its states, on a phantom.

    Slicer --testing --no-splash --additional-module-paths <clone>/VFMTransfer \\
        --python-script <this file> <clone>/docs/images [radiology]

With `radiology` those of image quality, sector map and DICOM alone.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import ctk
import qt
import slicer

sys.path.insert(0, str(Path(__file__).resolve().parent))

from in_slicer import MODULE, waitFor

from VFMTransferLib.core.terms import Sequence
from VFMTransferSlicer.panel.views import ViewSection
from VFMTransferSlicer.workers.process import theWorker

SIZE = (1500, 1010)
QUALITY = 70  # below 250 KB each
SECTIONS = ("study", "quality", "diffusion", "networks", "advanced", "log", "results", "view", "reading", "setup")


class Photographer:
    """The panel under its fingers, and a camera.

    Args:
        folder: Where the pictures go, as `slicer-<state>.jpg`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._window = slicer.util.mainWindow()
        self._window.resize(*SIZE)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)  # whatever was last
        slicer.util.setDataProbeVisible(False)
        slicer.util.selectModule(MODULE)
        widget = slicer.util.getModuleWidget(MODULE)
        self.ui, self.logic = slicer.util.childWidgetVariables(widget.parent), widget.logic
        self._views = next(section for section in widget.panel._sections if isinstance(section, ViewSection))
        self._panels = slicer.util.findChildren(self._window, className="QScrollArea")
        self._settle()

    def take(self, state: str, *opened: str, shown: qt.QWidget | None = None) -> None:
        """Take a picture with these sections open, the others closed, the panel scrolled to a widget."""
        for name in SECTIONS:
            section = getattr(self.ui, f"{name}CollapsibleButton")
            section.collapsed = name not in opened
        self._settle()
        for panel in self._panels:
            panel.verticalScrollBar().setValue(0)
            if shown is not None and panel.isAncestorOf(shown):
                panel.ensureWidgetVisible(shown)
        self._settle()
        image = ctk.ctkWidgetsUtils.grabWidget(self._window)
        path = self._folder / f"slicer-{state}.jpg"
        assert image.save(str(path), "JPG", QUALITY), path
        print(f"{path.name}: {path.stat().st_size // 1024} KB")

    def takeSample(self) -> None:
        """Click for the sample study, and wait until it is chosen."""
        self.ui.sampleButton.click()
        waitFor(lambda: self.ui.runButton.enabled, "The sample study")
        slicer.util.setSliceViewerLayers(background=self.ui.t2wSelector.currentNode(), fit=True)

    def run(self, during: Callable[[], None] | None = None) -> None:
        """Click Run and wait for the end; do something when the second network is at work."""
        outcomes, seen = [], []

        def onProgress(progress) -> None:
            if during is not None and not seen and progress.arm == 1 and progress.stage == "infer":
                seen.append(True)
                during()

        self.logic.finished.connect(outcomes.append)
        self.logic.progress.connect(onProgress)
        self.ui.runButton.click()
        waitFor(lambda: outcomes, "The end of the run")
        self.logic.finished.disconnect(outcomes.append)
        self.logic.progress.disconnect(onProgress)
        self._settle()

    def _settle(self) -> None:
        """Wait until the views that were asked for are open or gone, and Slicer has drawn them."""
        waitFor(lambda: not self._views._steps._work, "The views")
        for _ in range(20):
            slicer.app.processEvents()


def takeRadiology(photographer: Photographer) -> None:
    """The sample case as an exam from DICOM: its quality, then the sector map of its lesions, and DICOM as written."""
    from exams import ADatabase, loadSeries, writeExam

    ui = photographer.ui
    photographer.takeSample()
    sequences = {sequence: getattr(ui, f"{sequence}Selector").currentNode() for sequence in Sequence}
    exam = Path(tempfile.mkdtemp(prefix="VFM exam "))
    writeExam(sequences, exam)
    slicer.mrmlScene.Clear()
    slicer.dicomDatabase = ADatabase(exam)
    for sequence in sequences:
        node = loadSeries(exam / str(sequence), slicer.dicomDatabase, f"Exam {sequence}")
        getattr(ui, f"{sequence}Selector").setCurrentNode(node)
    slicer.util.setSliceViewerLayers(background=ui.t2wSelector.currentNode(), fit=True)
    ui.taskComboBox.setCurrentIndex(ui.taskComboBox.findData("lesion-segmentation"))
    ui.taskComboBox.activated(ui.taskComboBox.currentIndex)
    waitFor(lambda: ui.qualityLabel.text, "The criteria of image quality")
    photographer.take("quality", "quality")
    photographer.run()
    sections = slicer.util.getModuleWidget(MODULE).panel._sections
    writer = next(section for section in sections if type(section).__name__ == "DicomSection")
    writer.write(exam / "vfm-transfer-lesion-segmentation-dicom")
    waitFor(lambda: ui.exportDicomButton.enabled, "The end of writing")
    photographer.take("dicom", "results", shown=ui.dicomNoteLabel)
    shutil.rmtree(exam, ignore_errors=True)


def main(folder: Path) -> None:
    photographer = Photographer(folder)
    ui = photographer.ui
    if "radiology" in sys.argv[2:]:
        takeRadiology(photographer)
        return
    photographer.take("empty", "study", "networks")
    photographer.takeSample()
    photographer.take("loaded", "study", "networks")
    ui.examButton.click()
    photographer.take("exam", "study")
    ui.examButton.click()
    photographer.run(lambda: photographer.take("running", "networks", "log"))
    photographer.take("results", "results")
    ui.readingStartButton.click()
    photographer.take("reading", "reading")
    ui.readingLeftButton.click()
    ui.readingRevealButton.click()
    photographer.take("revealed", "reading")
    ui.readingStartButton.click()
    ui.sideBySideButton.click()
    photographer.take("setup", "advanced", "setup")
    photographer.run(lambda: os.kill(theWorker().ready.process_id, signal.SIGKILL))
    photographer.take("error", "networks", "log")
    takeRadiology(photographer)


main(Path(sys.argv[1]))
slicer.util.exit(slicer.util.EXIT_SUCCESS)
