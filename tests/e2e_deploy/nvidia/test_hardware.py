import sys

import pytest

from e2e_deploy.nvidia.hardware import available_memory_bytes

GIB = 2**30


@pytest.fixture
def machine(tmp_path):
    """A machine with 8 GiB free; what else it says of groups is written by the test."""

    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("proc/meminfo", f"MemTotal: 999 kB\nMemAvailable:  {8 * GIB // 1024} kB\nBuffers: 1 kB\n")
    return tmp_path, write


def limit(write, folder, most, used, cache=0):
    write(f"sys/fs/cgroup/{folder}memory.max", f"{most}\n")
    write(f"sys/fs/cgroup/{folder}memory.current", f"{used}\n")
    write(f"sys/fs/cgroup/{folder}memory.stat", f"anon 1\ninactive_file {cache}\nactive_file 2\n")


def test_a_machine_without_groups(machine):
    assert available_memory_bytes(machine[0]) == 8 * GIB


def test_a_containers_limit(machine):
    root, write = machine
    write("proc/self/cgroup", "4:memory:/old\n0::/\n")
    limit(write, "", 4 * GIB, 3 * GIB, cache=GIB)
    assert available_memory_bytes(root) == 2 * GIB
    limit(write, "", 4 * GIB, 5 * GIB)
    assert available_memory_bytes(root) == 0
    limit(write, "", "max", 5 * GIB)
    assert available_memory_bytes(root) == 8 * GIB


def test_a_limit_on_a_group_around_it(machine):
    root, write = machine
    write("proc/self/cgroup", "0::/system.slice/robot.service\n")
    limit(write, "system.slice/robot.service/", "max", GIB)
    limit(write, "system.slice/", 3 * GIB, GIB)
    assert available_memory_bytes(root) == 2 * GIB


def test_a_machine_that_tells_nothing(tmp_path):
    assert available_memory_bytes(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_this_machine():
    assert available_memory_bytes() > 2**20
