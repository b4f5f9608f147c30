
// Added by Overread, as this build can neither export a segmentation nor open what it exported:
// - the mode MONAI Label has no list of segments, in whose menu "Export DICOM SEG" is;
// - that entry fails in every mode: of two commands with one name it finds the one that has to be told which PACS;
// - a stored segmentation does not open when one of its segments is empty, and all classes of all models are listed.
(function () {
  const MODE = '@ohif/extension-monai-label.panelModule.monailabel';
  const LIST = '@ohif/extension-cornerstone.panelModule.panelSegmentation';
  const CONTEXT = 'SEGMENTATION';
  const STORE = 'storeSegmentation';

  function mendExport() {
    const { commandsManager, extensionManager, services } = window;
    const found = commandsManager.getCommand(STORE, CONTEXT);
    if (!found || found.isMended) return;
    const tell = (type, message) =>
      services.uiNotificationService.show({ title: 'Export DICOM SEG', message, type });
    const commandFn = async function (options) {
      try {
        const [dataSource] = extensionManager.getActiveDataSource();
        const stored = await found.commandFn({ dataSource, ...options });
        if (stored) tell('success', 'The segmentation is in the PACS');
        return stored;
      } catch (error) {
        tell('error', `The segmentation is not in the PACS: ${error.message}`);
      }
    };
    commandsManager.registerCommand(CONTEXT, STORE, { ...found, commandFn, isMended: true });
  }

  function mendOpening() {
    const { segmentationService } = window.services;
    const open = segmentationService.createSegmentationForSEGDisplaySet;
    if (open.isMended) return;
    const mended = function (stored, options) {
      // It looks up the centre of each segment; an empty one has none.
      (stored.segMetadata?.data ?? []).forEach(function (_, index) {
        if (index > 0 && stored.centroids && !stored.centroids.has(index)) stored.centroids.set(index, {});
      });
      return open.call(segmentationService, stored, options);
    };
    segmentationService.createSegmentationForSEGDisplaySet = Object.assign(mended, { isMended: true });
  }

  // On the left, as the panel of MONAI Label forgets its server and its points when another one takes its place.
  function addList() {
    const { panelService } = window.services;
    const has = (side, panel) => panelService.getPanels(side).some(({ id }) => id === panel);
    if (has('right', MODE) && !has('left', LIST)) panelService.addPanel('left', LIST);
  }

  // Modes are entered and left, each with panels and commands of its own.
  window.setInterval(function () {
    if (!window.commandsManager || !window.extensionManager || !window.services?.segmentationService) return;
    mendExport();
    mendOpening();
    addList();
  }, 500);
})();
