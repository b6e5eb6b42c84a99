"""Slicer's real slice views, off screen: what the application's layout manager does, in a few lines."""

import numpy as np
from slicer_scenes import a_scene, slicer, vtk
from vtk.util.numpy_support import vtk_to_numpy

FORMER = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
SIZE = (240, 200)
MANAGERS = (
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)


def a_colored_scene():
    """A scene with Slicer's color tables, which every image that is drawn needs."""
    scene = a_scene()
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    colors.SetMRMLScene(None)  # with its scene a logic would take its nodes along when it goes
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    return scene


class View:
    """One slice view: its logic, and a window to draw it into."""

    def __init__(self, node, application) -> None:
        self.node = node
        self.renderer, overlay = vtk.vtkRenderer(), vtk.vtkRenderer()
        overlay.SetLayer(1)
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.SetMultiSamples(0)
        self.window.SetAlphaBitPlanes(1)
        self.window.SetNumberOfLayers(2)
        self.window.SetSize(*SIZE)
        self.window.AddRenderer(self.renderer)
        self.window.AddRenderer(overlay)
        self.interactor = vtk.vtkRenderWindowInteractor()  # displayable managers crash without one
        self.interactor.SetRenderWindow(self.window)
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        self.actor = vtk.vtkActor2D()
        self.actor.SetMapper(mapper)
        self.actor.GetProperty().SetDisplayLocationToBackground()
        self.actor.VisibilityOff()
        self.renderer.AddViewProp(self.actor)  # before the displayable managers, else fills blend over black
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetSliceLogics().AddItem(self.logic)
        self.logic.SetSliceNode(node)
        self.logic.SetMRMLScene(node.GetScene())
        self.logic.ResizeSliceNode(*SIZE)
        self.group = None

    def image(self) -> np.ndarray:
        """What is seen, (height, width, 3), from the top down."""
        if self.group is None:
            self.group = slicer.vtkMRMLDisplayableManagerGroup()
            self.group.Initialize(slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), self.renderer)
            self.group.SetMRMLDisplayableNode(self.node)
        connection = self.logic.GetImageDataConnection()
        self.actor.SetVisibility(connection is not None)
        if connection is not None:
            self.actor.GetMapper().SetInputConnection(connection)
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        output = grab.GetOutput()
        width, height, _ = output.GetDimensions()
        return vtk_to_numpy(output.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()

    def close(self) -> None:
        """As the application does when a view's node leaves the scene."""
        if self.group is not None:
            self.group.SetMRMLDisplayableNode(None)
        self.logic.SetMRMLScene(None)


class Views:
    """A layout, and a view for each slice node that it makes."""

    def __init__(self, scene) -> None:
        self.scene = scene
        self.views: dict[str, View] = {}
        self.application = slicer.vtkSlicerApplicationLogic()
        self.application.SetSliceLogics(vtk.vtkCollection())
        self.application.SetViewLogics(vtk.vtkCollection())
        self.application.SetMRMLScene(scene)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self.application)
        for manager in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.tags = [scene.AddObserver(scene.NodeAddedEvent, self._onAdded)]
        self.tags.append(scene.AddObserver(scene.NodeRemovedEvent, self._onRemoved))
        self.layout = slicer.vtkMRMLLayoutLogic()
        self.layout.SetMRMLScene(scene)
        self.node = self.layout.GetLayoutNode()
        self.node.SetViewArrangement(FORMER)

    def close(self) -> None:
        for tag in self.tags:
            self.scene.RemoveObserver(tag)

    def renderer(self, tag: str):
        return self.views[tag].renderer

    def slice_node(self, tag: str):
        return self.views[tag].node

    def composite(self, tag: str):
        return self.views[tag].logic.GetSliceCompositeNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onAdded(self, caller, event, node) -> None:  # noqa: N802
        if node.IsA("vtkMRMLSliceNode"):
            self.views[node.GetLayoutName()] = View(node, self.application)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onRemoved(self, caller, event, node) -> None:  # noqa: N802
        if node.IsA("vtkMRMLSliceNode"):
            view = self.views.pop(node.GetLayoutName())
            view.close()
            self.application.GetSliceLogics().RemoveItem(view.logic)


def ras_of(volume, index) -> np.ndarray:
    """Where a voxel (k, j, i) is in the world."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    if volume.GetParentTransformNode() is not None:
        world = vtk.vtkMatrix4x4()
        volume.GetParentTransformNode().GetMatrixTransformToWorld(world)
        vtk.vtkMatrix4x4.Multiply4x4(world, matrix, matrix)
    return np.array(matrix.MultiplyPoint((*index[::-1], 1.0))[:3])
