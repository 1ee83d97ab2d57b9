"""What becomes of an export whose package fails when it is run; the process that runs it is a double."""

import json
from dataclasses import asdict

import pytest

from e2e_deploy.bundle.manifest import VerificationEntry, parse_manifest
from e2e_deploy.errors import ParityError
from e2e_deploy.export.verified_packages import verified_packages
from e2e_deploy.nvidia.trt_messages import BuildError
from e2e_deploy.progress import Stages
from tests.plain_bundle import write_plain_bundle
from tests.runtime.packages import add_fake_package

QUIET = Stages(quiet=True)


@pytest.fixture
def root(tmp_path):
    return write_plain_bundle(tmp_path / "b")


@pytest.fixture
def package(root):
    return add_fake_package(root)


def manifest_of(root):
    return parse_manifest((root / "manifest.json").read_text())


def test_without_a_package_nothing_is_run(root, child_runs):
    child_runs("raise SystemExit(3)")
    manifest = manifest_of(root)
    assert verified_packages(root, manifest, "auto", QUIET) == (manifest, [])


def test_its_verdicts_go_into_the_manifest(root, package, child_runs):
    entry = VerificationEntry(
        frame_size=[24, 32],
        output="depth",
        backend="inductor",
        precision="fp32",
        parity={},
        passed=True,
    )
    told = json.dumps({"entries": [asdict(entry)]})
    child_runs(f"import sys; assert sys.argv[2] == 'cuda'; print({told!r})")
    manifest = manifest_of(root)
    checked, notes = verified_packages(root, manifest, "inductor", QUIET)
    assert checked.verification == [*manifest.verification, entry]
    assert (checked.plans, notes) == (manifest.plans, [])


FAILURES = [
    ("import os; os.kill(os.getpid(), 11)", BuildError, "ends the process .* SIGSEGV"),
    ('print(\'{"error": "ParityError", "text": "outside its limit"}\')', ParityError, "outside"),
]


@pytest.mark.parametrize(("script", "kind", "message"), FAILURES, ids=["crash", "limit"])
def test_one_that_fails_is_an_error_where_it_was_named(
    root, package, child_runs, script, kind, message
):
    child_runs(script)
    with pytest.raises(kind, match=message):
        verified_packages(root, manifest_of(root), "inductor", QUIET)


@pytest.mark.parametrize(("script", "kind", "message"), FAILURES, ids=["crash", "limit"])
def test_auto_leaves_it_out_and_says_why(root, package, child_runs, script, kind, message):
    child_runs(script)
    manifest, (note,) = verified_packages(root, manifest_of(root), "auto", QUIET)
    assert note.startswith("no AOTInductor plan: ")
    assert manifest.plans == []
    assert not package.exists()
