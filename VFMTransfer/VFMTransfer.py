"""VFM Transfer in 3D Slicer: the classes that Slicer requires, each a thin cover of `VFMTransferSlicer`."""

import importlib
import sys
import time

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from VFMTransferSlicer.inputs.samples import SAMPLE_SEED, PhantomMaker, registerSampleData
from VFMTransferSlicer.logic import TransferLogic
from VFMTransferSlicer.parameters import VFMTransferParameterNode
from VFMTransferSlicer.results.scene import loadTerminology
from VFMTransferSlicer.widget import Panel, makeSections
from VFMTransferSlicer.workers.process import theWorker

# The package above makes the library importable, so it comes first.
# isort: split
from VFMTransferLib.core.terms import RESEARCH_USE

PACKAGES = ("VFMTransferLib", "VFMTransferSlicer")
PROSTATE_ML = (15, 120)  # of any grown man
PHANTOM_S = 300  # far more than it takes on a slow computer


class VFMTransfer(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("VFM Transfer")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The VFM Transfer contributors"]
        self.parent.helpText = _(
            "Runs prostate MRI networks on a case, and compares the one that started from pretrained weights "
            "with the one trained from scratch."
        )
        self.parent.helpText += f"<br>{RESEARCH_USE}"
        self.parent.acknowledgementText = _(
            "The networks follow ProFound (arXiv:2603.03961) and ProViCNet (arXiv:2502.00366). Cite their papers."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted():
    """Register what other modules offer of this one, as far as Slicer was started with them."""
    if hasattr(slicer.modules, "sampledata"):
        registerSampleData()
    if hasattr(slicer.modules, "terminologies"):
        loadTerminology(slicer.modules.terminologies.logic())  # codes of the prostate's zones


class VFMTransferWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel and its life with the scene."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/VFMTransfer.ui"))
        self.layout.addWidget(uiWidget)
        for label in slicer.util.findChildren(uiWidget, className="QLabel"):
            if label.wordWrap:  # Slicer would give the panel, and with it the window, the best width of each paragraph
                policy = label.sizePolicy
                policy.setHorizontalPolicy(qt.QSizePolicy.Ignored)
                label.setSizePolicy(policy)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        ui = slicer.util.childWidgetVariables(uiWidget)
        self.logic = VFMTransferLogic()
        self.panel = Panel(ui, self.logic, makeSections(ui, self.logic))
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndRestoreEvent, self.onSceneChanged)
        if self.parent.isEntered:  # after Reload, which enters no module that is open
            self.enter()

    def cleanup(self):
        self.removeObservers()
        if self.panel is not None:  # `setup` may have failed
            self.panel.close()
            self.logic.close()

    def enter(self):
        self.logic.restore(slicer.mrmlScene)
        self.panel.setParameterNode(self.logic.getParameterNode())

    def exit(self):
        self.panel.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        self.logic.cancel()
        self.exit()

    def onSceneChanged(self, caller, event):
        """The scene was closed, or another one was loaded, which may hold a parameter node of its own."""
        if self.parent.isEntered:
            self.enter()

    def onReload(self):
        """Reload all files of the module and the library; Slicer's own way reloads this one only."""
        for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
            del sys.modules[name]
        importlib.invalidate_caches()
        ScriptedLoadableModuleWidget.onReload(self)


class VFMTransferLogic(TransferLogic, ScriptedLoadableModuleLogic):
    """`VFMTransferLogic().run(task=..., t2w=node, bundles=[...])` from the console; see `TransferLogic`."""

    def __init__(self, worker=None):
        ScriptedLoadableModuleLogic.__init__(self)
        TransferLogic.__init__(self, worker)

    def getParameterNode(self):
        return VFMTransferParameterNode(super().getParameterNode())


class VFMTransferTest(ScriptedLoadableModuleTest):
    """What "Reload and Test" runs; the rest of the tests are beside the source."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self, msec=100, **kwargs):
        self.setUp()
        self.test_both_networks_find_the_phantoms_prostate()

    def test_both_networks_find_the_phantoms_prostate(self):
        phantom = self._phantom()
        logic = VFMTransferLogic()
        try:
            arms = logic.run(task="anatomy-segmentation", t2w=phantom.volumes["t2w"], reference=phantom.truth)
            for arm in arms:
                assert PROSTATE_ML[0] < arm.numbers["volumes_ml"]["prostate"] < PROSTATE_ML[1]
            assert logic.lastRun.comparison["has_reference"]
            slicer.mrmlScene.Clear()
            assert logic.lastRun is None
        finally:
            logic.close()

    def _phantom(self):
        """The sample case, made by a child process as by a click."""
        made, failed = [], []
        maker = PhantomMaker(theWorker().call_soon)
        maker.loaded.connect(made.append)
        maker.failed.connect(lambda sentence, details: failed.append(sentence))
        maker.make(SAMPLE_SEED, slicer.mrmlScene)
        deadline = time.monotonic() + PHANTOM_S
        while not made and not failed:
            assert time.monotonic() < deadline, f"The sample case was not made within {PHANTOM_S} s."
            slicer.app.processEvents()
            time.sleep(0.01)
        assert not failed, failed
        return made[0]
