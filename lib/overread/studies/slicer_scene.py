"""What 3D Slicer makes of our files: Slicer's own core, without its windows, does what its MONAILabel module does.

Needs the wheels of `trame-slicer[standalone]`. Slicer's core wants a process of its own (`in_own_process`): it brings
libraries that other wheels bring as well, and an OpenGL context that does not survive every exit.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from overread.domain import Grid
from overread.imaging.volumes import LPS_TO_RAS

NEEDS = (
    "it comes with `trame-slicer[standalone]` and draws without a screen where OpenGL can be had by EGL "
    "(Debian: apt-get install libegl1 libgl1-mesa-dri libx11-6)"
)
# The module leaves these out of what is submitted.
NOT_SUBMITTED = ("background", "foreground_scribbles", "background_scribbles")


@contextmanager
def in_own_process() -> Iterator[ProcessPoolExecutor]:
    """A process for Slicer's core: `with in_own_process() as slicer: slicer.submit(function, …).result()`."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


class SlicerScene:
    """A volume and its segmentation as they are after the module has loaded a sample.

    Args:
        volume: image file, read by Slicer's own reader.
        labels: names of empty segments that the module makes from the server's labels.
        drawn: whether `render` will be called.
    """

    def __init__(self, volume: Path, labels: Sequence[str] = (), *, drawn: bool = False) -> None:
        # Slicer's Python modules are generated when they are imported: no checker knows their names.
        self._slicer: Any = importlib.import_module("slicer")
        self._numpy_of: Any = importlib.import_module("vtkmodules.util.numpy_support")
        self._vtk: Any = importlib.import_module("vtk")
        self._app: Any = importlib.import_module("trame_slicer.core").SlicerApp()
        (self.volume,) = self._app.io_manager.load_volumes(str(volume))
        # What is drawn first lies below: the view takes up the volume before there are segments.
        self._view: Any = self._slice_view() if drawn else None
        self.segmentation = self._app.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self.segmentation.CreateDefaultDisplayNodes()
        self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(self.volume)
        for label in labels:
            self.segmentation.GetSegmentation().AddEmptySegment(label, label)

    def import_result(self, file: Path, label_names: Mapping[str, int] | Sequence[str]) -> None:
        """Import the server's answer: voxel value k fills the k-th name, not counting `background`."""
        if isinstance(label_names, Mapping):
            label_names = [name for name, _ in sorted(label_names.items(), key=itemgetter(1))]
        names = self._vtk.vtkStringArray()
        for name in label_names:
            if name != "background":
                names.InsertNextValue(name)
        labelmap = self._labelmap_of(sitk.ReadImage(str(file)))
        self._app.segmentations_logic.ImportLabelmapToSegmentationNode(labelmap, self.segmentation, names)
        self._app.scene.RemoveNode(labelmap)

    def segment_names(self) -> list[str]:
        """Names in the order of the segment list."""
        return [self._segment(identity).GetName() for identity in self._identities()]

    def segment_layers(self) -> dict[str, int]:
        """The layer each segment lies in; only segments in different layers can overlap."""
        segments = self.segmentation.GetSegmentation()
        return {
            self._segment(identity).GetName(): segments.GetLayerIndex(identity)
            for identity in self._identities()
        }

    def segment_voxels(self) -> dict[str, np.ndarray]:
        """Each segment on the volume's grid as Slicer holds it, `(i, j, k)` bool."""
        return {
            self._segment(identity).GetName(): self._merged([identity])[0] > 0
            for identity in self._identities()
        }

    def show_segments(self, shown: bool) -> None:
        """Show or hide all segments, as the eye in Slicer's list does."""
        self.segmentation.GetDisplayNode().SetVisibility(shown)

    def volume_voxels(self) -> np.ndarray:
        """The volume `(i, j, k)` as Slicer read it."""
        return self._array_of(self.volume)

    def volume_grid(self) -> Grid:
        """Where Slicer holds the volume: left-handed files get their slices in reverse."""
        matrix = self._vtk.vtkMatrix4x4()
        self.volume.GetIJKToRASMatrix(matrix)
        affine = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
        return Grid(self.volume.GetImageData().GetDimensions(), np.array(affine))

    def submit(self, file: Path) -> list[dict[str, Any]]:
        """Write what the module uploads on "Submit Label" and return its `label_info`."""
        identities, label_info = [], []
        for position, identity in enumerate(self._identities(), start=1):
            name = self._segment(identity).GetName()
            if name not in NOT_SUBMITTED:
                identities.append(identity)
                label_info.append({"name": name, "idx": position})
        _, labelmap = self._merged(identities)
        self._app.io_manager.write_volume(labelmap, str(file))
        self._app.scene.RemoveNode(labelmap)
        return label_info

    def render(
        self,
        picture: Path,
        slice_k: int,
        window_hu: tuple[float, float],
        colours: Mapping[str, tuple[float, float, float]],
        fill: Mapping[str, float],
        size_px: tuple[int, int] = (560, 560),
    ) -> None:
        """Draw a slice of the volume with its segments in Slicer's slice view, offscreen, to a PNG.

        Args:
            slice_k: in Slicer's order.
            window_hu: densities drawn black and white.
            colours: red, green and blue in [0, 1] by segment name; others keep Slicer's colour.
            fill: opacity of the area by segment name, 0.5 where none is given; outlines are opaque.
        """
        display = self.segmentation.GetDisplayNode()
        for identity in self._identities():
            name = self._segment(identity).GetName()
            if name in colours:
                self._segment(identity).SetColor(*colours[name])
            display.SetSegmentOpacity2DFill(identity, fill.get(name, 0.5))
        display.SetOpacity2DFill(1.0)
        display.SetSliceIntersectionThickness(2)
        level = self.volume.GetDisplayNode()
        level.SetAutoWindowLevel(False)
        level.SetWindowLevelMinMax(*window_hu)

        window = self._view.render_window()
        window.SetSize(*size_px)
        self._view.fit_view_to_content()
        grid = self.volume_grid()
        middle = grid.affine @ [(grid.shape[0] - 1) / 2, (grid.shape[1] - 1) / 2, slice_k, 1]
        self._view.get_view_node().JumpSliceByCentering(*middle[:3])
        window.Render()
        shot = self._vtk.vtkWindowToImageFilter()
        shot.SetInput(window)
        shot.ReadFrontBufferOff()
        writer = self._vtk.vtkPNGWriter()
        writer.SetInputConnection(shot.GetOutputPort())
        writer.SetFileName(str(picture))
        writer.Write()

    def _slice_view(self) -> Any:
        view = importlib.import_module("trame_slicer.views").SliceView(
            self._app.scene, self._app.app_logic, "Red"
        )
        view.render_window().SetOffScreenRendering(True)
        view.set_background_volume_id(self.volume.GetID())
        view.set_orientation("Axial")
        view.get_view_node().RotateToVolumePlane(self.volume)
        return view

    def _identities(self) -> list[str]:
        segments = self.segmentation.GetSegmentation()
        return [segments.GetNthSegmentID(n) for n in range(segments.GetNumberOfSegments())]

    def _segment(self, identity: str) -> Any:
        return self.segmentation.GetSegmentation().GetSegment(identity)

    def _merged(self, identities: Sequence[str]) -> tuple[np.ndarray, Any]:
        """Segments as one label map on the volume's grid: value = 1 + position, later ones on top."""
        wanted = self._vtk.vtkStringArray()
        for identity in identities:
            wanted.InsertNextValue(identity)
        labelmap = self._app.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        self._app.segmentations_logic.ExportSegmentsToLabelmapNode(
            self.segmentation, wanted, labelmap, self.volume
        )
        return self._array_of(labelmap), labelmap

    def _labelmap_of(self, image: sitk.Image) -> Any:
        """A label map node with the image's voxels and place, which ITK gives in LPS and Slicer wants in RAS."""
        voxels = np.ascontiguousarray(sitk.GetArrayFromImage(image))
        picture = self._vtk.vtkImageData()
        picture.SetDimensions(image.GetSize())
        scalars = self._numpy_of.numpy_to_vtk(voxels.ravel(), deep=True)
        picture.GetPointData().SetScalars(scalars)
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        matrix = self._vtk.vtkMatrix4x4()
        matrix.DeepCopy((LPS_TO_RAS @ affine).ravel().tolist())
        labelmap = self._app.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        labelmap.SetIJKToRASMatrix(matrix)
        labelmap.SetAndObserveImageData(picture)
        return labelmap

    def _array_of(self, node: Any) -> np.ndarray:
        image = node.GetImageData()
        flat = self._numpy_of.vtk_to_numpy(image.GetPointData().GetScalars())
        return flat.reshape(image.GetDimensions()[::-1]).transpose(2, 1, 0).copy()
