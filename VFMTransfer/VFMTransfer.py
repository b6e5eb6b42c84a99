"""VFM Transfer in 3D Slicer: the classes that Slicer looks for, each handing on to `VFMTransferSlicer`."""

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from VFMTransferSlicer.layout import SideBySide
from VFMTransferSlicer.logic import TransferLogic, workerPython
from VFMTransferSlicer.parameters import VFMTransferParameterNode
from VFMTransferSlicer.timed_worker import TimedWorker
from VFMTransferSlicer.widget import Panel

# The package above says where the library lies, so it comes first.
# isort: split
from VFMTransferLib.terms import RESEARCH_USE
from VFMTransferLib.worker_client import WorkerClient


class VFMTransfer(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("VFM Transfer")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The VFM Transfer contributors"]
        self.parent.helpText = _(
            "Runs prostate MRI networks on a study, and compares the one that started from pretrained weights "
            "with the one trained from scratch."
        )
        self.parent.helpText += f"<br>{RESEARCH_USE}"
        self.parent.acknowledgementText = _(
            "The networks follow ProFound (arXiv:2603.03961) and ProViCNet (arXiv:2502.00366). Cite their papers."
        )


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
        uiWidget.setMRMLScene(slicer.mrmlScene)
        client = WorkerClient(workerPython())
        self.logic = VFMTransferLogic(client, TimedWorker(client, qt.QTimer()))
        self.panel = Panel(slicer.util.childWidgetVariables(uiWidget), self.logic, makeLayout)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.enter()

    def cleanup(self):
        self.exit()
        self.removeObservers()
        self.logic.close()

    def enter(self):
        if self.panel is not None:
            self.panel.setParameterNode(self.logic.getParameterNode())

    def exit(self):
        if self.panel is not None:
            self.panel.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        self.logic.cancel()
        self.panel.clear()
        self.exit()

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.enter()


class VFMTransferLogic(TransferLogic, ScriptedLoadableModuleLogic):
    """`VFMTransferLogic().run(task=..., t2w=node, bundles=[...])` from the console; see `TransferLogic`."""

    def __init__(self, client=None, process=None):
        ScriptedLoadableModuleLogic.__init__(self)
        TransferLogic.__init__(self, client, process)

    def getParameterNode(self):
        return VFMTransferParameterNode(super().getParameterNode())


def makeLayout():
    """The comparison's views in this application."""
    return SideBySide(slicer.app.layoutManager().layoutLogic().GetLayoutNode(), slicer.app.applicationLogic())
