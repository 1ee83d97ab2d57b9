// ONNX Runtime on the CPU: the session of runtime/backends/onnxruntime, with the same settings and so the same numbers.
#pragma once

#include <memory>

#include "../backend.hpp"

namespace e2e {

// Error (unavailable): no library, too little memory, or no kernels. Error (input): the graph is refused, it is not
// what the manifest tells, or it was changed since the bundle was opened.
std::unique_ptr<Backend> load_onnxruntime(const Bundle& bundle, const Graph& graph, const Asked& asked);

}  // namespace e2e
