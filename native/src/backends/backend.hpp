// What runs a graph of a bundle. For one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "../bundle/bundle.hpp"

namespace e2e {

// What a user asks of an engine; empty texts and zeros are the defaults.
struct Asked {
  std::string backend = "auto", device = "auto";
  int threads = 0;
  Size frame_size;
  std::string onnxruntime, tensorrt;  // files of libraries
};

class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  virtual const char* name() const = 0;
  virtual const std::string& device() const = 0;  // in words

  // Frames uint8 [N, H, W, 3] of the graph's size to one float32 memory for each output, all without gaps.
  virtual void run(const uint8_t* frames, float* const* results) = 0;

  // The same in the memory of a GPU, queued in a cudaStream_t and not waited for.
  virtual void run_on_device(const void* frames, void* const* results, void* stream) = 0;
};

// The backend that is asked for, and why it.
struct Chosen {
  std::unique_ptr<Backend> backend;
  std::string reason;
};

// Error (usage): an unknown backend or device, or an option without effect. Error (unavailable): it is not here.
Chosen load_backend(const Bundle& bundle, const Graph& graph, const Asked& asked);

}  // namespace e2e
