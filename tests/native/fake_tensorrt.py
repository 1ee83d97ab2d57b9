"""A TensorRT whose plans are texts, made from TensorRT's own headers: what we compile against them can be run.

A plan is lines of words: its name, then a line for each tensor, "input frame uint8 1 24 32 3". What it computes is the
mean of R, G and B over 255, as plain bundles do.
"""

import re

_CLASSES = {
    "VRuntime": "FakeRuntime",
    "VCudaEngine": "FakeEngine",
    "VExecutionContext": "FakeContext",
}

_BODIES = {
    "VRuntime": {
        "deserializeCudaEngine": "return engine_of(std::string(static_cast<const char*>(blob), size));"
    },
    "VCudaEngine": {
        "createExecutionContext": "return context_of(this);",
        "getName": "return name.c_str();",
        "getNbIOTensors": "return static_cast<int32_t>(tensors.size());",
        "getTensorIOMode": "const FakeTensor* t = find(tensorName); "
        "return t == nullptr ? TensorIOMode::kNONE : t->is_input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;",
        "getTensorDataType": 'return find(tensorName)->dtype == "uint8" ? DataType::kUINT8 : DataType::kFLOAT;',
        "getTensorShape": "return find(tensorName)->dims;",
    },
    "VExecutionContext": {
        "setTensorAddress": "addresses[tensorName] = data; return true;",
        "enqueueV3": "return compute(*this, stream);",
    },
}

_STATE = {
    "VRuntime": "",
    "VCudaEngine": "std::string name; std::vector<FakeTensor> tensors; "
    "const FakeTensor* find(const std::string& called) const { for (const auto& t : tensors) "
    "if (t.name == called) return &t; return nullptr; }",
    "VExecutionContext": "const FakeEngine* engine = nullptr; std::map<std::string, void*> addresses;",
}

_HEAD = """
#include <NvInferRuntime.h>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <vector>
using namespace nvinfer1;
struct FakeTensor { std::string name; bool is_input; std::string dtype; Dims dims; };
struct FakeEngine;
struct FakeContext;
static int live = 0;
static ILogger* logger = nullptr;
ICudaEngine* engine_of(const std::string& plan);
IExecutionContext* context_of(FakeEngine* engine);
bool compute(FakeContext& context, cudaStream_t stream);
"""

# The classes of the headers are made by the library alone: their constructors are hidden, and take the part behind.
_TAIL = """
struct Runtime : IRuntime {
  explicit Runtime(apiv::VRuntime* part) { mImpl = part; }
  ~Runtime() override { delete mImpl; }
};
struct Engine : ICudaEngine {
  explicit Engine(apiv::VCudaEngine* part) { mImpl = part; }
  ~Engine() override { delete mImpl; }
};
struct Context : IExecutionContext {
  explicit Context(apiv::VExecutionContext* part) { mImpl = part; }
  ~Context() override { delete mImpl; }
};
ICudaEngine* engine_of(const std::string& plan) {
  std::istringstream lines(plan);
  auto* engine = new FakeEngine;
  std::getline(lines, engine->name);
  if (engine->name == "damaged") {
    logger->log(ILogger::Severity::kERROR, "it is of another version");
    delete engine;
    return nullptr;
  }
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    FakeTensor tensor;
    std::string mode;
    words >> mode >> tensor.name >> tensor.dtype;
    tensor.is_input = mode == "input";
    tensor.dims.nbDims = 0;
    for (int64_t side; words >> side;) tensor.dims.d[tensor.dims.nbDims++] = side;
    engine->tensors.push_back(tensor);
  }
  return new Engine(engine);
}
IExecutionContext* context_of(FakeEngine* engine) {
  auto* context = new FakeContext;
  context->engine = engine;
  return new Context(context);
}
bool compute(FakeContext& context, cudaStream_t stream) {
  const auto* frame = static_cast<const uint8_t*>(context.addresses.at("frame"));
  if (stream == nullptr && std::getenv("NO_DEFAULT_STREAM") != nullptr) {
    logger->log(ILogger::Severity::kERROR, "no stream");
    return false;
  }
  for (const auto& tensor : context.engine->tensors) {
    if (tensor.is_input) continue;
    auto* result = static_cast<float*>(context.addresses.at(tensor.name));
    const int64_t count = tensor.dims.d[0] * tensor.dims.d[1] * tensor.dims.d[2];
    for (int64_t i = 0; i < count; ++i) {
      const float sum = static_cast<float>(frame[3 * i]) + frame[3 * i + 1] + frame[3 * i + 2];
      result[i] = sum / 3.0F / 255.0F;
    }
  }
  return true;
}
extern "C" {
void* createInferRuntime_INTERNAL(void* given, int32_t) noexcept {
  logger = static_cast<ILogger*>(given);
  return static_cast<IRuntime*>(new Runtime(new FakeRuntime));
}
int32_t getInferLibMajorVersion() noexcept { return NV_TENSORRT_MAJOR; }
int32_t getInferLibMinorVersion() noexcept { return NV_TENSORRT_MINOR; }
int32_t getInferLibPatchVersion() noexcept { return NV_TENSORRT_PATCH; }
int32_t getInferLibBuildVersion() noexcept { return NV_TENSORRT_BUILD; }
int fake_tensorrt_live(void) { return live; }
}
"""

_METHOD = re.compile(r"virtual ([^;]+?)\b(\w+)\(([^;]*?)\) (const )?noexcept = 0;", re.DOTALL)


def source(include):
    """C++ of the library, for the headers in a folder."""
    text = (include / "NvInferImpl.h").read_text()
    parts = [_HEAD]
    for base, name in _CLASSES.items():
        body = re.search(rf"class {base} : public VRoot\n{{(.*?)\n}};", text, re.DOTALL)[1]
        lines = [
            f"struct {name} : apiv::{base} {{ {_STATE[base]} {name}() {{ ++live; }} ~{name}() {{ --live; }}"
        ]
        for gives, method, takes, is_const in _METHOD.findall(body):
            code = _BODIES[base].get(method, "std::abort();")
            lines.append(
                f"  {gives.strip()} {method}({takes}) {is_const}noexcept override {{ {code} }}"
            )
        parts.append("\n".join([*lines, "};"]))
    return "\n".join([*parts, _TAIL])


def version(include):
    """Major, minor, patch and build of the headers."""
    text = (include / "NvInferVersion.h").read_text()
    names = dict(re.findall(r"#define (\w+) (\w+)", text))

    def number(name):
        return names[name] if names[name].isdigit() else number(names[name])

    return [number(f"NV_TENSORRT_{part}") for part in ("MAJOR", "MINOR", "PATCH", "BUILD")]
