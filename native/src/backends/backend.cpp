#include "backend.hpp"

#include "../error.hpp"
#include "onnxruntime/backend.hpp"
#include "tensorrt/backend.hpp"
#include "tensorrt/cuda_driver.hpp"
#include "tensorrt/plans.hpp"

namespace e2e {
namespace {

constexpr int max_threads = 1024;
constexpr const char* backends = "auto, onnxruntime, tensorrt";
constexpr const char* devices = "auto, cpu, cuda, cuda:N";

struct Device {
  std::string kind;  // auto, cpu or cuda
  int index = 0;
};

Device parse_device(const std::string& text) {
  if (text == "auto" || text == "cpu" || text == "cuda") return {text, 0};
  const std::string start = "cuda:", digits = text.substr(0, start.size()) == start ? text.substr(start.size()) : "";
  if (digits.empty() || digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string::npos) {
    throw Error(usage, "unknown device '" + text + "'; the devices are " + devices);
  }
  return {"cuda", std::stoi(digits)};
}

Chosen on_cpu(const Bundle& bundle, const Graph& graph, const Asked& asked, const std::string& reason) {
  if (!asked.tensorrt.empty()) {
    throw Error(usage, "e2e_engine_options.tensorrt has no effect with onnxruntime");
  }
  return {load_onnxruntime(bundle, graph, asked), reason};
}

Chosen on_gpu(const Bundle& bundle, const Graph& graph, const Asked& asked, int index, const std::string& reason) {
  if (asked.threads != 0) throw Error(usage, "e2e_engine_options.threads has no effect with tensorrt");
  return {load_tensorrt(bundle, graph, asked, index), reason};
}

// A fitting plan of the bundle on a GPU, else ONNX Runtime. A plan that is damaged, or that others could have written,
// is an error and no reason for another backend.
Chosen choose(const Bundle& bundle, const Graph& graph, const Asked& asked, const Device& device) {
  std::string why = "the bundle has no TensorRT plan for this frame size";
  if (!plans_of(bundle.manifest(), graph).empty()) {
    why = "the CPU was asked for";
    if (device.kind != "cpu") why = cuda_device_count() == 0 ? "no NVIDIA GPU for the bundle's plan" : "";
  }
  if (why.empty()) {
    try {
      return {load_tensorrt(bundle, graph, asked, device.index), "the bundle's TensorRT plan fits this GPU"};
    } catch (const Error& error) {
      if (error.code != unavailable) throw;
      why = error.what();
    }
  }
  if (device.kind == "cuda") {
    throw Error(unavailable, why + "; on a GPU this library runs TensorRT's plans only");
  }
  Asked rest = asked;
  rest.tensorrt.clear();  // it was for a plan, should one fit
  return on_cpu(bundle, graph, rest, why);
}

}  // namespace

Chosen load_backend(const Bundle& bundle, const Graph& graph, const Asked& asked) {
  if (asked.threads < 0 || asked.threads > max_threads) {
    throw Error(usage, "e2e_engine_options.threads is " + std::to_string(asked.threads) + "; expected 1 to " +
                           std::to_string(max_threads) + ", or 0 for as many as there are cores");
  }
  const Device device = parse_device(asked.device);
  if (asked.backend == "auto") return choose(bundle, graph, asked, device);
  if (asked.backend == "onnxruntime") {
    if (device.kind == "cuda") {
      throw Error(unavailable, "onnxruntime on " + asked.device + " was asked for, and this library runs ONNX Runtime "
                                   "on the CPU; on a GPU it runs the backend tensorrt");
    }
    return on_cpu(bundle, graph, asked, "named by you");
  }
  if (asked.backend == "tensorrt") {
    if (device.kind == "cpu") throw Error(usage, "TensorRT runs on a GPU only, not on cpu");
    return on_gpu(bundle, graph, asked, device.index, "named by you");
  }
  throw Error(usage, "unknown backend '" + asked.backend + "'; the backends are " + backends);
}

}  // namespace e2e
