import sys
from types import SimpleNamespace

import pytest

from e2e_deploy.nvidia import hardware
from e2e_deploy.nvidia.hardware import available_memory_bytes, cuda_device_count, cuda_device_name

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


def two_devices(name):
    """As much of the driver's library as is asked for names."""

    def count(given):
        given._obj.value = 2
        return 0

    def get(device, index):
        device._obj.value = 70 + index  # handles are not numbers of devices
        return 0 if index < 2 else 101

    def told(text, size, device):
        text.value = b"NVIDIA Tester %d" % device.value
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: 0, cuDeviceGetCount=count, cuDeviceGet=get, cuDeviceGetName=told
    )


def test_devices_are_counted_and_named_by_the_driver(monkeypatch):
    monkeypatch.setattr(hardware.ctypes, "CDLL", two_devices)
    assert cuda_device_count.__wrapped__() == 2
    assert [cuda_device_name(index) for index in range(3)] == [
        "NVIDIA Tester 70",
        "NVIDIA Tester 71",
        "",
    ]


def test_without_a_driver_there_is_no_device(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(hardware.ctypes, "CDLL", missing)
    assert (cuda_device_count.__wrapped__(), cuda_device_name(0)) == (0, "")
