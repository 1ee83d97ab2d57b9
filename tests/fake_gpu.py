"""A machine with a GPU, TensorRT and torch, all doubles, as every module of the package sees it."""

from types import SimpleNamespace

from e2e_deploy.errors import UnavailableError
from e2e_deploy.export.engines import build as engines
from e2e_deploy.export.engines import replace_plan
from e2e_deploy.nvidia.trt_api import TrtApi
from e2e_deploy.runtime import backends
from e2e_deploy.runtime.backends.inductor import backend as inductor_backend
from e2e_deploy.runtime.backends.tensorrt import backend as trt_backend
from tests.fake_cuda import FakeDriver, fake_tensorrt
from tests.fake_torch import FakeTorch
from tests.runtime.fake_plans import VERSION, write_plan


def install(monkeypatch, cache, *, libraries=("tensorrt",), driver=None):
    """Put a GPU and ``libraries`` in place of the real ones, and the user's cache into ``cache``; gives the driver."""
    driver = driver or FakeDriver()
    apis = {
        name: TrtApi(name, fake_tensorrt(VERSION, driver))
        for name in libraries
        if name != "inductor"
    }

    def new_driver(*_):
        driver.use()  # as the real one does in the thread that makes it
        return driver

    def find_api(name):
        if name not in apis:
            raise UnavailableError(f"the package {name!r} is not installed")
        return apis[name]

    def build_plan(folder, graph, job, *, digest, **_):
        return write_plan(folder, graph, digest, backend=job.api.name, target=job.target)

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(backends, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(trt_backend, "CudaDriver", new_driver)
    monkeypatch.setattr(trt_backend, "find_api", find_api)
    monkeypatch.setattr(engines, "find_api", find_api)
    monkeypatch.setattr(replace_plan, "current_gpu", lambda: driver.gpu)
    monkeypatch.setattr(replace_plan, "build_plan", build_plan)
    if "inductor" in libraries:
        cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1)
        torch = SimpleNamespace(cuda=cuda, __version__=FakeTorch.version)
        monkeypatch.setattr(inductor_backend, "require", lambda *_: torch)
        monkeypatch.setattr(inductor_backend, "CudaDriver", new_driver)
        monkeypatch.setattr(inductor_backend, "_torch_on", lambda *_: FakeTorch(driver))
    return driver
