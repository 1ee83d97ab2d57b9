"""The files for clusters, by Ray's own reading of them; no cluster is begun."""

import os
import shlex
from pathlib import Path

import pytest

from tests.examples import kuberay

EXAMPLES = Path(__file__).parents[2] / "examples" / "cluster"


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_takes_the_configuration_of_a_cluster():
    yaml = pytest.importorskip("yaml")
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = yaml.safe_load((EXAMPLES / "ray-up.yaml").read_text())
    prepared = util.prepare_config(config)
    util.validate_config(prepared)
    assert prepared["provider"]["worker_ips"] == ["worker-1.example", "worker-2.example"]
    assert all(
        "RAY_USAGE_STATS_ENABLED=0" in prepared[f"{role}_start_ray_commands"][1]
        for role in ("head", "worker")
    )
    prepared["no such key"] = 1
    with pytest.raises(Exception, match="no such key"):
        util.validate_config(prepared)


@pytest.fixture
def job():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())


def judged(job, schema):
    """What is wrong with a job, a line each."""
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(kuberay.strict(schema))
    return [error.message for error in validator.iter_errors(job)]


def test_kuberay_takes_the_job(job):
    assert judged(job, kuberay.stored()) == []
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    group["maxReplica"] = 3
    group["template"]["spec"]["containers"][0]["volumeMount"] = []
    del job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    job["spec"]["backoffLimit"] = "1"
    said = judged(job, kuberay.stored())
    for word in ("maxReplica", "volumeMount", "'template' is a required property", "'1' is not of"):
        assert any(word in line for line in said), (word, said)
    assert len(said) == 4


@pytest.mark.skipif("KUBERAY_CRD" not in os.environ, reason="KUBERAY_CRD=FILE compares with it")
def test_the_cut_schema_is_part_of_the_whole(job):
    part, whole = kuberay.of_crd(Path(os.environ["KUBERAY_CRD"]).read_text(), [job])
    assert part == kuberay.stored()
    assert judged(job, whole) == []


def test_the_job_runs_a_command_that_there_is(job, monkeypatch):
    """Every option of the entrypoint, and every pod mounts what it names."""
    from e2e_deploy.cli.verbs.fleet.bulk import command

    program, verb, *given = shlex.split(job["spec"]["entrypoint"])
    assert (program, verb) == ("e2e-deploy", "bulk")
    context = command.make_context("bulk", given)
    assert context.params["address"] == "auto"
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        (mount,) = container["volumeMounts"]
        for path in (context.params["source"], context.params["out"]):
            assert Path(path).is_relative_to(mount["mountPath"])
        assert container["env"] == [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}]
    assert cluster["authOptions"] == {"mode": "token"}
