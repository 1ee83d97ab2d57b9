#include "engine.hpp"

#include <unistd.h>

#include <cstring>

#include "error.hpp"

namespace e2e {
namespace {

std::string text_of(Size size) { return std::to_string(size.height) + "x" + std::to_string(size.width); }

const Graph& chosen_graph(const Bundle& bundle, const Asked& asked) {
  const Graph& graph = asked.frame_size == Size() ? bundle.manifest().graphs.at(0) : bundle.graph_for(asked.frame_size);
  if (graph.kind != "frame") {
    throw Error(usage, bundle.root() + " holds a core graph, rgb to result at the processing size, and an engine takes "
                                       "frames; export without `graph=\"core\"`");
  }
  return graph;
}

}  // namespace

Engine::Engine(std::shared_ptr<const Bundle> bundle, const Asked& asked)
    : bundle_(std::move(bundle)),
      graph_(chosen_graph(*bundle_, asked)),
      kinds_(bundle_->manifest().result_kinds()),
      chosen_(load_backend(*bundle_, graph_, asked)),
      process_(getpid()) {}

Engine::~Engine() {
  // The threads of a backend stayed in the process that made them: to end them here would wait for ever.
  if (getpid() != process_) chosen_.backend.release();
}

size_t Engine::count_of(size_t output, Size frame) const {
  const auto pixels = static_cast<size_t>(frame.height) * static_cast<size_t>(frame.width);
  return pixels * static_cast<size_t>(kinds_.at(output)->channels) * static_cast<size_t>(graph_.batch());
}

void Engine::require_own_process() const {
  if (getpid() != process_) {
    throw Error(usage, "this engine was opened in another process, before fork; open one in the child");
  }
}

const uint8_t* Engine::gathered(const std::vector<Frame>& frames, const Fit& fit) {
  const auto row = static_cast<size_t>(graph_.frame_size.width) * 3;
  const auto rows = static_cast<size_t>(graph_.frame_size.height);
  if (fit.is_identity() && frames.size() == 1 && frames[0].row_bytes == row) return frames[0].rgb;
  frames_.resize(frames.size() * rows * row);
  uint8_t* out = frames_.data();
  for (const Frame& frame : frames) {
    if (fit.is_identity()) {
      for (size_t y = 0; y < rows; ++y) std::memcpy(out + y * row, frame.rgb + y * frame.row_bytes, row);
    } else {
      fit.to_engine(frame.rgb, frame.row_bytes, out);
    }
    out += rows * row;
  }
  return frames_.data();
}

void Engine::run(const std::vector<Frame>& frames, const std::vector<float*>& results) {
  require_own_process();
  const auto batch = static_cast<size_t>(graph_.batch());
  if (frames.size() != batch) {
    throw Error(usage, "this engine takes " + std::to_string(batch) + (batch == 1 ? " frame" : " frames") +
                           " at once, not " + std::to_string(frames.size()));
  }
  const Size size = frames[0].size;
  for (const Frame& frame : frames) {
    if (frame.size != size) {
      throw Error(usage, "the frames of one call have one size, not " + text_of(size) + " and " + text_of(frame.size));
    }
  }
  const std::lock_guard<std::mutex> lock(one_);
  if (fit_ == nullptr || fitted_ != size) {
    fit_ = std::make_unique<Fit>(size, graph_.frame_size);
    fitted_ = size;
  }
  const uint8_t* given = gathered(frames, *fit_);
  if (fit_->is_identity()) {
    chosen_.backend->run(given, results.data());
    return;
  }
  std::vector<float*> inside;
  blocks_.resize(kinds_.size());
  for (size_t i = 0; i < kinds_.size(); ++i) {
    blocks_[i].resize(count_of(i, graph_.frame_size));
    inside.push_back(blocks_[i].data());
  }
  chosen_.backend->run(given, inside.data());
  for (size_t i = 0; i < kinds_.size(); ++i) {
    const size_t from = count_of(i, graph_.frame_size) / batch, to = count_of(i, size) / batch;
    const bool vectors = std::strcmp(kinds_[i]->form, "vectors") == 0;
    for (size_t n = 0; n < batch; ++n) {
      fit_->to_source(inside[i] + n * from, kinds_[i]->channels, vectors, results[i] + n * to);
    }
  }
}

void Engine::run_on_device(const void* frames, void* const* results, void* stream) {
  require_own_process();
  const std::lock_guard<std::mutex> lock(one_);
  chosen_.backend->run_on_device(frames, results, stream);
}

}  // namespace e2e
