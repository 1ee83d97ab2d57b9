"""libe2e_deploy through ctypes: a second user of its header, whose structs stand here once more on purpose."""

import ctypes
import json
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_size_t, c_void_p, sizeof

import numpy as np


class NativeError(Exception):
    """What a function refused, with its code."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Struct(ctypes.Structure):
    def __init__(self, **values):
        super().__init__(struct_size=sizeof(self), **values)


class Options(Struct):
    _fields_ = (
        ("struct_size", c_size_t),
        ("backend", c_char_p),
        ("device", c_char_p),
        ("threads", c_int),
        ("height", c_int),
        ("width", c_int),
        ("onnxruntime", c_char_p),
        ("tensorrt", c_char_p),
    )


class Info(Struct):
    _fields_ = (
        ("struct_size", c_size_t),
        *((name, c_int) for name in ("height", "width", "batch", "outputs")),
        *((name, c_char_p) for name in ("backend", "device", "reason")),
    )


class Output(Struct):
    _fields_ = (
        ("struct_size", c_size_t),
        *((name, c_char_p) for name in ("name", "kind", "form", "meaning", "units")),
        *((name, c_int) for name in ("height", "width", "channels")),
        *((name, c_double) for name in ("low", "high", "power")),
    )


class Frame(Struct):
    _fields_ = (
        ("struct_size", c_size_t),
        ("rgb", c_void_p),
        ("row_bytes", c_size_t),
        ("height", c_int),
        ("width", c_int),
    )


class Result(Struct):
    _fields_ = (("struct_size", c_size_t), ("values", c_void_p), ("count", c_size_t))


class Alignment(Struct):
    _fields_ = (
        ("struct_size", c_size_t),
        *((name, c_double) for name in ("scale", "shift", "residual")),
        ("cut", c_int),
    )


class Metric(Struct):
    _fields_ = (
        ("struct_size", c_size_t),
        *((name, c_double) for name in ("scale", "shift", "power")),
        *((name, c_double) for name in ("inliers", "residual_m", "residual")),
        ("points", c_size_t),
    )


class Intrinsics(Struct):
    _fields_ = (("struct_size", c_size_t), *((name, c_double) for name in ("fx", "fy", "cx", "cy")))


SIGNATURES = {
    "e2e_last_error": (c_char_p, []),
    "e2e_last_code": (c_int, []),
    "e2e_version": (c_char_p, []),
    "e2e_abi": (c_int, []),
    "e2e_bundle_open": (c_int, [c_char_p, c_int, POINTER(c_void_p)]),
    "e2e_bundle_facts": (c_char_p, [c_void_p]),
    "e2e_bundle_close": (None, [c_void_p]),
    "e2e_engine_open": (c_int, [c_void_p, POINTER(Options), POINTER(c_void_p)]),
    "e2e_engine_about": (c_int, [c_void_p, POINTER(Info)]),
    "e2e_engine_output": (c_int, [c_void_p, c_int, POINTER(Output)]),
    "e2e_engine_run": (c_int, [c_void_p, POINTER(Frame), c_size_t, POINTER(Result), c_size_t]),
    "e2e_engine_run_on_device": (
        c_int,
        [c_void_p, c_void_p, POINTER(c_void_p), c_size_t, c_void_p],
    ),
    "e2e_engine_close": (None, [c_void_p]),
    "e2e_steady_open": (c_int, [POINTER(c_void_p)]),
    "e2e_steady_run": (c_int, [c_void_p, c_void_p, c_int, c_int, c_void_p, POINTER(Alignment)]),
    "e2e_steady_reset": (c_int, [c_void_p]),
    "e2e_steady_close": (None, [c_void_p]),
    "e2e_metric_from_points": (
        c_int,
        [c_void_p, c_int, c_int, c_char_p, c_void_p, c_size_t, POINTER(Metric)],
    ),
    "e2e_metric_from_plane": (
        c_int,
        [
            *(c_void_p, c_int, c_int, c_char_p, POINTER(Intrinsics), c_double),
            *(POINTER(c_double), POINTER(Metric)),
        ],
    ),
    "e2e_metric_apply": (c_int, [POINTER(Metric), c_void_p, c_size_t, c_void_p]),
}


class Library:
    """The functions of the header; those that give a code raise a NativeError instead.

    Attributes:
        c: the library itself.
    """

    def __init__(self, path):
        self.path = path
        self.c = ctypes.CDLL(str(path))
        for name, (gives, takes) in SIGNATURES.items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = gives, takes

    def check(self, code):
        if code:
            assert self.c.e2e_last_code() == code
            raise NativeError(code, self.c.e2e_last_error().decode())

    def bundle(self, folder, hash_check=True):
        return Bundle(self, folder, hash_check)

    def engine(self, folder, *, hash_check=True, **options):
        with self.bundle(folder, hash_check) as bundle:
            return Engine(self, bundle, **options)

    def steady(self):
        return Steady(self)

    def metric_from_points(self, depth, points, kind="depth"):
        points, fit = np.ascontiguousarray(points, np.float64), Metric()
        self.check(
            self.c.e2e_metric_from_points(
                depth.ctypes.data,
                *depth.shape,
                kind.encode(),
                points.ctypes.data,
                len(points),
                byref(fit),
            )
        )
        return fit

    def metric_from_plane(self, depth, intrinsics, distance_m, normal, kind="depth"):
        camera, fit = Intrinsics(**intrinsics), Metric()
        self.check(
            self.c.e2e_metric_from_plane(
                *(depth.ctypes.data, *depth.shape, kind.encode(), byref(camera), distance_m),
                *((c_double * 3)(*normal), byref(fit)),
            )
        )
        return fit

    def metres(self, fit, depth):
        out = np.empty_like(depth)
        self.check(
            self.c.e2e_metric_apply(byref(fit), depth.ctypes.data, depth.size, out.ctypes.data)
        )
        return out


class Handle:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Bundle(Handle):
    def __init__(self, native, folder, hash_check):
        self._native, self.handle = native, c_void_p()
        native.check(native.c.e2e_bundle_open(str(folder).encode(), hash_check, byref(self.handle)))

    @property
    def facts(self):
        return json.loads(self._native.c.e2e_bundle_facts(self.handle))

    def close(self):
        self._native.c.e2e_bundle_close(self.handle)
        self.handle = None


class Engine(Handle):
    """Options are those of e2e_engine_options, as texts and numbers."""

    def __init__(self, native, bundle, **options):
        encoded = {k: str(v).encode() if not isinstance(v, int) else v for k, v in options.items()}
        self._native, self.handle = native, c_void_p()
        native.check(
            native.c.e2e_engine_open(bundle.handle, byref(Options(**encoded)), byref(self.handle))
        )
        self.info = Info()
        native.check(native.c.e2e_engine_about(self.handle, byref(self.info)))
        self.outputs = []
        for index in range(self.info.outputs):
            self.outputs.append(Output())
            native.check(native.c.e2e_engine_output(self.handle, index, byref(self.outputs[-1])))

    def __call__(self, frames):
        """Results by name, float32 [N, H, W] or [N, H, W, 3], of uint8 frames [N, H, W, 3]; rows may be apart."""
        given, results = (Frame * len(frames))(), {}
        for each, frame in zip(given, frames, strict=True):
            assert frame.dtype == np.uint8
            assert frame.strides[1:] == (3, 1)
            each.struct_size, each.rgb = sizeof(Frame), frame.ctypes.data
            each.row_bytes, each.height, each.width = frame.strides[0], *frame.shape[:2]
        into = (Result * len(self.outputs))()
        for each, output in zip(into, self.outputs, strict=True):
            shape = (len(frames), *frames[0].shape[:2], *[3] * (output.channels == 3))
            result = results[output.name.decode()] = np.full(shape, np.nan, np.float32)
            each.struct_size, each.values, each.count = (
                sizeof(Result),
                result.ctypes.data,
                result.size,
            )
        self._native.check(
            self._native.c.e2e_engine_run(self.handle, given, len(given), into, len(into))
        )
        return results

    def close(self):
        self._native.c.e2e_engine_close(self.handle)
        self.handle = None


class Steady(Handle):
    def __init__(self, native):
        self._native, self.handle = native, c_void_p()
        native.check(native.c.e2e_steady_open(byref(self.handle)))

    def __call__(self, depth, out=None):
        """The steady map, in ``out`` if that is given, and how it was changed."""
        out, alignment = np.empty_like(depth) if out is None else out, Alignment()
        self._native.check(
            self._native.c.e2e_steady_run(
                self.handle, depth.ctypes.data, *depth.shape, out.ctypes.data, byref(alignment)
            )
        )
        return out, alignment

    def reset(self):
        self._native.check(self._native.c.e2e_steady_reset(self.handle))

    def close(self):
        self._native.c.e2e_steady_close(self.handle)
        self.handle = None
