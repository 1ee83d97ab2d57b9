"""The header as programs see it: C89 and C++98, structs of a known layout, symbols with a version, one version."""

import os
import re
import shutil
import subprocess
from ctypes import sizeof

import numpy as np
import pytest

import e2e_deploy
from e2e_deploy import errors
from e2e_deploy.assets import READY_BUNDLE
from tests.native import library
from tests.native.build import SOURCE, onnxruntime_headers, require_tools, run

HEADER = SOURCE / "include" / "e2e_deploy" / "e2e_deploy.h"
TEXT = HEADER.read_text()
FUNCTIONS = set(re.findall(r"E2E_API [\w *]*?\b(e2e_\w+)\(", TEXT))
STRUCTS = {
    "e2e_engine_options": library.Options,
    "e2e_engine_info": library.Info,
    "e2e_output": library.Output,
    "e2e_frame": library.Frame,
    "e2e_result": library.Result,
    "e2e_alignment": library.Alignment,
    "e2e_metric": library.Metric,
    "e2e_intrinsics": library.Intrinsics,
}
STRICT = ("-pedantic", "-Wall", "-Wextra", "-Werror")


def uses_everything():
    """A C89 program that names every function and every _INIT macro, and prints the layout of the structs."""
    lines = ["#include <e2e_deploy/e2e_deploy.h>", "#include <stdio.h>"]
    lines += ["typedef void (*function)(void);", "int main(void) {", "  function all[100];"]
    lines += [f"  {name} s{i} = {name.upper()}_INIT;" for i, name in enumerate(STRUCTS)]
    lines += [f"  all[{i}] = (function){name};" for i, name in enumerate(sorted(FUNCTIONS))]
    for i, (name, struct) in enumerate(STRUCTS.items()):
        offsets = ", ".join(
            f"(unsigned long)offsetof({name}, {field})" for field, *_ in struct._fields_
        )
        form = " %lu" * len(struct._fields_)
        lines.append(
            f'  printf("{name} %lu{form}\\n", (unsigned long)s{i}.struct_size, {offsets});'
        )
    lines += [f"  return all[0] == all[{len(FUNCTIONS) - 1}];", "}", ""]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("compiler", "standard"), [("gcc", "c89"), ("gcc", "c17"), ("g++", "c++98"), ("g++", "c++17")]
)
def test_the_header_is_plain_c_and_its_structs_are_as_ctypes_has_them(
    native_prefix, tmp_path, compiler, standard
):
    require_tools(compiler)
    source = tmp_path / ("program.c" if compiler == "gcc" else "program.cpp")
    source.write_text(uses_everything())
    (shared,) = native_prefix.glob("lib*/**/libe2e_deploy.so")
    run(
        *(compiler, f"-std={standard}", *STRICT, "-I", native_prefix / "include", source),
        *("-o", tmp_path / "program", shared, f"-Wl,-rpath,{shared.parent}"),
    )
    told = {
        name: [int(number) for number in numbers]
        for name, *numbers in map(str.split, run(tmp_path / "program").splitlines())
    }
    assert told == {
        name: [sizeof(struct), *(getattr(struct, field).offset for field, *_ in struct._fields_)]
        for name, struct in STRUCTS.items()
    }


def test_the_usage_on_top_of_the_header_is_a_program(native_prefix, native_onnxruntime, tmp_path):
    require_tools("gcc")
    lines = [
        line.removeprefix(" *").rstrip() for line in TEXT.partition(" * Errors.")[0].splitlines()
    ]
    code = lines[lines.index("   #include <e2e_deploy/e2e_deploy.h>") : lines.index("   }") + 1]
    source = tmp_path / "program.c"
    source.write_text("\n".join(code) + "\n")
    (shared,) = native_prefix.glob("lib*/**/libe2e_deploy.so")
    run(
        *("gcc", "-std=c89", *STRICT, "-I", native_prefix / "include", source),
        *("-o", tmp_path / "program", shared, f"-Wl,-rpath,{shared.parent}"),
    )
    shutil.copytree(READY_BUNDLE, tmp_path / "my-bundle")
    environment = os.environ | {"E2E_DEPLOY_ONNXRUNTIME": str(native_onnxruntime)}
    said = run(tmp_path / "program", cwd=tmp_path, env=environment)
    black = np.zeros((480, 640, 3), np.uint8)
    with e2e_deploy.load(READY_BUNDLE, backend="onnxruntime", device="cpu") as engine:
        assert said == f"{engine(black)[240, 320]:.6g} in the middle\n"


