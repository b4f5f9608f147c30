"""MONAI Label app: ensembles on CT and MR volumes, with the regions to doubt.

monailabel start_server --app apps/radiology --studies DIR --host 127.0.0.1
"""

import sys
from pathlib import Path

# In a checkout the package lies two folders up; elsewhere it is installed.
LIBRARY = Path(__file__).resolve().parents[2] / "lib"
if (LIBRARY / "overread").is_dir():
    sys.path.insert(0, str(LIBRARY))

from monailabel.interfaces.app import MONAILabelApp  # noqa: E402

import overread  # noqa: E402
from overread.server import radiology  # noqa: E402


class Radiology(MONAILabelApp):
    """Hands MONAI Label what `overread.server.radiology` serves."""

    def __init__(self, app_dir, studies, conf):
        self.serving = radiology.VolumeServing(app_dir, studies, conf)
        super().__init__(
            app_dir,
            studies,
            conf,
            name=radiology.NAME,
            description=radiology.DESCRIPTION,
            version=overread.__version__,
            labels=self.serving.labels(),
        )

    def init_datastore(self):
        return self.serving.store

    def init_infers(self):
        return self.serving.tasks()

    def init_strategies(self):
        return self.serving.loop.queueing.strategies()

    def init_trainers(self):
        return self.serving.training.trainers()

    def info(self):
        """Champions come and go while the server runs; what it says of itself follows."""
        self._infers, self.labels = self.serving.tasks(), self.serving.labels()
        self._trainers = self.init_trainers()
        return super().info() | self.serving.info()

    def on_init_complete(self):
        super().on_init_complete()
        self.serving.open(self.sessions())
