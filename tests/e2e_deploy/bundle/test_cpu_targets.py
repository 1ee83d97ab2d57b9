"""Which compiled code a CPU runs; flags as Linux lists them."""

import pytest
import torch

from e2e_deploy.bundle.cpu_targets import CPU_TARGETS, cpu_targets
from e2e_deploy.nvidia.hardware import cpu_features

HASWELL = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ss ht syscall "
    "nx pdpe1gb rdtscp lm constant_tsc rep_good nopl xtopology cpuid pni pclmulqdq ssse3 fma cx16 pcid sse4_1 sse4_2 "
    "x2apic movbe popcnt tsc_deadline_timer aes xsave avx f16c rdrand hypervisor lahf_lm abm fsgsbase bmi1 avx2 smep "
    "bmi2 erms"
)
SKYLAKE_X = f"{HASWELL} avx512f avx512dq clflushopt clwb avx512cd avx512bw avx512vl"
GRAVITON = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


@pytest.mark.parametrize(
    ("features", "targets"),
    [
        (HASWELL, ("x86-64-v3",)),
        (SKYLAKE_X, ("x86-64-v4", "x86-64-v3")),
        (GRAVITON, ("armv8-a",)),
        (HASWELL.replace(" bmi2", ""), ()),
        (SKYLAKE_X.replace(" avx512vl", ""), ("x86-64-v3",)),
        ("", ()),
    ],
)
def test_the_best_that_it_runs_comes_first(features, targets):
    assert cpu_targets(features) == targets


@pytest.mark.parametrize("name", CPU_TARGETS)
def test_one_missing_feature_is_enough_to_refuse(name):
    for missing in CPU_TARGETS[name]:
        assert name not in cpu_targets(" ".join(CPU_TARGETS[name] - {missing}))


def test_pytorch_agrees_about_this_cpu():
    found = cpu_targets(cpu_features())
    if "x86-64-v3" in found:
        assert torch.cpu._is_avx2_supported()
    if "x86-64-v4" in found:
        assert torch.cpu._is_avx512_supported()
