#include "plans.hpp"

#include <algorithm>

#include "../../error.hpp"

namespace e2e {
namespace {

std::string joined(std::vector<std::string> words) {
  std::string text;
  for (auto word = words.begin(); word != words.end(); ++word) {
    if (std::find(words.begin(), word, *word) == word) text += (text.empty() ? "" : ", ") + *word;
  }
  return text;
}

// 10.13.3.9 and 10.13.3 are the same: old libraries do not tell their build.
bool is_version(const std::string& built, const std::string& here) {
  return built == here || built.rfind(here + ".", 0) == 0;
}

}  // namespace

std::string rebuild_call(const Bundle& bundle) {
  return "`rebuild_plans('" + bundle.root() + "', backend=\"tensorrt\")` in Python";
}

std::vector<const Plan*> plans_of(const Manifest& manifest, const Graph& graph) {
  std::vector<const Plan*> held;
  for (const Plan& plan : manifest.plans) {
    if (plan.backend == "tensorrt" && plan.frame_size == graph.frame_size) held.push_back(&plan);
  }
  return held;
}

const Plan& choose_plan(const Bundle& bundle, const Graph& graph, const std::string& version, const Gpu& gpu) {
  const Plan* found = nullptr;
  std::vector<std::string> targets, versions;
  for (const Plan* plan : plans_of(bundle.manifest(), graph)) {
    targets.push_back(plan->target + (plan->gpu.empty() ? "" : " " + plan->gpu));
    if (plan->target != gpu.target || (!plan->gpu.empty() && plan->gpu != gpu.name)) continue;
    versions.push_back(plan->version);
    if (found == nullptr && is_version(plan->version, version)) found = plan;
  }
  const std::string rebuild = "; rebuild with: " + rebuild_call(bundle);
  if (versions.empty()) {
    throw Error(unavailable, "the bundle's TensorRT plans are for " + joined(targets) + ", and this GPU is " +
                                 gpu.target + " (" + gpu.name + ")" + rebuild);
  }
  if (found == nullptr) {
    throw Error(unavailable, "the bundle's plan was built by TensorRT " + joined(versions) + ", and " + version +
                                 " is installed here" + rebuild);
  }
  if (found->cuda > gpu.cuda_major) {
    throw Error(unavailable, "the plan needs a driver for CUDA " + std::to_string(found->cuda) +
                                 ", and the one here supports CUDA " + std::to_string(gpu.cuda_major) + "." +
                                 std::to_string(gpu.cuda_minor) + ": install a newer NVIDIA driver");
  }
  return *found;
}

std::vector<uint8_t> read_plan(const Bundle& bundle, const Plan& plan) {
  bundle.file(plan.file);
  require_private(bundle.root(), plan.file);
  return bundle.read(plan.file, true);
}

}  // namespace e2e
