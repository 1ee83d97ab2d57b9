#include "backend.hpp"

#include <algorithm>
#include <mutex>
#include <vector>

#include "../memory.hpp"
#include "library.hpp"

namespace e2e {
namespace {

constexpr int log_nothing = 4;  // fatal errors alone: every other is given to the caller
constexpr uint64_t large_bytes = uint64_t{1} << 28;  // LARGE_BYTES of runtime/backends/onnxruntime/options.py
constexpr const char* largest_folded_bytes = "262144";

template <typename T>
struct Releasing {
  void (*release)(T*) = nullptr;
  void operator()(T* held) const { release(held); }
};
template <typename T>
using Held = std::unique_ptr<T, Releasing<T>>;
template <typename T>
Held<T> held(T* made, void (*release)(T*)) {
  return Held<T>(made, Releasing<T>{release});
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// 16-bit weights of this size are widened for the CPU when an operator needs them, smaller ones once at the start.
bool is_large_half(const Manifest& manifest) {
  uint64_t bytes = 0;
  for (const auto& [name, entry] : manifest.files) {
    if (ends_with(name, ".onnx") || ends_with(name, ".data")) bytes += entry.bytes;
  }
  return manifest.precision == "fp16" && bytes >= large_bytes;
}

std::string told(const std::vector<Tensor>& tensors) {
  std::string text;
  for (const Tensor& tensor : tensors) {
    std::string shape;
    for (const int64_t side : tensor.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(side);
    text += (text.empty() ? "" : " and ") + tensor.dtype + " [" + shape + "] as '" + tensor.name + "'";
  }
  return text;
}

struct Block {
  std::vector<int64_t> shape;
  size_t count;  // of values
};

Block block_of(const Tensor& tensor) {
  size_t count = 1;
  for (const int64_t side : tensor.shape) count *= static_cast<size_t>(side);
  return {tensor.shape, count};
}

class OrtBackend final : public Backend {
 public:
  OrtBackend(const Bundle& bundle, const Graph& graph, const Asked& asked)
      : library_(OrtLibrary::get(asked.onnxruntime)), api_(library_.api()), graph_(graph), arena_{library_} {
    const int threads = asked.threads > 0 ? asked.threads : usable_cores();
    device_ = "CPU, " + std::to_string(threads) + " threads";
    open(bundle, threads);
    check_tensors(true, graph.inputs);
    check_tensors(false, graph.outputs);
    OrtMemoryInfo* info = nullptr;
    check(api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &info));
    memory_ = held(info, api_.ReleaseMemoryInfo);
    takes_ = block_of(graph.inputs.at(0));
    for (const Tensor& tensor : graph.outputs) {
      gives_.push_back(block_of(tensor));
      names_.push_back(tensor.name);
    }
  }

  const char* name() const override { return "onnxruntime"; }
  const std::string& device() const override { return device_; }

  void run(const uint8_t* frames, float* const* results) override {
    const char* const input_name = graph_.inputs[0].name.c_str();
    // ONNX Runtime takes no const memory, and does not write to an input.
    const auto frame = tensor(const_cast<uint8_t*>(frames), takes_, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
    std::vector<Held<OrtValue>> values;
    std::vector<OrtValue*> outputs;
    std::vector<const char*> names;
    for (size_t i = 0; i < gives_.size(); ++i) {
      values.push_back(tensor(results[i], gives_[i], sizeof(float), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
      outputs.push_back(values.back().get());
      names.push_back(names_[i].c_str());
    }
    const OrtValue* const inputs[] = {frame.get()};
    library_.check(api_.Run(session_.get(), nullptr, &input_name, inputs, 1, names.data(), names.size(), outputs.data()),
                   graph_.onnx + " fails in ONNX Runtime", failed);
  }

  void run_on_device(const void*, void* const*, void*) override {
    throw Error(usage, "onnxruntime on " + device_ + " takes frames of the host: call e2e_engine_run");
  }

 private:
  void check(OrtStatus* status) const { library_.check(status, "ONNX Runtime fails", failed); }

  Held<OrtSessionOptions> settings(const Manifest& manifest, int threads) {
    OrtSessionOptions* made = nullptr;
    check(api_.CreateSessionOptions(&made));
    auto options = held(made, api_.ReleaseSessionOptions);
    check(api_.SetSessionGraphOptimizationLevel(made, ORT_ENABLE_ALL));
    check(api_.SetSessionExecutionMode(made, ORT_SEQUENTIAL));  // one long chain: nothing to run side by side
    check(api_.SetIntraOpNumThreads(made, threads));
    check(api_.SetInterOpNumThreads(made, 1));
    check(api_.SetSessionLogSeverityLevel(made, log_nothing));
    // x86 CPUs without VNNI add pairs of 8-bit products in 16 bits, which saturate; other CPUs ignore this.
    check(api_.AddSessionConfigEntry(made, "session.x64quantprecision", "1"));
    if (is_large_half(manifest)) {
      check(api_.AddSessionConfigEntry(made, "optimization.disable_specified_optimizers",
                                       "FuseFp16InitializerToFp32NodeTransformer"));
    }
    // A graph of a few hundred bytes can ask for terabytes: it fails, and nothing is killed for it.
    check(api_.AddSessionConfigEntry(made, "optimization.constant_folding_max_output_size_in_bytes",
                                     largest_folded_bytes));
    return options;
  }

  void open(const Bundle& bundle, int threads) {
    const auto options = settings(bundle.manifest(), threads);
    std::vector<std::string> files = bundle.weights_of(graph_.onnx);
    files.push_back(graph_.onnx);
    const std::string path = bundle.file(graph_.onnx);
    const auto identities = bundle.before(files);
    const std::lock_guard<std::mutex> lock(library_.arena);  // until the session has the arena that is made for it
    const int64_t free = available_memory_bytes();
    if (free >= 0 && library_.share_arena(static_cast<size_t>(std::max<int64_t>(1, free)))) {
      check(api_.AddSessionConfigEntry(options.get(), "session.use_env_allocators", "1"));
    }
    OrtSession* made = nullptr;
    OrtStatus* status = api_.CreateSession(library_.env(), path.c_str(), options.get(), &made);
    session_ = held(made, api_.ReleaseSession);
    if (status != nullptr && api_.GetErrorCode(status) == ORT_NOT_IMPLEMENTED) {
      library_.check(status,
                     "ONNX Runtime has no " + bundle.manifest().precision + " kernels for this device; run " +
                         graph_.onnx + " as a plan on a GPU, or export another precision",
                     unavailable);
    }
    library_.check(status, "ONNX Runtime cannot load " + graph_.onnx, input);
    bundle.after(identities);
  }

  // Refuse a session with other inputs or outputs than the manifest tells.
  void check_tensors(bool is_input, const std::vector<Tensor>& expected) const {
    size_t count = 0;
    check(is_input ? api_.SessionGetInputCount(session_.get(), &count)
                   : api_.SessionGetOutputCount(session_.get(), &count));
    bool same = count == expected.size();
    for (size_t i = 0; same && i < count; ++i) same = is_as_told(is_input, i, expected[i]);
    if (!same) {
      throw Error(input, graph_.onnx + " is not the graph its manifest describes: expected " + told(expected) +
                             " and nothing else");
    }
  }

  bool is_as_told(bool is_input, size_t index, const Tensor& expected) const {
    OrtAllocator* allocator = nullptr;
    check(api_.GetAllocatorWithDefaultOptions(&allocator));
    char* name = nullptr;
    check(is_input ? api_.SessionGetInputName(session_.get(), index, allocator, &name)
                   : api_.SessionGetOutputName(session_.get(), index, allocator, &name));
    const std::string found = name;
    check(api_.AllocatorFree(allocator, name));
    OrtTypeInfo* made = nullptr;
    check(is_input ? api_.SessionGetInputTypeInfo(session_.get(), index, &made)
                   : api_.SessionGetOutputTypeInfo(session_.get(), index, &made));
    const auto type = held(made, api_.ReleaseTypeInfo);
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    check(api_.CastTypeInfoToTensorInfo(type.get(), &tensor));
    if (tensor == nullptr) return false;
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    check(api_.GetTensorElementType(tensor, &element));
    size_t axes = 0;
    check(api_.GetDimensionsCount(tensor, &axes));
    std::vector<int64_t> shape(axes);
    check(api_.GetDimensions(tensor, shape.data(), axes));
    const auto wanted =
        expected.dtype == "uint8" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    return found == expected.name && element == wanted && shape == expected.shape;
  }

  Held<OrtValue> tensor(void* memory, const Block& block, size_t item, ONNXTensorElementDataType element) const {
    OrtValue* made = nullptr;
    check(api_.CreateTensorWithDataAsOrtValue(memory_.get(), memory, block.count * item, block.shape.data(),
                                              block.shape.size(), element, &made));
    return held(made, api_.ReleaseValue);
  }

  // Gives back what the session held: its arena is the process's until another one takes that place.
  struct Arena {
    OrtLibrary& library;
    ~Arena() {
      const std::lock_guard<std::mutex> lock(library.arena);
      library.share_arena(1);
    }
  };

  OrtLibrary& library_;
  const OrtApi& api_;
  const Graph& graph_;  // of the bundle, which the engine holds
  Arena arena_;         // ends after the session
  std::string device_;
  Held<OrtSession> session_;
  Held<OrtMemoryInfo> memory_;
  Block takes_;
  std::vector<Block> gives_;
  std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<Backend> load_onnxruntime(const Bundle& bundle, const Graph& graph, const Asked& asked) {
  return std::make_unique<OrtBackend>(bundle, graph, asked);
}

}  // namespace e2e
