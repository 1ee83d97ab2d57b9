import json

import e2e_deploy as e2e
from tests.plain_bundle import edit_manifest, write_plain_bundle
from tests.runtime.fake_plans import add_plan


def test_a_bundles_text_reaches_the_terminal_clean(cli, tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    entry = {"name": "\x1b[2Jfold", "parameters_before": 1, "parameters_after": 1}
    entry |= {"macs_before": 1, "macs_after": 1}

    def change(manifest):
        manifest["checkpoint"]["note"] = "see\x1b]0;title\x07 \ud800\nand"
        manifest["passes"] = [entry]

    edit_manifest(root, change)
    code, stdout, stderr = cli("inspect", root)
    assert (code, stderr) == (0, "")
    assert "\x1b" not in stdout
    assert "\x07" not in stdout
    assert "  note: see" in stdout
    assert "(0.00%)" in stdout


def test_an_engines_options_may_be_anything(cli, tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    add_plan(root)
    edit_manifest(root, lambda m: m["plans"][0].update(options={"network": [1]}, layers={}))
    code, stdout, _ = cli("inspect", root, "--engine")
    assert code == 0
    assert "the graph, before the builder fused it" in stdout


def test_a_checkpoint(cli, small):
    code, stdout, _ = cli("inspect", small, "--json")
    facts = json.loads(stdout)
    assert code == 0
    assert (facts["task"], facts["resolution"], facts["unet_in_channels"]) == ("depth", 64, 8)
    assert facts["parameters"].keys() == {"unet", "vae", "text_encoder"}
    assert facts["parameters"]["unet"] > 100_000
    code, stdout, _ = cli("inspect", small)
    assert code == 0
    assert f"unet: {facts['parameters']['unet']}" in stdout


def test_a_path_that_is_neither_is_told_both_readings(cli, tmp_path):
    (tmp_path / "other").mkdir()
    for path, why in ((tmp_path / "TYPO", "nothing is there"), (tmp_path / "other", "has neither")):
        code, stdout, stderr = cli("inspect", path)
        assert (code, stdout) == (5, "")
        assert "is neither a bundle (a folder with manifest.json) nor a checkpoint" in stderr
        assert why in stderr


def test_how_a_checkpoint_is_read_says_nothing_about_a_bundle(cli, tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    for option in (["--task", "depth"], ["--family", "marigold"]):
        code, _, stderr = cli("inspect", root, *option)
        assert code == 2
        assert f"{option[0]} is for checkpoints" in stderr
        assert cli("inspect", root, "--engine", *option)[0] == 2


def test_the_packaged_checkpoint_has_a_name(cli):
    code, stdout, _ = cli("inspect", "bundled:e2e-tiny-normals", "--json")
    facts = json.loads(stdout)
    assert (code, facts["checkpoint"], facts["task"]) == (0, "bundled:e2e-tiny-normals", "normals")


def test_facts_are_typed(small, tmp_path):
    facts = e2e.inspect(small)
    assert (facts.family, facts.task) == ("marigold", "depth")
    assert e2e.inspect(write_plain_bundle(tmp_path / "b", batch=2)).graphs[0].batch == 2
    findings = {finding.what: finding for finding in e2e.doctor()}
    assert findings["numpy"].works
    assert findings["numpy"].needed
    assert not findings["tensorrt"].needed
