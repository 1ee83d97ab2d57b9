// The functions of the C header: arguments checked, errors turned into codes, nothing else.
#include <e2e_deploy/e2e_deploy.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "c_api_structs.hpp"
#include "engine.hpp"
#include "facts.hpp"
#include "last_error.hpp"
#include "steps/metric.hpp"
#include "steps/steady.hpp"

struct e2e_bundle {
  std::shared_ptr<const e2e::Bundle> bundle;
  std::string facts;
};
struct e2e_engine {
  e2e::Engine engine;
};
struct e2e_steady {
  e2e::Stabiliser stabiliser;
};

namespace {

using e2e::Error;
using e2e::guarded;
using e2e::Size;

// Bytes of each struct in version 1 of the ABI, as far as its last member: what may be added later lies behind.
#define E2E_FIRST(type, last) (offsetof(type, last) + sizeof(static_cast<type*>(nullptr)->last))
constexpr size_t options_1 = E2E_FIRST(e2e_engine_options, tensorrt);
constexpr size_t info_1 = E2E_FIRST(e2e_engine_info, reason);
constexpr size_t output_1 = E2E_FIRST(e2e_output, power);
constexpr size_t frame_1 = E2E_FIRST(e2e_frame, width);
constexpr size_t result_1 = E2E_FIRST(e2e_result, count);
constexpr size_t alignment_1 = E2E_FIRST(e2e_alignment, cut);
constexpr size_t metric_1 = E2E_FIRST(e2e_metric, points);
constexpr size_t intrinsics_1 = E2E_FIRST(e2e_intrinsics, cy);
#undef E2E_FIRST

void require(const void* pointer, const char* name) {
  if (pointer == nullptr) throw Error(e2e::usage, std::string(name) + " is NULL");
}

std::string text_or(const char* text, const char* otherwise) { return text == nullptr ? otherwise : text; }

Size size_of(int height, int width, const char* what) {
  if (height < 1 || width < 1 || height > e2e::max_side_px || width > e2e::max_side_px) {
    throw Error(e2e::usage, std::string(what) + " is " + std::to_string(height) + "x" + std::to_string(width) +
                                " (height x width); expected 1 to " + std::to_string(e2e::max_side_px));
  }
  return {height, width};
}

const e2e::Kind& distance_called(const char* name) {
  require(name, "kind");
  const e2e::Kind* kind = e2e::find_kind(name);
  if (kind == nullptr || kind->power == 0) {
    std::string known;
    for (const e2e::Kind& each : e2e::kinds()) {
      if (each.power != 0) known += (known.empty() ? "" : ", ") + std::string(each.name);
    }
    throw Error(e2e::usage, "the kind '" + std::string(name) + "' is no distance; the distances are " + known);
  }
  return *kind;
}

// One of an array of structs, each as large as the first says.
template <typename T>
T one_of(const T* array, size_t index, size_t first, const char* name) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(array) + index * array->struct_size;
  const auto* one = reinterpret_cast<const T*>(bytes);
  if (one->struct_size != array->struct_size) {
    throw Error(e2e::usage, std::string(name) + ".struct_size is " + std::to_string(one->struct_size) +
                                ", and that of the first in the array is " + std::to_string(array->struct_size));
  }
  return e2e::taken(one, first, name);
}

e2e::Frame frame_at(const e2e_frame* frames, size_t index) {
  const e2e_frame given = one_of(frames, index, frame_1, "e2e_frame");
  require(given.rgb, "e2e_frame.rgb");
  const Size size = size_of(given.height, given.width, "a frame");
  const size_t row = static_cast<size_t>(given.width) * 3, row_bytes = given.row_bytes == 0 ? row : given.row_bytes;
  if (row_bytes < row) {
    throw Error(e2e::usage, "e2e_frame.row_bytes is " + std::to_string(row_bytes) + ", and a row of " +
                                std::to_string(given.width) + " pixels takes " + std::to_string(row));
  }
  return {given.rgb, row_bytes, size};
}

float* result_at(const e2e_result* results, size_t index, size_t needed, const std::string& output) {
  const e2e_result given = one_of(results, index, result_1, "e2e_result");
  require(given.values, "e2e_result.values");
  if (given.count < needed) {
    throw Error(e2e::usage, "e2e_result.count for " + output + " is " + std::to_string(given.count) + " floats, and " +
                                std::to_string(needed) + " are needed");
  }
  return given.values;
}

void require_results(const e2e::Engine& engine, size_t count) {
  if (count != engine.kinds().size()) {
    throw Error(e2e::usage, "this engine has " + std::to_string(engine.kinds().size()) + " outputs, and " +
                                std::to_string(count) + " results were given");
  }
}

