"""Keeps server and PACS in step: series and labels come in, accepted labels go out, by one thread."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from overread.domain import BadInputError, UnavailableError
from overread.learning.accepted import AcceptedLabels
from overread.learning.backup import SEEN, SENDERS, SENT
from overread.server.maps import MapStore
from overread.server.models import ServedModels
from overread.server.pacs.client import Pacs, SeriesEntry
from overread.server.pacs.labels_in import LabelsIn
from overread.server.pacs.labels_out import LabelsOut
from overread.server.pacs.ledger import SERIES, Ledger
from overread.server.pacs.patience import Patience
from overread.server.pacs.store import NOT_IMAGES, PacsStore
from overread.server.settings import Settings

logger = logging.getLogger(__name__)

# Of series that cannot be served and of others' labels, this many are told in `/info/`; the log has all.
MOST_TOLD = 20


class Exchange:
    """Asks the PACS again and again, and goes on when it comes back.

    Attributes:
        labels_in, labels_out: see their types.
    """

    def __init__(
        self,
        pacs: Pacs,
        store: PacsStore,
        accepted: AcceptedLabels,
        maps: MapStore,
        models: ServedModels,
        settings: Settings,
    ) -> None:
        self._pacs, self._store = pacs, store
        self._filters, self._every_s = dict(settings.pacs_filter), settings.pacs_look_s
        folder = store.folder
        self._sent = sent = Ledger(folder / SENT)
        self.labels_out = LabelsOut(pacs, store, accepted, maps, sent, settings.pacs_maps)
        seen, senders = Ledger(folder / SEEN), Ledger(folder / SENDERS)
        self.labels_in = LabelsIn(pacs, store, accepted, models, maps, seen, sent, senders)
        self._patience = Patience()
        self._wake = threading.Event()
        self._counts: dict[str, int | None] = {}
        self._gone: set[str] = set()
        self._listed: set[str] = set()
        self._reachable: bool | None = None
        self._since = time.time()
        self._trouble = ""
        self._exchanged_at = float("-inf")
        self._closing = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin; a PACS that is down is waited for."""
        self._thread = threading.Thread(target=self._keep_looking, name="pacs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End after the look that is under way."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Look at once: a label was accepted."""
        self._wake.set()

    def state(self) -> dict[str, Any]:
        """For `/info/`: whether the PACS answers, and what waits."""
        refused = [(uid, why) for uid, why in self._store.refused.items() if why and uid in self._listed]
        return {
            "address": self._pacs.shown_url,
            "reachable": self._reachable,
            "since": self._since,
            "trouble": self._trouble,
            "series": len(self._listed),
            "fetched": len(self._store.list_images()),
            "refused": {uid: why["because"] for uid, why in refused[-MOST_TOLD:]},
            "labels_waiting": self.labels_out.count,
            "labels_refused": dict(self.labels_out.refused),
            "segmentations_refused": self.labels_in.refused()[-MOST_TOLD:],
        }

    def look(self) -> None:
        """Bring everything into step. Raises UnavailableError where the PACS does not answer."""
        self._exchange()
        listed = self._pacs.series(self._filters)
        # Maps of doubt have the modality of what they were made of.
        ours = {each[SERIES] for _, stored in self._sent.items() for each in stored}
        entries = [entry for entry in listed if entry.modality not in NOT_IMAGES and entry.uid not in ours]
        self._listed = {entry.uid for entry in entries}
        self._patience.begin()
        self._forget(entries)
        for entry in entries:
            # A series that is still being sent grows from look to look; it is fetched when it stands still.
            stands = entry.count is None or self._counts.get(entry.uid) == entry.count
            self._counts[entry.uid] = entry.count
            if not stands or self._store.is_current(entry):
                continue
            try:
                self._store.fetch(entry)
            except BadInputError:
                # The store has said why, and will not be asked again.
                continue
            except UnavailableError as error:
                self._patience.failed(f"Series {entry.uid}", error)
                continue
            self._patience.worked(f"Series {entry.uid}")
            if time.monotonic() - self._exchanged_at > self._every_s:
                self._exchange()

    def _exchange(self) -> None:
        self.labels_out.look()
        self.labels_in.look()
        self._exchanged_at = time.monotonic()

    def _forget(self, entries: list[SeriesEntry]) -> None:
        """Drop what the PACS did not list twice: once may be a slip."""
        missing = set(self._store.list_images()) - {entry.uid for entry in entries}
        gone, self._gone = missing & self._gone, missing
        if gone:
            logger.info("%d series are no longer in the PACS", len(gone))
            self._store.forget(gone)

    def _keep_looking(self) -> None:
        while not self._closing:
            try:
                self.look()
                self._say(True, "")
            except UnavailableError as error:
                self._say(False, str(error))
            except Exception as error:
                # Whatever it is, the next look may find it mended.
                logger.exception("The exchange with the PACS met a difficulty")
                self._trouble = f"{type(error).__name__}: {error}"
            self._wake.wait(self._every_s)
            self._wake.clear()

    def _say(self, reachable: bool, trouble: str) -> None:
        self._trouble = trouble
        if reachable != self._reachable:
            if not reachable:
                logger.warning(
                    "The PACS is not there: %s; it is asked again every %g s", trouble, self._every_s
                )
            else:
                logger.info("The PACS %s answers: %d series", self._pacs.shown_url, len(self._listed))
            self._reachable, self._since = reachable, time.time()
