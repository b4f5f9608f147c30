"""What `/metrics` counts: requests by few kinds, and Dice between proposed and accepted with buckets known by hand."""

from __future__ import annotations

import pytest
import torch

from overread.server.watch.figures import OTHER, agreement, gpu_memory, kind_of
from overread.state.labels import ACCEPTED, APPROVED, FLAGGED, LabelCount


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/info/", "info"),
        ("POST", "/activelearning/most_uncertain", "next"),
        ("POST", "/infer/liver", "infer"),
        ("GET", "/train/", "train"),
        ("PUT", "/datastore/label", "submit"),
        ("GET", "/datastore/label", "download_label"),
        ("GET", "/datastore/image", "download_image"),
        ("PUT", "/datastore/image", "upload_image"),
        ("DELETE", "/datastore/label", "datastore"),
        ("GET", "/overread/state", "state"),
        ("GET", "/overread/maps", "overread"),
        ("GET", "/healthz", "health"),
        ("GET", "/whatever/a/stranger/sends", OTHER),
        ("BREW", "/", OTHER),
    ],
)
def test_a_request_is_counted_as_one_of_few_kinds(method: str, path: str, kind: str):
    assert kind_of(method, path) == kind


def test_agreement_counts_labels_in_use_that_followed_a_proposal():
    champion = "c0ffee" * 4
    counts = [
        LabelCount("liver", champion, ACCEPTED, 1.0, 2),
        LabelCount("liver", champion, APPROVED, 0.9, 1),
        LabelCount("liver", champion, ACCEPTED, 0.3, 1),
        LabelCount("liver", champion, FLAGGED, 0.1, 5),
        LabelCount("liver", champion, ACCEPTED, None, 7),
        LabelCount("heart", "facade", ACCEPTED, 0.85, 1),
    ]
    samples = {
        (sample.name.removeprefix("overread_proposed_accepted_dice"), *sample.labels.values()): sample.value
        for sample in agreement(counts).samples
    }
    liver = ("liver", champion[:12])
    assert [samples["_bucket", *liver, le] for le in ("0.5", "0.85", "0.9", "0.99", "1.0", "+Inf")] == [
        1,
        1,
        2,
        2,
        4,
        4,
    ]
    assert samples["_count", *liver] == 4
    assert samples["_sum", *liver] == pytest.approx(2 * 1.0 + 0.9 + 0.3)
    assert samples["_bucket", "heart", "facade", "0.85"] == samples["_count", "heart", "facade"] == 1
    assert samples["_bucket", "heart", "facade", "0.8"] == 0


def test_memory_of_a_gpu_is_told_as_used_free_and_ours(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (30, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 20)
    told = {sample.labels["state"]: sample.value for sample in gpu_memory(torch.device("cuda", 0)).samples}
    assert told == {"used": 70, "free": 30, "by_this_server": 20}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_memory_of_the_gpu_that_is_there_adds_up():
    held = torch.zeros(1 << 20, device="cuda")
    told = {sample.labels["state"]: sample.value for sample in gpu_memory(held.device).samples}
    assert told["by_this_server"] >= held.nbytes
    assert told["used"] + told["free"] == torch.cuda.mem_get_info(held.device)[1]
