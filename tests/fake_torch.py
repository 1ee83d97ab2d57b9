"""torch on the double of a GPU: what loads and runs packages of AOTInductor, without torch.cuda and without code."""

from functools import partial

import numpy as np

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.backends.gpu.computation import DriverRecording
from tests.plain_bundle import plain_results


class FakePackage:
    """What FakeTorch loads."""

    def __init__(self, driver):
        self._driver = driver
        driver.live[id(self)] = "package"

    def __del__(self):
        self._driver.note("delete_package")
        del self._driver.live[id(self)]


class FakeTorch:
    """Keeps the TorchGpu protocol on a FakeDriver; a package computes the results of tests/plain_bundle.py, of which
    two are those of geometry.

    ``behaviour`` is what goes wrong: failing_runs, numbers of runs; not_loaded, what the loader says.
    """

    version = "2.13.0+cu130"

    def __init__(self, driver, **behaviour):
        self.driver, self.behaviour, self.runs, self.loaded = driver, behaviour, 0, None

    def load(self, file):
        self.loaded = file
        assert file.stat().st_mode & 0o077 == 0 or file.parent.stat().st_mode & 0o077 == 0
        self.driver.note("load_package", file.stat().st_size)
        if "not_loaded" in self.behaviour:
            raise RuntimeError(self.behaviour["not_loaded"])
        return FakePackage(self.driver)

    def run(self, package, frame, results, stream):
        driver = self.driver
        driver.note("run_package", frame.address, *[r.address for r in results], stream)
        assert driver.live[id(package)] == "package"
        self.runs += 1
        if self.runs in self.behaviour.get("failing_runs", ()):
            raise E2EDeployError("the package fails in PyTorch: boom")
        task = "depth" if len(results) == 1 else "geometry"

        def work():
            picture = driver.at(frame.address, np.prod(frame.shape)).reshape(frame.shape)
            for result, made in zip(results, plain_results(picture, task).values(), strict=True):
                values = made.astype(result.dtype).reshape(result.shape).view(np.uint8).ravel()
                driver.at(result.address, values.nbytes)[:] = values

        driver.enqueue(stream, work)

    def record(self, package, frame, results, stream):
        return DriverRecording(
            self.driver, stream, partial(self.run, package, frame, results, stream)
        )

    def release(self):
        self.driver.note("release")
