"""What Prometheus reads: requests as they are answered, and queue, labels, champions and GPU at the moment it asks."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from overread.domain import OverreadError
from overread.learning.accepted import IN_USE
from overread.learning.champions import HASH_LENGTH
from overread.state.labels import LabelCount, count_labels

if TYPE_CHECKING:
    from overread.server.serving import Serving

# From a light request to the inference of a whole body on a slow machine.
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
DICES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
OTHER = "other"
# The first that fits: method (empty for any), beginning of the address, kind.
KINDS = (
    ("", "/info", "info"),
    ("", "/activelearning", "next"),
    ("", "/infer", "infer"),
    ("", "/train", "train"),
    ("PUT", "/datastore/label", "submit"),
    ("GET", "/datastore/label", "download_label"),
    ("GET", "/datastore/image", "download_image"),
    ("PUT", "/datastore", "upload_image"),
    ("", "/datastore", "datastore"),
    ("", "/overread/state", "state"),
    ("", "/overread", "overread"),
    ("", "/session", "session"),
    ("", "/ohif", "ohif"),
    ("", "/healthz", "health"),
    ("", "/metrics", "metrics"),
)


def kind_of(method: str, path: str) -> str:
    """What a request is counted as: one of few words, whatever clients send."""
    return next((kind for m, start, kind in KINDS if m in ("", method) and path.startswith(start)), OTHER)


class Figures:
    """The figures of one server.

    Attributes:
        registry: all of them.
    """

    def __init__(self, serving: Serving[Any, Any]) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "overread_request_seconds",
            "From a request's arrival to the end of its answer, by kind of request.",
            ["kind"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._requests = Counter(
            "overread_requests",
            "Requests that were answered, by kind and HTTP status.",
            ["kind", "status"],
            registry=self.registry,
        )
        self._under_way = Gauge(
            "overread_requests_under_way", "Requests without an answer yet.", ["kind"], registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(Moment(serving))

    def began(self, kind: str) -> None:
        """A request came."""
        self._under_way.labels(kind).inc()

    def ended(self, kind: str, status: int, took_s: float) -> None:
        """It was answered."""
        self._under_way.labels(kind).dec()
        self._requests.labels(kind, str(status)).inc()
        self._seconds.labels(kind).observe(took_s)


class Timed:
    """ASGI middleware that counts and times every request."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self.app, self.figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        kind, began, status = kind_of(scope["method"], scope["path"]), time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.figures.began(kind)
        try:
            await self.app(scope, receive, noting)
        finally:
            self.figures.ended(kind, status, time.perf_counter() - began)


class Moment(Collector):
    """What is read from the server's state whenever it is asked for."""

    def __init__(self, serving: Serving[Any, Any]) -> None:
        self._serving = serving

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering need not look at the state."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All figures. Those that need the database are left out where it does not answer."""
        answers = GaugeMetricFamily("overread_database_up", "1 where the database answers.")
        try:
            found = [*_queue(self._serving.loop.state()), *self._labels()]
            answers.add_metric([], 1)
            yield from found
        except OverreadError:
            answers.add_metric([], 0)
        yield answers
        yield from self._champions()
        children = GaugeMetricFamily(
            "overread_child_running", "1 while the child process runs.", labels=["child"]
        )
        for name in ("scoring", "training"):
            children.add_metric([name], int(self._serving.children.running(name)))
        yield children
        if self._serving.models.device.type == "cuda":
            yield gpu_memory(self._serving.models.device)

    def _labels(self) -> Iterator[Metric]:
        with self._serving.database.reading() as c:
            counts = count_labels(c)
        labels = GaugeMetricFamily(
            "overread_labels", "Labels of readers, by model and status.", labels=["model", "status"]
        )
        by_status: Tally[tuple[str, str]] = Tally()
        for count in counts:
            by_status[count.recipe, count.status] += count.labels
        for (recipe, status), labelled in sorted(by_status.items()):
            labels.add_metric([recipe, status], labelled)
        yield labels
        yield agreement(counts)

    def _champions(self) -> Iterator[Metric]:
        models = self._serving.models
        troubles = models.troubles()
        usable = GaugeMetricFamily(
            "overread_champion_usable", "1 where the champion can answer.", labels=["model"]
        )
        info = InfoMetricFamily("overread_champion", "The weights in service.", labels=["model"])
        for name in sorted({*models.names(), *troubles}):
            usable.add_metric([name], int(name not in troubles))
            if name not in troubles:
                info.add_metric([name], {"champion": str(models.description(name)["identity"])[:HASH_LENGTH]})
        yield usable
        yield info


def agreement(counts: Iterable[LabelCount]) -> Metric:
    """Dice between what champions proposed and what readers accepted, a histogram per model and champion.

    Without labels that were withdrawn, flagged or quarantined, and those that followed no proposal.
    """
    found = HistogramMetricFamily(
        "overread_proposed_accepted_dice",
        "Mean Dice over classes between the proposed and the accepted label; 1 where nothing was corrected.",
        labels=["model", "champion"],
    )
    dices: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for count in counts:
        if count.status in IN_USE and count.dice is not None:
            key = count.recipe, count.champion[:HASH_LENGTH]
            dices.setdefault(key, []).append((count.dice, count.labels))
    for (recipe, champion), group in sorted(dices.items()):
        below = [0] * (len(DICES) + 1)
        for dice, labels in group:
            below[bisect_left(DICES, dice)] += labels
        buckets = [(text, float(sum(below[: i + 1]))) for i, text in enumerate([*map(str, DICES), "+Inf"])]
        total = sum(labels * dice for dice, labels in group)
        found.add_metric([recipe, champion], buckets, total)
    return found


def _queue(state: dict[str, Any]) -> Iterator[Metric]:
    words = {
        "waiting": "Cases without a label.",
        "scored": "Cases with a score of the champion in service.",
        "total": "Cases in the studies folder.",
        "leases": "Cases in the hands of readers.",
    }
    for key, text in words.items():
        if isinstance(state.get(key), int):
            yield GaugeMetricFamily(f"overread_queue_{key}", text, value=state[key])


def gpu_memory(device: torch.device) -> Metric:
    """Bytes of a GPU's memory that are used, free, and held by this process."""
    free, total = torch.cuda.mem_get_info(device)
    memory = GaugeMetricFamily(
        "overread_gpu_memory_bytes", "Memory of the GPU that the models use.", labels=["state"]
    )
    memory.add_metric(["used"], total - free)
    memory.add_metric(["free"], free)
    memory.add_metric(["by_this_server"], torch.cuda.memory_reserved(device))
    return memory
