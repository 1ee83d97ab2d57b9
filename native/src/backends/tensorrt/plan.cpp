#include "plan.hpp"

#include <NvInferRuntime.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <vector>

#include "../../bundle/text.hpp"
#include "../shared_library.hpp"
#include "cuda_driver.hpp"
#include "plans.hpp"

namespace e2e {
namespace {

constexpr size_t alignment = 256;  // of every address that TensorRT is given
constexpr int warm_up = 3;

// What TensorRT says, kept until it becomes an error.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR || message == nullptr) return;
    try {
      const std::lock_guard<std::mutex> lock(one_);
      said_.emplace_back(message);
      if (said_.size() > 32) said_.pop_front();
    } catch (...) {  // no memory for a message; the call that it belongs to fails all the same
    }
  }

  std::string take() {
    const std::lock_guard<std::mutex> lock(one_);
    std::string text;
    for (const std::string& each : said_) text += (text.empty() ? "" : "; ") + each;
    said_.clear();
    return cleaned(text);
  }

 private:
  std::mutex one_;
  std::deque<std::string> said_;
};

// TensorRT's library of this process; it keeps the first logger that it is given.
class TrtLibrary {
 public:
  static TrtLibrary& get(const std::string& named) {
    static std::mutex one;
    static TrtLibrary* library = nullptr;  // never released, as OrtLibrary
    const std::lock_guard<std::mutex> lock(one);
    if (library == nullptr) {
      library = new TrtLibrary(named);
    } else if (!named.empty() && !library->file_.is(named)) {
      throw Error(usage, "this process has loaded TensorRT from " + library->file_.path() + ", and " + named +
                             " was asked for: one process takes one");
    }
    return *library;
  }

  const std::string& version() const { return version_; }
  std::string take_errors() { return logger_.take(); }

  nvinfer1::IRuntime* new_runtime() {
    logger_.take();
    void* made = create_(static_cast<nvinfer1::ILogger*>(&logger_), NV_TENSORRT_VERSION);
    if (made == nullptr) throw Error(unavailable, "TensorRT " + version_ + " does not start: " + logger_.take());
    return static_cast<nvinfer1::IRuntime*>(made);
  }

 private:
  explicit TrtLibrary(const std::string& named)
      : file_("TensorRT " + major(), named, "E2E_DEPLOY_TENSORRT", {"libnvinfer.so." + major()},
              "install it, or name its file in E2E_DEPLOY_TENSORRT or e2e_engine_options.tensorrt") {
    create_ = reinterpret_cast<Create>(file_.find("createInferRuntime_INTERNAL"));
    if (create_ == nullptr) throw Error(unavailable, file_.path() + " is not TensorRT's library");
    for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
      const std::string name = "getInferLib" + std::string(part) + "Version";
      const auto ask = reinterpret_cast<int32_t (*)()>(file_.find(name.c_str()));
      if (ask == nullptr) break;
      version_ += (version_.empty() ? "" : ".") + std::to_string(ask());
    }
    // The classes of the headers are another major version's, or none at all.
    if (version_.rfind(major() + ".", 0) != 0) {
      throw Error(unavailable, file_.path() + " is TensorRT " + (version_.empty() ? "of unknown version" : version_) +
                                   ", and this libe2e_deploy was built for TensorRT " + major());
    }
  }

  static std::string major() { return std::to_string(NV_TENSORRT_MAJOR); }

  using Create = void* (*)(void*, int32_t);
  Create create_ = nullptr;
  SharedLibrary file_;
  std::string version_;
  Logger logger_;
};

std::string dtype_name(nvinfer1::DataType type) {
  if (type == nvinfer1::DataType::kUINT8) return "uint8";
  return type == nvinfer1::DataType::kFLOAT ? "float32" : "another type";
}

size_t bytes_of(const Tensor& tensor) {
  size_t bytes = tensor.dtype == "uint8" ? 1 : sizeof(float);
  for (const int64_t side : tensor.shape) bytes *= static_cast<size_t>(side);
  return bytes;
}

class TrtBackend final : public Backend {
 public:
  TrtBackend(const Bundle& bundle, const Graph& graph, const Asked& asked, int index)
      : graph_(graph), driver_(index), library_(TrtLibrary::get(asked.tensorrt)) {
    const CudaDriver::Current current(driver_);
    try {
      load(bundle);
    } catch (...) {
      release();
      throw;
    }
  }

  ~TrtBackend() override {
    try {
      const CudaDriver::Current current(driver_);
      release();
    } catch (const Error&) {  // a GPU that failed fails again here, and what it held is lost
    }
  }

  const char* name() const override { return "tensorrt"; }
  const std::string& device() const override { return device_; }

  void run(const uint8_t* frames, float* const* results) override {
    const CudaDriver::Current current(driver_);
    std::copy(frames, frames + frame_.bytes, static_cast<uint8_t*>(frame_.pinned));
    driver_.copy_in(frame_.address, frame_.pinned, frame_.bytes, stream_);
    std::vector<void*> addresses;
    for (const Memory& result : results_) addresses.push_back(pointer(result.address));
    queue(pointer(frame_.address), addresses.data(), stream_);
    for (const Memory& result : results_) driver_.copy_out(result.pinned, result.address, result.bytes, stream_);
    driver_.synchronise(stream_);
    for (size_t i = 0; i < results_.size(); ++i) {
      const auto* values = static_cast<const float*>(results_[i].pinned);
      std::copy(values, values + results_[i].bytes / sizeof(float), results[i]);
    }
  }

