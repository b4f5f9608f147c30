
// Added by Overread: the panel makes a segment's colour from the letters of its name, which gives all candidates the
// same blue and moderate doubt black.
(function () {
  const colours = {
    'doubt: high': [255, 77, 13, 255],
    'doubt: moderate': [255, 217, 26, 255],
    'candidate A': [60, 160, 255, 255],
    'candidate B': [70, 220, 120, 255],
    'candidate C': [200, 100, 255, 255],
    'candidate D': [60, 230, 230, 255],
  };

  function paint() {
    const { segmentationService, viewportGridService } = window.services;
    const { color } = window.cornerstoneTools.segmentation.config;
    for (const { segmentationId, segments } of segmentationService.getSegmentations()) {
      for (const { label, segmentIndex } of Object.values(segments)) {
        for (const viewportId of colours[label] ? viewportGridService.getState().viewports.keys() : []) {
          try {
            const now = color.getSegmentIndexColor(viewportId, segmentationId, segmentIndex);
            if (colours[label].some((part, index) => part !== now[index])) {
              color.setSegmentIndexColor(viewportId, segmentationId, segmentIndex, colours[label]);
            }
          } catch {
            // The segmentation is not shown in this viewport.
          }
        }
      }
    }
  }

  const waiting = window.setInterval(function () {
    if (!window.cornerstone || !window.cornerstoneTools || !window.services) return;
    window.clearInterval(waiting);
    const { SEGMENTATION_DATA_MODIFIED } = window.cornerstoneTools.Enums.Events;
    window.cornerstone.eventTarget.addEventListener(SEGMENTATION_DATA_MODIFIED, paint);
    // The panel sets its own colours a while after it was connected, on a slow machine a long while.
    window.setInterval(paint, 1000);
  }, 200);
})();
