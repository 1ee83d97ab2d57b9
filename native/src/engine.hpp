// A bundle that is ready to run: frames of any size to results. One call at a time, from any thread.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <sys/types.h>

#include "backends/backend.hpp"
#include "steps/fit.hpp"

namespace e2e {

// uint8 RGB of the host, rows ``row_bytes`` apart.
struct Frame {
  const uint8_t* rgb = nullptr;
  size_t row_bytes = 0;
  Size size;
};

class Engine {
 public:
  // Error (usage): a frame size that the bundle does not hold, a core graph, or as load_backend.
  Engine(std::shared_ptr<const Bundle> bundle, const Asked& asked);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Graph& graph() const { return graph_; }
  const std::vector<const Kind*>& kinds() const { return kinds_; }
  const Backend& backend() const { return *chosen_.backend; }
  const std::string& reason() const { return chosen_.reason; }

  // Values of one result of all frames of a call, for frames of a size.
  size_t count_of(size_t output, Size frame) const;

  // Error (usage): another number of frames, several sizes, a size that cannot be fitted, or a child of fork.
  void run(const std::vector<Frame>& frames, const std::vector<float*>& results);
  void run_on_device(const void* frames, void* const* results, void* stream);

 private:
  void require_own_process() const;
  // The frames without gaps at the engine's size: the caller's own memory where it is that already.
  const uint8_t* gathered(const std::vector<Frame>& frames, const Fit& fit);

  std::shared_ptr<const Bundle> bundle_;
  const Graph& graph_;
  std::vector<const Kind*> kinds_;
  Chosen chosen_;
  pid_t process_;
  std::mutex one_;  // of the backend and of what follows
  std::unique_ptr<Fit> fit_;
  Size fitted_;
  std::vector<uint8_t> frames_;
  std::vector<std::vector<float>> blocks_;
};

}  // namespace e2e
