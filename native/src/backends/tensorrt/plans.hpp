// The plan of a bundle that fits this machine, as runtime/backends/plans.py: chosen by what the manifest says, read as
// the bytes it vouches for. A plan is native code, so nothing of it is looked at, let alone run, before all of this
// holds. Knows neither TensorRT nor a driver.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../../bundle/bundle.hpp"
#include "cuda_driver.hpp"

namespace e2e {

// TensorRT's plans for the frame size of a graph.
std::vector<const Plan*> plans_of(const Manifest& manifest, const Graph& graph);

// The one of plans_of for this GPU and this version of TensorRT. Error (unavailable): there is none, or the driver is too old.
const Plan& choose_plan(const Bundle& bundle, const Graph& graph, const std::string& version, const Gpu& gpu);

// The plan's bytes, the very ones whose hash the manifest lists. Error (input): they differ, or others can write it.
std::vector<uint8_t> read_plan(const Bundle& bundle, const Plan& plan);

// What makes the plans of a bundle again, for messages.
std::string rebuild_call(const Bundle& bundle);

}  // namespace e2e
