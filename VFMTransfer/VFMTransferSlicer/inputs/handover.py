"""From volume nodes to the files of a job. Needs MRML, but no Qt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.util import arrayFromVTKMatrix

from VFMTransferLib.core.errors import GeometryError, ImageError, OutputError
from VFMTransferLib.worker.messages import Grid, ImageFile

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def handOver(node: slicer.vtkMRMLScalarVolumeNode, folder: Path, name: str) -> ImageFile:
    """Write a volume's voxels into a job's folder, and say where in the world they lie.

    Parent transforms count; the node itself stays as it is.

    Args:
        node: A scalar volume.
        folder: The job's folder.
        name: What to call the file.

    Raises:
        ImageError: The volume is empty, or holds more than one value a voxel.
        GeometryError: A parent transform bends it.
        OutputError: The file cannot be written.
    """
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise ImageError(f"Volume '{node.GetName()}' must hold voxels, but is empty. Load it again.")
    if image.GetNumberOfScalarComponents() != 1:
        components = image.GetNumberOfScalarComponents()
        raise ImageError(f"Volume '{node.GetName()}' must hold one value a voxel, but holds {components}.")
    grid = gridInWorld(node)
    try:
        np.save(folder / f"{name}.npy", slicer.util.arrayFromVolume(node))  # (D, H, W)
    except OSError as error:
        raise OutputError(
            f"Volume '{node.GetName()}' cannot be written into the temporary folder: {error.strerror or error}. "
            "Free some space on its disk."
        ) from error
    return ImageFile(f"{name}.npy", grid)


def gridInWorld(node: slicer.vtkMRMLScalarVolumeNode) -> Grid:
    """Where a volume's voxels lie in the world, with all parent transforms, in LPS millimeters.

    Raises:
        GeometryError: A parent transform bends it, so that it has no grid in the world.
    """
    lps = _RAS_TO_LPS @ _ijkToWorld(node)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    return Grid(
        tuple(node.GetImageData().GetDimensions()),
        tuple(spacing.tolist()),
        tuple(lps[:3, 3].tolist()),
        tuple(direction.ravel().tolist()),  # row by row
    )


def _ijkToWorld(node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """4x4, voxel index to RAS millimeters of the world."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    parent = node.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise GeometryError(
                f"Volume '{node.GetName()}' must be under linear transforms only, but '{parent.GetName()}' bends it. "
                "Harden the transform first."
            )
        toWorld = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(toWorld)
        vtk.vtkMatrix4x4.Multiply4x4(toWorld, matrix, matrix)
    return arrayFromVTKMatrix(matrix)
