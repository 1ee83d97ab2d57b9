"""Pictures of any name that a disk takes have their results in every format, and again when the run is repeated."""

import os

import cv2
import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.names import BULK_FORMATS
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import results_of, without_ray

NAMES = [
    b"a\nb.png",
    b"\xff\xfe.png",
    "\u4e2d\U0001f600.png".encode(),
    b"'; rm.png",
    b"a" * 240 + b".png",
    b"--out.png",
    b"x.PNG",
    b"a%d.png",
    b"[1].png",
    b"tab\t.png",
    b"a\\b.png",
    b" .png",
    b"e\xcc\x81.png",
    b"\xc3\xa9.png",
]
DAMAGED = b"bad\xff\n.png"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    (root / "in").mkdir()
    data = cv2.imencode(".png", np.full((24, 32, 3), 7, np.uint8))[1].tobytes()
    for name in [*NAMES, DAMAGED]:
        path = os.fsencode(root / "in") + b"/" + name
        try:
            with open(path, "wb") as stream:
                stream.write(b"no" if name == DAMAGED else data)
        except OSError:
            pytest.skip(f"no file here can have the name {name!r}")
    bundle = write_plain_bundle(root / "depth")
    e2e.run(root / "in", bundle, out=root / "ref", formats="png16")
    return root


@pytest.mark.parametrize("format", BULK_FORMATS)
def test_any_name(inputs, tmp_path, monkeypatch, format):
    without_ray(monkeypatch)
    for before in (0, len(NAMES) + 1):
        report = e2e.bulk(inputs / "in", inputs / "depth", tmp_path / "out", format=format)
        assert (report.before, report.written, len(report.failures)) == (before, len(NAMES), 1)
    if format == "png16":
        assert results_of(tmp_path / "out") == results_of(inputs / "ref")
