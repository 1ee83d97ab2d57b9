// A plan in TensorRT's hands, on a GPU.
#pragma once

#include <memory>

#include "../../error.hpp"
#include "../backend.hpp"

namespace e2e {

// The plan of ``graph`` that fits the CUDA device ``index``, ready to run. Error (unavailable): the library, the driver
// or a fitting plan is not here. Error (input): the plan is damaged, or was built from another graph.
std::unique_ptr<Backend> run_plan(const Bundle& bundle, const Graph& graph, const Asked& asked, int index);

}  // namespace e2e