void give_metric(const e2e::MetricFit& fit, e2e_metric* out) {
  e2e_metric mine = E2E_METRIC_INIT;
  mine.scale = fit.scale;
  mine.shift = fit.shift;
  mine.power = fit.space->power;
  mine.inliers = fit.inliers;
  mine.residual_m = fit.residual_m;
  mine.residual = fit.residual;
  mine.points = fit.points;
  e2e::give(mine, out, metric_1, "e2e_metric");
}

}  // namespace

const char* e2e_last_error(void) { return e2e::last_text(); }
int e2e_last_code(void) { return e2e::last_code(); }
const char* e2e_version(void) { return E2E_DEPLOY_VERSION; }
int e2e_abi(void) { return E2E_DEPLOY_ABI; }

int e2e_bundle_open(const char* folder, int hash_check, e2e_bundle** bundle) {
  return guarded([&] {
    require(folder, "folder");
    require(bundle, "bundle");
    auto opened = std::make_shared<const e2e::Bundle>(e2e::Bundle::open(folder, hash_check != 0));
    std::string facts = e2e::facts_of(opened->manifest());
    *bundle = new e2e_bundle{std::move(opened), std::move(facts)};
  });
}

const char* e2e_bundle_facts(const e2e_bundle* bundle) {
  const int code = guarded([&] { require(bundle, "bundle"); });
  return code == E2E_OK ? bundle->facts.c_str() : nullptr;
}

void e2e_bundle_close(e2e_bundle* bundle) { delete bundle; }

int e2e_engine_open(const e2e_bundle* bundle, const e2e_engine_options* options, e2e_engine** engine) {
  return guarded([&] {
    require(bundle, "bundle");
    require(engine, "engine");
    e2e::Asked asked;
    if (options != nullptr) {
      const e2e_engine_options given = e2e::taken(options, options_1, "e2e_engine_options");
      asked.backend = text_or(given.backend, "auto");
      asked.device = text_or(given.device, "auto");
      asked.threads = given.threads;
      if (given.height != 0 || given.width != 0) {
        asked.frame_size = size_of(given.height, given.width, "the frame size of e2e_engine_options");
      }
      asked.onnxruntime = text_or(given.onnxruntime, "");
      asked.tensorrt = text_or(given.tensorrt, "");
    }
    *engine = new e2e_engine{{bundle->bundle, asked}};
  });
}

int e2e_engine_about(const e2e_engine* engine, e2e_engine_info* info) {
  return guarded([&] {
    require(engine, "engine");
    require(info, "info");
    const e2e::Graph& graph = engine->engine.graph();
    e2e_engine_info mine = E2E_ENGINE_INFO_INIT;
    mine.height = static_cast<int>(graph.frame_size.height);
    mine.width = static_cast<int>(graph.frame_size.width);
    mine.batch = static_cast<int>(graph.batch());
    mine.outputs = static_cast<int>(engine->engine.kinds().size());
    mine.backend = engine->engine.backend().name();
    mine.device = engine->engine.backend().device().c_str();
    mine.reason = engine->engine.reason().c_str();
    e2e::give(mine, info, info_1, "e2e_engine_info");
  });
}

int e2e_engine_output(const e2e_engine* engine, int index, e2e_output* output) {
  return guarded([&] {
    require(engine, "engine");
    require(output, "output");
    const auto& kinds = engine->engine.kinds();
    if (index < 0 || static_cast<size_t>(index) >= kinds.size()) {
      throw Error(e2e::usage, "there is no output " + std::to_string(index) + "; this engine has " +
                                  std::to_string(kinds.size()) + ", from 0");
    }
    const e2e::Kind& kind = *kinds[static_cast<size_t>(index)];
    e2e_output mine = E2E_OUTPUT_INIT;
    mine.name = kind.output;
    mine.kind = kind.name;
    mine.form = kind.form;
    mine.meaning = kind.meaning;
    mine.units = kind.units;
    mine.height = static_cast<int>(engine->engine.graph().frame_size.height);
    mine.width = static_cast<int>(engine->engine.graph().frame_size.width);
    mine.channels = kind.channels;
    mine.low = kind.low;
    mine.high = kind.high;
    mine.power = kind.power;
    e2e::give(mine, output, output_1, "e2e_output");
  });
}

