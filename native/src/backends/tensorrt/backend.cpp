#include "backend.hpp"

#include "plan.hpp"
#include "plans.hpp"

namespace e2e {

std::unique_ptr<Backend> load_tensorrt(const Bundle& bundle, const Graph& graph, const Asked& asked, int device) {
  const auto held = plans_of(bundle.manifest(), graph);
  if (held.empty()) {
    const Size size = graph.frame_size;
    throw Error(unavailable, "the bundle " + bundle.root() + " has no TensorRT plan for " + std::to_string(size.height) +
                                 "x" + std::to_string(size.width) + "; build one with: " + rebuild_call(bundle));
  }
  if (cuda_device_count() == 0) {
    for (const Plan* plan : held) read_plan(bundle, *plan);  // one that was tampered with is an error everywhere
  }
  for (const Plan* plan : held) require_private(bundle.root(), plan->file);
  return run_plan(bundle, graph, asked, device);
}

}  // namespace e2e
