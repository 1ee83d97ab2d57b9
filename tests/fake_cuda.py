"""A GPU and TensorRT that compute on the host and write down every call in one list, so that order can be checked.

A plan here is JSON: version of the library, compute capability, name, tensors. What it computes is what its outputs are
called, as in tests/plain_bundle.py. Queued work runs as late as it may, when somebody waits for it, and of other
streams only what an event demands: a missing wait, or memory that is used again too early, gives a wrong result. A
thread that did not make the GPU current cannot use it.
"""

import enum
import itertools
import json
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.nvidia.cuda_driver import Gpu
from tests.plain_bundle import PLAIN

GPU = Gpu("NVIDIA Fake 4090", "sm89", (13, 1))


class FakeDriver:
    """Keeps the Driver protocol. ``calls`` is everything that was asked, ``live`` everything not yet released.

    ``fails`` maps a method's name to the error it raises.
    """

    context = 0xC0

    def __init__(self, gpu=GPU, *, alignment=512, fails=None):
        self.gpu = gpu
        self.calls = []
        self.live = {}
        self.threads = {threading.get_ident()}  # where the GPU is current
        self.memory = {}
        self.fails = fails or {}
        self.queues = {}  # of each stream: work, and marks of events
        self.recorded = {}  # event: the newest mark that was queued
        self.passed = set()
        self.captured = None
        self.graphs = {}
        self.alignment = alignment
        self._next = 0x10000
        self._marks = itertools.count()

    def note(self, name, *arguments):
        assert name == "close" or threading.get_ident() in self.threads, "no current context"
        self.calls.append((name, *arguments))
        if name in self.fails:
            raise E2EDeployError(self.fails[name])

    def names(self):
        return [call[0] for call in self.calls]

    def _new(self, kind):
        self._next += 0x10000
        handle = self._next + (self.alignment if self.alignment < 256 else 0)
        self.live[handle] = kind
        return handle

    def _gone(self, handle, kind):
        assert self.live.pop(handle) == kind

    def enqueue(self, stream, work):
        assert self.live[stream] == "stream"
        (self.queues[stream] if self.captured is None else self.captured).append(work)

    def run(self, stream, until=None):
        """What is queued in a stream, up to a mark."""
        queue = self.queues[stream]
        while queue and until not in self.passed:
            item = queue.pop(0)
            if callable(item):
                item()
            elif item[0] == "mark":
                self.passed.add(item)
            else:
                _, (_, owner, number) = item
                self.run(owner, until=("mark", owner, number))

    def use(self):
        self.threads.add(threading.get_ident())
        self.note("use")

    @contextmanager
    def unchanged(self):
        me = threading.get_ident()
        was_current = me in self.threads
        try:
            yield
        finally:
            if not was_current:
                self.threads.discard(me)

    def new_stream(self):
        self.note("new_stream")
        stream = self._new("stream")
        self.queues[stream] = []
        return stream

    def synchronise(self, stream):
        self.note("synchronise", stream)
        self.run(stream)

    def destroy_stream(self, stream):
        self.note("destroy_stream", stream)
        assert not self.queues.pop(stream) or "synchronise" in self.fails, "work is still running"
        self._gone(stream, "stream")

    def allocate(self, size):
        self.note("allocate", size)
        address = self._new("memory")
        self.memory[address] = np.full(size, 0xAB, np.uint8)
        return address

    def at(self, address, size):
        """So many bytes of what was allocated, from an address in it."""
        start = max(known for known in self.memory if known <= address)
        part = self.memory[start][address - start :][:size]
        assert part.nbytes == size, "beyond what was allocated"
        return part

    def free(self, address):
        self.note("free", address)
        self._gone(address, "memory")
        del self.memory[address]

    def allocate_pinned(self, size):
        self.note("allocate_pinned", size)
        array = np.full(size, 0xCD, np.uint8)
        self.live[id(array)] = "pinned"
        return array

    def free_pinned(self, array):
        self.note("free_pinned", array.nbytes)
        self._gone(id(array), "pinned")

    def copy_in(self, address, array, stream):
        self.note("copy_in", address, array.nbytes, stream)
        assert self.memory[address].nbytes == array.nbytes
        self.enqueue(stream, lambda: self.memory[address].__setitem__(slice(None), array))

    def copy_out(self, array, address, stream):
        self.note("copy_out", address, array.nbytes, stream)
        assert self.memory[address].nbytes == array.nbytes
        self.enqueue(stream, lambda: array.__setitem__(slice(None), self.memory[address]))

    def copy_on_gpu(self, address, source, size, stream):
        self.note("copy_on_gpu", address, source, size, stream)
        assert self.memory[address].nbytes == size == self.memory[source].nbytes
        self.enqueue(
            stream, lambda: self.memory[address].__setitem__(slice(None), self.memory[source])
        )

    def new_event(self):
        self.note("new_event")
        return self._new("event")

    def record(self, event, stream):
        self.note("record", event, stream)
        assert self.captured is None
        assert self.live[event] == "event"
        mark = ("mark", stream, next(self._marks))
        self.recorded[event] = mark
        self.queues[stream].append(mark)

    def stream_wait(self, stream, event):
        self.note("stream_wait", stream, event)
        self.queues[stream].append(("wait", self.recorded[event]))

    def wait(self, event):
        self.note("wait", event)
        mark = self.recorded[event]
        self.run(mark[1], until=mark)

    def elapsed_ms(self, start, end):
        self.note("elapsed_ms")
        assert {self.recorded[start], self.recorded[end]} <= self.passed, "not ready"
        return 1.5

    def destroy_event(self, event):
        self.note("destroy_event", event)
        self._gone(event, "event")

    def begin_capture(self, stream):
        self.note("begin_capture", stream)
        assert not any(self.queues.values()), "work is still running"
        self.captured = []

    def end_capture(self, stream):
        recorded, self.captured = self.captured, None
        self.note("end_capture", stream)
        graph = self._new("graph")
        self.graphs[graph] = recorded
        return graph

    def launch(self, graph, stream):
        self.note("launch", graph, stream)
        assert self.live[graph] == "graph"
        self.queues[stream] += self.graphs[graph]

    def destroy_graph(self, graph):
        self.note("destroy_graph", graph)
        assert not any(self.queues.values()), "work is still running"
        self._gone(graph, "graph")

    def share(self):
        self.note("share")
        return self

    def close(self):
        self.note("close")


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class _Plain:
    def __init__(self, *_):
        pass