  void run_on_device(const void* frames, void* const* results, void* stream) override {
    require_aligned(frames, "the frames");
    for (size_t i = 0; i < results_.size(); ++i) require_aligned(results[i], graph_.outputs[i].name.c_str());
    const CudaDriver::Current current(driver_);
    queue(frames, results, stream);
  }

 private:
  struct Memory {
    size_t bytes = 0;
    uint64_t address = 0;
    void* pinned = nullptr;
  };

  static void* pointer(uint64_t address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }

  static void require_aligned(const void* address, const char* what) {
    if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
      throw Error(usage, std::string(what) + " of e2e_engine_run_on_device start at an address that " +
                             std::to_string(alignment) + " does not divide: give a whole allocation, not a part of one");
    }
  }

  void load(const Bundle& bundle) {
    const Plan& plan = choose_plan(bundle, graph_, library_.version(), driver_.gpu());
    const std::vector<uint8_t> data = read_plan(bundle, plan);
    const std::string what = "TensorRT " + library_.version() + " does not load " + plan.file;
    const std::string rebuild = "; rebuild it with: " + rebuild_call(bundle);
    runtime_.reset(library_.new_runtime());
    engine_.reset(runtime_->deserializeCudaEngine(data.data(), data.size()));
    if (engine_ == nullptr) throw Error(unavailable, what + ": " + library_.take_errors() + rebuild);
    require_built_from(bundle, plan, rebuild);
    context_.reset(engine_->createExecutionContext());
    if (context_ == nullptr) {
      throw Error(unavailable, "TensorRT could not make an execution context: " + library_.take_errors());
    }
    stream_ = driver_.new_stream();
    allocate(frame_, bytes_of(graph_.inputs.at(0)));
    results_.resize(graph_.outputs.size());
    for (size_t i = 0; i < results_.size(); ++i) allocate(results_[i], bytes_of(graph_.outputs[i]));
    device_ = driver_.gpu().name + ", " + driver_.gpu().target;
    // What fails at the first frames must show here.
    const std::vector<uint8_t> grey(frame_.bytes, 127);
    std::vector<std::vector<float>> values;
    std::vector<float*> into;
    for (const Memory& result : results_) values.emplace_back(result.bytes / sizeof(float));
    for (auto& each : values) into.push_back(each.data());
    for (int i = 0; i < warm_up; ++i) run(grey.data(), into.data());
  }

  // Refuse a plan that was built from another graph, or that has other tensors.
  void require_built_from(const Bundle& bundle, const Plan& plan, const std::string& rebuild) const {
    const std::string wanted = bundle.graph_digest(graph_.onnx);
    const std::string digest = engine_->getName() == nullptr ? "" : engine_->getName();
    if (digest != wanted) {
      throw Error(input, plan.file + " was built from another graph than " + graph_.onnx + " of this bundle (" +
                             (digest.empty() ? "none named" : digest.substr(0, 12)) + ", not " + wanted.substr(0, 12) +
                             ")" + rebuild);
    }
    size_t same = 0;
    for (const bool is_input : {true, false}) {
      for (const Tensor& tensor : is_input ? graph_.inputs : graph_.outputs) same += has(tensor, is_input) ? 1 : 0;
    }
    const size_t count = graph_.inputs.size() + graph_.outputs.size();
    if (same != count || static_cast<size_t>(engine_->getNbIOTensors()) != count) {
      throw Error(input, plan.file + " has other tensors than the manifest lists" + rebuild);
    }
  }

  bool has(const Tensor& tensor, bool is_input) const {
    const char* name = tensor.name.c_str();
    const auto mode = is_input ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
    if (engine_->getTensorIOMode(name) != mode) return false;
    const nvinfer1::Dims dims = engine_->getTensorShape(name);
    return dtype_name(engine_->getTensorDataType(name)) == tensor.dtype && dims.nbDims >= 0 &&
           std::equal(dims.d, dims.d + dims.nbDims, tensor.shape.begin(), tensor.shape.end());
  }

  void allocate(Memory& memory, size_t bytes) {
    memory.bytes = bytes;
    memory.address = driver_.allocate(bytes);
    memory.pinned = driver_.allocate_pinned(bytes);
  }

  void queue(const void* frames, void* const* results, void* stream) {
    library_.take_errors();
    // TensorRT takes no const memory, and does not write to an input.
    bool taken = context_->setTensorAddress(graph_.inputs[0].name.c_str(), const_cast<void*>(frames));
    for (size_t i = 0; i < results_.size(); ++i) {
      taken = taken && context_->setTensorAddress(graph_.outputs[i].name.c_str(), results[i]);
    }
    if (!taken || !context_->enqueueV3(static_cast<cudaStream_t>(stream))) {
      throw Error(failed, "TensorRT " + library_.version() + " could not run the plan: " + library_.take_errors());
    }
  }

  // What depends before what it depends on.
  void release() noexcept {
    context_.reset();
    free(frame_);
    for (Memory& memory : results_) free(memory);
    if (stream_ != nullptr) driver_.destroy_stream(stream_);
    stream_ = nullptr;
    engine_.reset();
    runtime_.reset();
  }

  void free(Memory& memory) noexcept {
    if (memory.address != 0) driver_.free(memory.address);
    if (memory.pinned != nullptr) driver_.free_pinned(memory.pinned);
    memory = Memory();
  }

  const Graph& graph_;  // of the bundle, which the engine holds
  CudaDriver driver_;
  TrtLibrary& library_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  void* stream_ = nullptr;
  Memory frame_;
  std::vector<Memory> results_;
  std::string device_;
};

}  // namespace

std::unique_ptr<Backend> run_plan(const Bundle& bundle, const Graph& graph, const Asked& asked, int index) {
  return std::make_unique<TrtBackend>(bundle, graph, asked, index);
}

}  // namespace e2e
