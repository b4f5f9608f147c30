"""OHIF, the viewer in the browser, driven in headless Chromium as a reader drives it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Response, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# No graphics card, and root in containers. What is drawn is drawn by SwiftShader.
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
# A page with three views of a volume takes half a minute where the processor draws and others want it too.
PATIENCE_MS = 240_000
AXIAL = "mpr-axial"
LEARNING, AUTO, POINTS = "Active Learning", "Auto-Segmentation", "Point Prompts"

# The label map as OHIF holds it, slice by slice along the normal of the slices: i runs fastest.
LABELS = """() => {
  const [{representationData}] = services.segmentationService.getSegmentations();
  const slices = representationData.Labelmap.imageIds.map((id) => {
    const image = cornerstone.cache.getImage(id);
    const plane = cornerstone.metaData.get('imagePlaneModule', image.referencedImageId);
    const [[a, b, c], [d, e, f]] = [plane.rowCosines, plane.columnCosines];
    const normal = [b * f - c * e, c * d - a * f, a * e - b * d];
    const height = plane.imagePositionPatient.reduce((sum, x, axis) => sum + x * normal[axis], 0);
    return {height, shape: [image.columns, image.rows], values: Array.from(image.getPixelData())};
  }).sort((one, other) => one.height - other.height);
  return {shape: [...slices[0].shape, slices.length], values: slices.flatMap(({values}) => values)};
}"""
SEGMENTS = """() => Object.values(services.segmentationService.getSegmentations()[0].segments)
  .map(({segmentIndex, label}) => [segmentIndex, label])"""
COLOURS = """(names) => {
  const [{segmentationId, segments}] = services.segmentationService.getSegmentations();
  const colour = cornerstoneTools.segmentation.config.color.getSegmentIndexColor;
  return Object.values(segments).filter(({label}) => names.includes(label))
    .map(({label, segmentIndex}) => [label, Array.from(colour('mpr-axial', segmentationId, segmentIndex))]);
}"""
SERIES = """() => {
  const [uid] = services.viewportGridService.getState().viewports.get('mpr-axial').displaySetInstanceUIDs;
  return services.displaySetService.getDisplaySetByUID(uid).SeriesInstanceUID;
}"""
VOLUME_IS_THERE = """() => {
  const viewport = window.services?.cornerstoneViewportService?.getCornerstoneViewport?.('mpr-axial');
  const volume = viewport?.getImageData?.() && cornerstone.cache.getVolume(viewport.getVolumeId());
  return Boolean(volume?.loadStatus?.loaded);
}"""
COUNT_ANSWERS = """() => {
  window.answersShown = 0;
  const {SEGMENTATION_DATA_MODIFIED} = cornerstoneTools.Enums.Events;
  cornerstone.eventTarget.addEventListener(SEGMENTATION_DATA_MODIFIED, () => { window.answersShown += 1; });
}"""
ANSWERS = "() => window.answersShown"
POINTS_SET = """() => cornerstoneTools.annotation.state.getAllAnnotations()
  .filter(({metadata}) => metadata.toolName === 'ProbeMONAILabel').length"""
IS_OPEN = "() => services?.segmentationService?.getSegmentations().length > 0"
SHOW_SLICE = """(k) => {
  const {activeViewportId} = services.viewportGridService.getState();
  return services.cornerstoneViewportService.getCornerstoneViewport(activeViewportId).setImageIdIndex(k);
}"""
# Scrolls to a voxel's slice and tells where on the page the voxel is drawn.
PLACE = """([view, voxel]) => {
  const viewport = services.cornerstoneViewportService.getCornerstoneViewport(view);
  const world = viewport.getImageData().imageData.indexToWorld(voxel);
  const {viewPlaneNormal, focalPoint, position} = viewport.getCamera();
  const away = viewPlaneNormal.reduce((sum, n, axis) => sum + n * (world[axis] - focalPoint[axis]), 0);
  const moved = (point) => point.map((x, axis) => x + away * viewPlaneNormal[axis]);
  viewport.setCamera({focalPoint: moved(focalPoint), position: moved(position)});
  viewport.render();
  const [x, y] = viewport.worldToCanvas(world);
  const box = viewport.element.getBoundingClientRect();
  return [box.x + x, box.y + y];
}"""


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A headless Chromium of the system's; skips the test where there is none."""
    program = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Ohif:
    """A page with the viewer in the mode `monai-label`.

    Args:
        url: of the server that serves the viewer too.

    Attributes:
        page: of Playwright.
        strangers: addresses on other machines that the page asked for.
        complaints: errors that the page's scripts raised.
    """

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.page: Page = browser.new_page(viewport={"width": 1500, "height": 850})
        self.page.set_default_timeout(PATIENCE_MS)
        self.strangers: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        # The page asks before it leaves for the next sample.
        self.page.on("dialog", lambda dialog: dialog.accept())

    def open(self, study: str) -> None:
        """Open a study, wait until its volume is there, and connect the panel to the server it proposes."""
        self.page.goto(
            f"{self.url}/ohif/monai-label?StudyInstanceUIDs={study}", wait_until="domcontentloaded"
        )
        self.wait_for_volume()
        notice = self.page.get_by_role("button", name="Confirm and Hide")
        if notice.is_visible():
            notice.click()
        self.page.evaluate(COUNT_ANSWERS)
        self.page.locator(".settingsTable button").click()
        self.page.get_by_text(AUTO, exact=True).wait_for()

    def wait_for_volume(self) -> None:
        """Wait until the panel is there, and the volume's last slice."""
        self.page.locator("#monailabelServerURL").wait_for()
        self.page.wait_for_function(VOLUME_IS_THERE)

    def tab(self, title: str) -> Locator:
        """What one of the panel's tabs holds; it is opened where it is closed."""
        tab = self.page.locator(".tab", has=self.page.locator("label", has_text=title))
        if not tab.locator("input.tab-switch").is_checked():
            tab.locator("label.tab-label").click()
        return tab.locator(".tab-content")

    def choose(self, title: str, model: str) -> Locator:
        """A tab with this model chosen. Choosing drops the points that were set, so it is done only for another one."""
        content = self.tab(title)
        if content.locator("select").input_value() != model:
            content.locator("select").select_option(model)
        return content

    def run(self, title: str, model: str) -> Response:
        """Press a tab's Run for a model, and wait until the answer is shown."""
        before = self.page.evaluate(ANSWERS)
        with self.page.expect_response(lambda response: "/infer/" in response.url) as answer:
            self.choose(title, model).get_by_role("button", name="Run").click()
        assert answer.value.ok, answer.value.text()
        self.page.wait_for_function(f"(before) => ({ANSWERS})() > before", arg=before)
        return answer.value

    def point(self, model: str, label: str, voxel: Sequence[int]) -> None:
        """Choose a label in the tab of points, and click on a voxel in the axial view."""
        content = self.choose(POINTS, model)
        content.locator("tr.clickable-row", has=self.page.get_by_text(label, exact=True)).click()
        before = self.page.evaluate(POINTS_SET)
        x, y = self.page.evaluate(PLACE, [AXIAL, list(voxel)])
        self.page.mouse.click(x, y)
        self.page.wait_for_function(f"(before) => ({POINTS_SET})() > before", arg=before)

    def set_options(self, model: str, **options: str) -> None:
        """Change options of a model in the dialog of all options."""
        self.page.get_by_text("Options / Configurations").first.click()
        self.page.locator("select[name=selectSection]").select_option("infer")
        self.page.locator("select[name=selectName]").select_option(model)
        for key, value in options.items():
            self.page.locator(f'[id="infer{model}{key}"]').select_option(value)
        self.page.get_by_role("button", name="Confirm").click()

    def export(self, name: str) -> None:
        """Store the segmentation into the PACS, by the menu above the list of its segments."""
        self._show_list()
        menu = self.page.locator("button[role=combobox]").locator("xpath=..").locator("[aria-haspopup=menu]")
        menu.click()
        self.page.get_by_role("menuitem", name="Export & Download").hover()
        self.page.get_by_role("menuitem", name="Export DICOM SEG").click()
        dialog = self.page.get_by_text("Create Report").locator("xpath=ancestor::*[.//button][1]")
        dialog.locator("input").fill(name)
        dialog.get_by_role("button", name="Save").click()
        self.page.get_by_text("The segmentation is in the PACS").wait_for()

    def open_stored(self, study: str, name: str) -> None:
        """Open a study in the mode Segmentation, and in it a segmentation that the PACS has."""
        self.page.goto(
            f"{self.url}/ohif/segmentation?StudyInstanceUIDs={study}", wait_until="domcontentloaded"
        )
        self.page.get_by_text("Add Segmentation").wait_for()
        notice = self.page.get_by_role("button", name="Confirm and Hide")
        if notice.is_visible():
            notice.click()
        self.page.get_by_text(name).dblclick()
        self.page.get_by_role("button", name="Yes").click()
        self.page.wait_for_function(IS_OPEN)

    def paint(self, label: str, slice_index: int) -> None:
        """A touch of the brush in the middle of a slice, in the mode Segmentation."""
        self.page.evaluate(SHOW_SLICE, slice_index)
        self.page.get_by_text(label, exact=True).click()
        self.page.locator("[data-cy=Brush]").click()
        before = self.shown()[label].sum()
        box = self.page.locator("[data-cy=viewport-pane]").bounding_box()
        assert box is not None
        self.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        ends = time.monotonic() + PATIENCE_MS / 1000
        while self.shown()[label].sum() == before:
            assert time.monotonic() < ends, f"the brush left no {label}"
            self.page.wait_for_timeout(200)

    def next_sample(self) -> dict[str, str]:
        """What the dialog about the next sample tells."""
        rows = self.page.locator(".nextSampleForm tbody tr")
        rows.first.wait_for()
        return dict(row.locator("td").all_inner_texts() for row in rows.all())

    def series(self) -> str:
        """SeriesInstanceUID of what the axial view shows."""
        return str(self.page.evaluate(SERIES))

    def segments(self) -> dict[str, int]:
        """Label names of the viewer's own table, with their indices."""
        return {label: index for index, label in self.page.evaluate(SEGMENTS)}

    def shown(self) -> dict[str, np.ndarray]:
        """The voxels of each label on the screen, `(i, j, k)`."""
        found = self.page.evaluate(LABELS)
        values = np.array(found["values"], np.uint8).reshape(found["shape"], order="F")
        segments = self.segments()
        nameless = set(np.unique(values).tolist()) - {0, *segments.values()}
        assert not nameless, f"on the screen are segments without a name: {nameless}"
        return {label: values == index for label, index in segments.items()}

    def wait_for_colours(self, labels: Sequence[str], until: Callable[[dict[str, list[int]]], bool]) -> None:
        """Wait until colours of labels in the axial view, RGBA, are as they should: the panel first sets others.

        Raises AssertionError with the last ones where they never are.
        """
        ends = time.monotonic() + PATIENCE_MS / 1000
        while not until(found := dict(self.page.evaluate(COLOURS, list(labels)))):
            assert time.monotonic() < ends, found
            self.page.wait_for_timeout(200)

    def _show_list(self) -> None:
        """The list of segments, which another tab may hide."""
        tab = self.page.locator("[data-cy=panelSegmentation-btn]")
        if tab.is_visible():
            tab.click()

    def _note(self, url: str) -> None:
        if url.startswith(("http", "ws")) and not url.startswith(self.url):
            self.strangers.append(url)
