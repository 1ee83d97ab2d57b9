import json

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