def test_pkg_config_and_nothing_else_builds_a_program(native_prefix, tmp_path):
    require_tools("gcc", "pkg-config")
    source = tmp_path / "program.c"
    source.write_text(
        "#include <e2e_deploy/e2e_deploy.h>\n#include <stdio.h>\n"
        'int main(void) { printf("%s %d", e2e_version(), e2e_abi()); return 0; }\n'
    )
    moved = shutil.copytree(native_prefix, tmp_path / "moved", symlinks=True)
    (file,) = moved.glob("lib*/**/e2e_deploy.pc")
    found = run(
        "pkg-config",
        "--cflags",
        "--libs",
        "e2e_deploy",
        env={"PKG_CONFIG_PATH": str(file.parent), "PATH": "/usr/bin:/bin"},
    )
    run("gcc", source, "-o", tmp_path / "program", *found.split())
    said = run(tmp_path / "program", env={"LD_LIBRARY_PATH": str(file.parents[1])})
    assert said == f"{e2e_deploy.__version__} 1"


def test_the_library_shows_the_header_and_no_more(native_prefix):
    require_tools("nm", "readelf")
    (shared,) = native_prefix.glob("lib*/**/libe2e_deploy.so")
    shown = {
        words[2] for words in map(str.split, run("nm", "-D", "--defined-only", shared).splitlines())
    }
    assert shown - {"E2E_DEPLOY_1"} == {f"{name}@@E2E_DEPLOY_1" for name in FUNCTIONS}
    assert set(library.SIGNATURES) == FUNCTIONS
    dynamic = run("readelf", "-dW", shared)
    assert "Library soname: [libe2e_deploy.so.1]" in dynamic
    needed = set(re.findall(r"NEEDED.*\[(.*?)\.so", dynamic))
    assert needed <= {
        "libstdc++",
        "libm",
        "libgcc_s",
        "libc",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }


def test_the_codes_are_the_exit_codes_of_the_command_line():
    codes = {name: int(code) for name, code in re.findall(r"#define (E2E_\w+) (\d)\b", TEXT)}
    assert codes["E2E_OK"] == 0
    for name, error in {
        "E2E_FAILED": errors.E2EDeployError,
        "E2E_USAGE": errors.UsageError,
        "E2E_PARITY": errors.ParityError,
        "E2E_UNAVAILABLE": errors.UnavailableError,
        "E2E_INPUT": errors.InputError,
    }.items():
        assert codes[name] == error.exit_code


@pytest.mark.parametrize(
    ("setting", "header"),
    [
        ("ONNXRUNTIME_INCLUDE_DIR", "onnxruntime_c_api.h"),
        ("TENSORRT_INCLUDE_DIR", "NvInferRuntime.h"),
        ("CUDA_INCLUDE_DIR", "cuda_runtime_api.h"),
    ],
)
def test_a_folder_without_its_header_is_named_before_anything_is_built(
    native_build, tmp_path, setting, header
):
    require_tools("cmake")
    folder = tmp_path / "include"
    settings = {"ONNXRUNTIME_INCLUDE_DIR": onnxruntime_headers(), setting: folder}
    words = [f"-D{name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        ["cmake", "-S", SOURCE, "-B", tmp_path / "build", *words], capture_output=True, text=True
    )
    assert done.returncode
    said = " ".join(done.stderr.split())
    assert f"{setting} is {folder}, and there is no {header}" in said


def test_one_version():
    assert f'#define E2E_DEPLOY_VERSION "{e2e_deploy.__version__}"' in TEXT
