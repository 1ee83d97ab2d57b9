import json

import pytest

from e2e_deploy.bundle.manifest import parse_manifest
from e2e_deploy.bundle.new_bundle import write_manifest
from tests import fake_gpu
from tests.plain_bundle import edit_manifest, write_plain_bundle
from tests.runtime.fake_plans import add_plan


@pytest.fixture
def root(tmp_path):
    root = write_plain_bundle(tmp_path / "bundle")
    add_plan(root)
    return root


def table(stdout):
    """Rows by column; cells are two spaces or more apart."""
    header, *rows = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in stdout.splitlines()
    ]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_an_engine_is_read_where_its_gpu_is(cli, root, monkeypatch, tmp_path):
    driver = fake_gpu.install(monkeypatch, tmp_path / "cache")
    code, stdout, stderr = cli("inspect", root, "--engine")
    (row,) = table(stdout)
    assert (code, stderr) == (0, "")
    assert (row["frame"], row["engine"], row["target"]) == ("24x32", "tensorrt 11.4.0", "sm89")
    assert (row["layers"], row["fp16"], row["reformat"]) == ("1", "100.0%", "0.0%")
    assert row["layers are"] == "read from the plan"
    assert driver.live == {}


def test_elsewhere_it_shows_what_was_noted(cli, root):
    noted = {"layers": 200, "fp16": 150, "fp32": 50, "reformat": 10}
    edit_manifest(root, lambda m: m["plans"][0].update(layers=noted))
    code, stdout, stderr = cli("inspect", root, "--engine")
    (row,) = table(stdout)
    assert code == 0
    assert (row["fp16"], row["fp32"], row["reformat"]) == ("75.0%", "25.0%", "5.0%")
    assert row["layers are"] == "noted when it was built"
    assert "not read here" in stderr


def test_one_built_without_a_gpu_shows_its_graph(cli, root):
    counted = {"layers": 10, "fp16": 9, "fp32": 1, "cast": 2}
    edit_manifest(root, lambda m: m["plans"][0].update(options={"network": counted}))
    code, stdout, _ = cli("inspect", root, "--engine")
    (row,) = table(stdout)
    assert code == 0
    assert (row["layers"], row["cast"], row["reformat"]) == ("10", "20.0%", "-")
    assert row["layers are"] == "the graph, before the builder fused it"
    code, stdout, _ = cli("inspect", root, "--engine", "--json")
    (entry,) = json.loads(stdout)
    assert entry["layers"] == counted
    assert entry["seconds"] == 1.0


def test_a_bundle_without_engines(cli, root):
    manifest = parse_manifest((root / "manifest.json").read_text())
    manifest.plans.clear()
    write_manifest(root, manifest)
    code, stdout, stderr = cli("inspect", root, "--engine")
    assert (code, stdout) == (2, "")
    assert "holds no plan" in stderr
