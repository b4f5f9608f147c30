"""`--conf` pairs become one value, or a sentence about what is wrong with them."""

from __future__ import annotations

import pytest

from overread.domain import BadInputError
from overread.server.settings import Settings


def test_nothing_said_serves_everything():
    assert Settings.from_conf({}) == Settings()
    assert Settings.from_conf({"models": "all", "members": "all"}) == Settings()


def test_every_key_is_read():
    said = {
        "models": "a, b",
        "measure": "variance",
        "bands": "only",
        "members": "3",
        "device": "cuda:1",
        "precision": "full",
        "cascade": "0.05",
        "keep_maps": "no",
        "mirrors": "no",
        "max_upload_gib": "0.5",
        "threads": "4",
        "database": "sqlite:////data/overread.db",
        "queue_recipe": "a",
        "strategy": "clasp_pe",
        "control_share": "0.1",
        "lease_minutes": "5",
        "scoring": "no",
        "consensus": "staple",
        "train_after": "10",
        "train_minutes": "1.5",
        "train_iterations": "200",
        "train_start": "scratch",
        "assumed_um_per_px": "0.25",
        "max_region_px": "1000000",
        "slide_batch": "4",
        "slide_workers": "3",
        "first_look_seconds": "7.5",
        "pacs_filter": "Modality=CT,BodyPartExamined=HEAD",
        "pacs_seconds": "5",
        "pacs_maps": "yes",
        "preference": "no",
        "preference_mean": "yes",
        "users": "/etc/overread/users.json",
        "allow_anonymous": "yes",
    }
    assert Settings.from_conf(said) == Settings(
        models=("a", "b"),
        measure="variance",
        doubt="bands only",
        members=3,
        device="cuda:1",
        precision="full",
        cascade=0.05,
        keep_maps=False,
        mirrors=False,
        max_upload_bytes=1 << 29,
        threads=4,
        database="sqlite:////data/overread.db",
        queue_recipe="a",
        strategy="clasp_pe",
        control_share=0.1,
        lease_s=300,
        scoring=False,
        consensus="staple",
        train_after=10,
        train_minutes=1.5,
        train_iterations=200,
        train_start="scratch",
        assumed_um_per_px=0.25,
        max_region_px=1_000_000,
        slide_batch=4,
        slide_workers=3,
        first_look_s=7.5,
        pacs_filter=(("Modality", "CT"), ("BodyPartExamined", "HEAD")),
        pacs_look_s=5,
        pacs_maps=True,
        preference=False,
        preference_mean=True,
        users="/etc/overread/users.json",
        allow_anonymous=True,
    )


def test_what_can_be_switched_off():
    off = {"control_share": "0", "train_after": "off", "train_minutes": "auto", "train_iterations": "auto"}
    assert Settings.from_conf(off) == Settings(control_share=0)
    assert Settings.from_conf({"cascade": "off"}) == Settings(cascade=None)
    assert Settings.from_conf({"cascade": "auto"}) == Settings()


def test_what_monai_label_adds_is_left_alone():
    assert Settings.from_conf({"server_mode": "true"}) == Settings()


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        (
            "colour",
            "red",
            "--conf colour is not known; known keys are allow_anonymous, assumed_um_per_px, bands, cascade, consensus",
        ),
        ("models", " , ", "expected `all` or names separated by commas"),
        ("measure", " ", "--conf measure is empty"),
        ("bands", "loud", "expected one of inside, only, off"),
        ("members", "0", "expected a whole number from 1"),
        ("threads", "all", "expected a whole number from 1"),
        ("device", "gpu", "expected auto, cpu, cuda or cuda:N"),
        ("precision", "half", "expected one of auto, full, reduced"),
        ("cascade", "2", "expected a number above 0 and up to 1"),
        ("assumed_um_per_px", "0.0005", "expected µm per pixel, such as 0.25 for a 40x scan"),
        ("assumed_um_per_px", "500", "expected a number above 0 and up to 100"),
        ("max_region_px", "1e6", "expected a whole number from 1"),
        ("max_upload_gib", "much", "expected a number above 0 and up to 1024"),
        ("keep_maps", "maybe", "expected one of true, yes, false, no"),
        ("database", "/data/overread.db", "expected a URL such as postgresql"),
        (
            "database",
            "postgresql+psycopg://me:secret@host/overread",
            "holds a password, which everybody on this",
        ),
        ("database", "postgresql://[", "expected a URL such as postgresql"),
        ("allow_anonymous", "perhaps", "expected one of true, yes, false, no"),
        ("control_share", "1.5", "expected a number above 0 and up to 1"),
        ("lease_minutes", "0", "expected a number above 0 and up to 10080"),
        ("consensus", "vote", "expected one of latest, majority, staple"),
        ("train_after", "0", "expected a whole number from 1"),
        ("train_iterations", "many", "expected a whole number from 1"),
        ("pacs_filter", "Modality", "expected DICOM keywords with values, such as Modality=CT"),
        ("pacs_filter", "Colour=red", "expected DICOM keywords with values"),
        ("first_look_seconds", "0", "expected a number above 0 and up to 300"),
        ("pacs_seconds", "60", "expected a number above 0 and up to 45"),
        ("train_start", "middle", "expected one of champion, scratch"),
    ],
)
def test_what_cannot_be_meant_is_refused(key, text, words):
    with pytest.raises(BadInputError, match=words.replace("+", r"\+")):
        Settings.from_conf({key: text})
