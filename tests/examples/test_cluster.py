"""The files for clusters, by Ray's own reading of them; no cluster is begun."""

from pathlib import Path

import pytest

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
