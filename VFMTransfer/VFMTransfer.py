"""VFM Transfer in 3D Slicer: the classes that Slicer looks for, each handing on to `VFMTransferSlicer`."""

import importlib
import sys

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
from VFMTransferSlicer.logic import TransferLogic
from VFMTransferSlicer.parameters import VFMTransferParameterNode
from VFMTransferSlicer.widget import Panel, makeSections

# The package above says where the library lies, so it comes first.
# isort: split
from VFMTransferLib.terms import RESEARCH_USE

PACKAGES = ("VFMTransferLib", "VFMTransferSlicer")


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
        ui = slicer.util.childWidgetVariables(uiWidget)
        self.logic = VFMTransferLogic()
        self.panel = Panel(ui, self.logic, makeSections(ui, self.logic, makeLayout))
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndRestoreEvent, self.onSceneChanged)

    def cleanup(self):
        self.removeObservers()
        if self.panel is not None:  # `setup` may have failed
            self.exit()
            self.logic.close()

    def enter(self):
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
        """Take all files of the module and the library anew; Slicer's own way takes this one only."""
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


def makeLayout():
    """The comparison's views in this application."""
    return SideBySide(slicer.app.layoutManager().layoutLogic().GetLayoutNode(), slicer.app.applicationLogic())