int e2e_engine_run(e2e_engine* engine, const e2e_frame* frames, size_t frame_count, const e2e_result* results,
                   size_t result_count) {
  return guarded([&] {
    require(engine, "engine");
    require(frames, "frames");
    require(results, "results");
    require_results(engine->engine, result_count);
    if (frame_count < 1 || frame_count > static_cast<size_t>(e2e::max_batch)) {
      throw Error(e2e::usage, std::to_string(frame_count) + " frames were given; expected 1 to " +
                                  std::to_string(e2e::max_batch));
    }
    std::vector<e2e::Frame> given;
    for (size_t i = 0; i < frame_count; ++i) given.push_back(frame_at(frames, i));
    std::vector<float*> into;
    for (size_t i = 0; i < result_count; ++i) {
      const size_t needed = engine->engine.count_of(i, given[0].size);
      into.push_back(result_at(results, i, needed, engine->engine.kinds()[i]->output));
    }
    engine->engine.run(given, into);
  });
}

int e2e_engine_run_on_device(e2e_engine* engine, const void* frames, void* const* results, size_t result_count,
                             void* stream) {
  return guarded([&] {
    require(engine, "engine");
    require(frames, "frames");
    require(results, "results");
    require_results(engine->engine, result_count);
    for (size_t i = 0; i < result_count; ++i) require(results[i], "an address of results");
    engine->engine.run_on_device(frames, results, stream);
  });
}

void e2e_engine_close(e2e_engine* engine) { delete engine; }

int e2e_steady_open(e2e_steady** steady) {
  return guarded([&] {
    require(steady, "steady");
    *steady = new e2e_steady();
  });
}

int e2e_steady_run(e2e_steady* steady, const float* map, int height, int width, float* out,
                   e2e_alignment* alignment) {
  return guarded([&] {
    require(steady, "steady");
    require(map, "map");
    require(out, "out");
    if (alignment != nullptr) e2e::checked_size(alignment->struct_size, alignment_1, "e2e_alignment");
    const e2e::Alignment done = steady->stabiliser(map, size_of(height, width, "the map"), out);
    if (alignment == nullptr) return;
    e2e_alignment mine = E2E_ALIGNMENT_INIT;
    mine.scale = done.scale;
    mine.shift = done.shift;
    mine.residual = done.residual;
    mine.cut = done.cut ? 1 : 0;
    e2e::give(mine, alignment, alignment_1, "e2e_alignment");
  });
}

int e2e_steady_reset(e2e_steady* steady) {
  return guarded([&] {
    require(steady, "steady");
    steady->stabiliser.reset();
  });
}

void e2e_steady_close(e2e_steady* steady) { delete steady; }

int e2e_metric_from_points(const float* map, int height, int width, const char* kind, const double* points,
                           size_t count, e2e_metric* metric) {
  return guarded([&] {
    require(map, "map");
    if (count > 0) require(points, "points");
    require(metric, "metric");
    e2e::checked_size(metric->struct_size, metric_1, "e2e_metric");
    const e2e::Kind& space = distance_called(kind);
    give_metric(e2e::fit_metric(map, size_of(height, width, "the map"), points, count, space), metric);
  });
}

int e2e_metric_from_plane(const float* map, int height, int width, const char* kind, const e2e_intrinsics* intrinsics,
                          double distance_m, const double* normal, e2e_metric* metric) {
  return guarded([&] {
    require(map, "map");
    require(intrinsics, "intrinsics");
    require(normal, "normal");
    require(metric, "metric");
    e2e::checked_size(metric->struct_size, metric_1, "e2e_metric");
    const e2e::Kind& space = distance_called(kind);
    const Size size = size_of(height, width, "the map");
    const e2e_intrinsics given = e2e::taken(intrinsics, intrinsics_1, "e2e_intrinsics");
    const std::array<double, 3> toward = {normal[0], normal[1], normal[2]};
    const auto points = e2e::plane_points(size, {given.fx, given.fy, given.cx, given.cy}, distance_m, toward);
    give_metric(e2e::fit_metric(map, size, points.data(), points.size() / 3, space, e2e::min_plane_inliers), metric);
  });
}

int e2e_metric_apply(const e2e_metric* metric, const float* map, size_t count, float* metres) {
  return guarded([&] {
    require(metric, "metric");
    require(map, "map");
    require(metres, "metres");
    const e2e_metric given = e2e::taken(metric, metric_1, "e2e_metric");
    e2e::MetricFit fit;
    for (const e2e::Kind& kind : e2e::kinds()) {
      if (kind.power != 0 && kind.power == given.power) fit.space = &kind;
    }
    if (fit.space == nullptr) {
      throw Error(e2e::usage, "e2e_metric.power is " + std::to_string(given.power) + ", which no kind has: take what "
                                                                                     "e2e_metric_from_points gave");
    }
    fit.scale = given.scale;
    fit.shift = given.shift;
    fit.apply(map, count, metres);
  });
}
