// TensorRT: the backend that runs a bundle's plans on an NVIDIA GPU. Compiled where TENSORRT_INCLUDE_DIR was given,
// because TensorRT has no C API; without it every part but the last works, and says so.
#pragma once

#include <memory>

#include "../backend.hpp"

namespace e2e {

// Error (unavailable): no GPU, no library, or no plan that fits. Error (input): a plan is not what the manifest says,
// or others could have written it; that is checked before a library is needed.
std::unique_ptr<Backend> load_tensorrt(const Bundle& bundle, const Graph& graph, const Asked& asked, int device);

}  // namespace e2e
