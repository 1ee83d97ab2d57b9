"""The tests of Python's bundles again, each bundle opened by the C library too, which must say the same of it.

What they open, damage and expect stands in tests/e2e_deploy/bundle; here, what opens is another.
"""

import json
import re

import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import MANIFEST
from e2e_deploy.bundle.onnx_check import check_graph
from e2e_deploy.bundle.onnx_paths import external_locations, locations_in
from e2e_deploy.errors import BundleError
from tests.e2e_deploy.bundle import (
    test_bundle,
    test_bundle_manifest,
    test_onnx_check,
    test_onnx_paths,
    test_variants,
)
from tests.native.library import NativeError
from tests.plain_bundle import write_plain_bundle

MODULES = test_bundle, test_bundle_manifest, test_onnx_check, test_onnx_paths, test_variants

folder, root = test_onnx_paths.folder, test_variants.root  # fixtures
for _module in MODULES:
    for _name, _test in list(vars(_module).items()):
        if _name.startswith("test_"):
            assert _name not in globals(), f"two tests are called {_name}"
            globals()[_name] = _test


def comparable(text):
    """A message without what the two may say in other words: where exactly a text is no JSON, a graph no graph."""
    text = re.sub(r"(cannot be read as JSON|is not an ONNX file): .*", r"\1", text)
    text = re.sub(
        r"\\ud[89a-f][0-9a-f]{2}", "\N{REPLACEMENT CHARACTER}", text
    )  # no UTF-8 has half a pair
    return re.sub(r"[0-9]{17,}", "many", text)  # beyond 64 bits


@pytest.fixture
def both(native):
    """As open_bundle; the C library must open the same bundles, and refuse the others with the same code and text."""

    def opens(path, **options):
        bundle = error = refusal = None
        try:
            bundle = open_bundle(path, **options)
        except BundleError as raised:
            error = raised
        try:
            with native.bundle(path, **options):
                pass
        except NativeError as raised:
            refusal = raised
        said = [each and comparable(str(each)) for each in (error, refusal)]
        assert said[0] == said[1]
        if error is not None:
            assert refusal.code == error.exit_code
            raise error
        return bundle

    return opens


@pytest.fixture
def refused(both):
    def check(root, match):
        with pytest.raises(BundleError, match=match) as caught:
            both(root)
        assert "\n" not in str(caught.value)

    return check


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    return write_plain_bundle(tmp_path_factory.mktemp("plain") / "bundle")


@pytest.fixture(autouse=True)
def _opened_by_both(both, plain, tmp_path_factory, monkeypatch):
    manifest = json.loads((plain / MANIFEST).read_text())
    manifest["graphs"][0]["onnx"] = "model.onnx"
    zeros = "0" * 64
    place = tmp_path_factory.mktemp("bundle")
    (place / "reference").mkdir()
    for name in manifest["files"]:
        if name.startswith("reference/"):
            (place / name).write_bytes((plain / name).read_bytes())

    def holding(data, weights):
        """The bundle whose graph is ``data``, with files of those sizes beside it."""
        files = {n: entry for n, entry in manifest["files"].items() if n.startswith("reference/")}
        for name, size in {"model.onnx": len(data), **weights}.items():
            files[name] = {"bytes": size, "sha256": zeros}
            with (place / name).open("wb") as stream:
                stream.truncate(size)
        (place / "model.onnx").write_bytes(data)
        (place / MANIFEST).write_text(json.dumps(manifest | {"files": files}))
        return place

    def checks(name, data, weights, target=None):
        assert (name, target) == ("model.onnx", None)
        try:
            missing = dict.fromkeys(locations_in(name, data), 0)
            both(holding(data, {**missing, **weights}), hash_check=False)
        except BundleError:
            with pytest.raises(BundleError):
                check_graph(name, data, weights)
            raise
        check_graph(name, data, weights)

    def locates(path):
        """The graph's locations; where none of them is listed, both name the first."""
        data = path.read_bytes()
        try:
            both(holding(data, {}), hash_check=False)
            said = ""
        except BundleError as error:
            said = str(error)
        found = external_locations(path)
        assert bool(found) == bool(re.search("takes weights from|names the path", said))
        return found

    for module in MODULES:
        if hasattr(module, "open_bundle"):
            monkeypatch.setattr(module, "open_bundle", both)
    monkeypatch.setattr(test_onnx_check, "check_graph", checks)
    monkeypatch.setattr(test_onnx_paths, "external_locations", locates)


@pytest.mark.parametrize("value", ["[]", "{}", '""', "1"])
def test_a_manifest_of_millions_of_values_does_not_fill_the_memory(native, bundle, value):
    """Python has the memory for the 16 MiB that a manifest may be; a robot's computer need not have it."""
    (bundle / MANIFEST).write_text('{"schema": [' + ",".join([value] * 1_000_001) + "]}")
    with pytest.raises(NativeError, match=r"it holds more than 1,000,000 values") as caught:
        native.bundle(bundle)
    assert caught.value.code == BundleError.exit_code