class FakeEngine:
    def __init__(self, facts, driver, behaviour, logger):
        self.logger = logger
        self.facts = facts
        self.name = facts["name"]
        self.device_memory_size_v2 = 3 << 20
        self.num_io_tensors = len(facts["tensors"])
        self._driver = driver
        self._behaviour = behaviour
        driver.live[id(self)] = "engine"

    def __del__(self):
        self._driver.note("delete_engine")
        del self._driver.live[id(self)]

    def get_tensor_name(self, index):
        return self.facts["tensors"][index][0]

    def _of(self, name):
        return next(t for t in self.facts["tensors"] if t[0] == name)

    def get_tensor_mode(self, name):
        return self._of(name)[1]

    def get_tensor_dtype(self, name):
        return self._of(name)[2]

    def get_tensor_shape(self, name):
        return self._of(name)[3]

    def create_engine_inspector(self):
        text = '{"Layers": [{"Name": "a", "Outputs": [{"DataType": "Half"}]}]}'
        return SimpleNamespace(get_engine_information=lambda kind: text)

    def create_execution_context(self):
        if self._behaviour.get("no_context"):
            return None
        kind = RtxContext if "capturable" in self._behaviour else FakeContext
        return kind(self, self._driver, self._behaviour)


class FakeContext:
    def __init__(self, engine, driver, behaviour):
        driver.note("create_context")
        driver.live[id(self)] = "context"
        self.engine, self.driver, self.behaviour = engine, driver, behaviour
        self.logger = engine.logger
        self.addresses = {}

    def __del__(self):
        self.driver.note("delete_context")
        del self.driver.live[id(self)]

    def set_tensor_address(self, name, address):
        self.driver.note("set_tensor_address", name, address)
        self.addresses[name] = address
        return not self.behaviour.get("no_address")

    def execute_async_v3(self, stream):
        self.driver.note("execute", stream)
        self.behaviour["runs"] = self.behaviour.get("runs", 0) + 1
        if self.behaviour["runs"] in self.behaviour.get("failing_runs", ()):
            self.logger.log(
                Severity.ERROR, "IExecutionContext::enqueueV3: Error Code 1: Myelin (boom)"
            )
            return False
        driver, tensors = self.driver, self.engine.facts["tensors"]
        bound = dict(self.addresses)  # the work must not keep this context alive

        def work():
            (into, _, _, shape), *outputs = tensors
            frame = driver.at(bound[into], np.prod(shape)).reshape(shape)
            for out, *_ in outputs:
                result = PLAIN[out](frame).astype(np.float32).view(np.uint8).ravel()
                driver.at(bound[out], result.nbytes)[:] = result

        self.driver.enqueue(stream, work)
        return True


class RtxContext(FakeContext):
    def is_stream_capturable(self, stream):
        return self.behaviour["capturable"]


def fake_tensorrt(version="11.4.0", driver=None, *, missing=(), starts=True, **behaviour):
    """A module like tensorrt. ``missing`` are names it lacks, ``behaviour`` what goes wrong."""

    class Runtime:
        def __init__(self, logger):
            if not starts:
                logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.logger = logger

        def deserialize_cuda_engine(self, data):
            assert type(data) is bytes
            if driver is not None:
                driver.note("deserialise", len(data))
            try:
                facts = json.loads(data)
            except ValueError:
                self.logger.log(
                    Severity.ERROR,
                    "IRuntime::deserializeCudaEngine: Error Code 4: (plan is truncated)",
                )
                return None
            if facts["version"] != version:
                self.logger.log(
                    Severity.ERROR,
                    "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
                    "stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match)",
                )
                return None
            if facts["target"] != driver.gpu.target:
                self.logger.log(
                    Severity.ERROR,
                    "The engine plan file is generated on an incompatible device, "
                    "expecting compute 8.9 got 8.6",
                )
                return None
            return FakeEngine(facts, driver, behaviour, self.logger)

    class Builder(Runtime):
        build_serialized_network = None

    names = {
        "__version__": version,
        "ILogger": type("ILogger", (_Plain,), {"Severity": Severity}),
        "IBuilderConfig": type("IBuilderConfig", (), {"progress_monitor": None}),
        "ICudaEngine": type("ICudaEngine", (), {"device_memory_size_v2": 0}),
        "IExecutionContext": type("IExecutionContext", (), {"execute_async_v3": None}),
        "OnnxParser": type("OnnxParser", (), {"parse_from_file": None}),
        "ParserError": type("ParserError", (), {"node_name": None}),
        "Builder": Builder,
        "Runtime": Runtime,
        "TensorIOMode": SimpleNamespace(INPUT="input", OUTPUT="output"),
        "LayerInformationFormat": SimpleNamespace(JSON="json"),
        "nptype": np.dtype,
    }
    return SimpleNamespace(**{k: v for k, v in names.items() if k not in missing})
