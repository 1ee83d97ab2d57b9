// ONNX Runtime's library: loaded once in a process, with one environment, which stays.
#pragma once

#include <onnxruntime_c_api.h>

#include <mutex>
#include <string>

#include "../../error.hpp"
#include "../shared_library.hpp"

namespace e2e {

class OrtLibrary {
 public:
  // The library of this process; the first call loads it. ``named``: its file, empty for the usual way.
  // Error (unavailable): it is not here or too old. Error (usage): another one is loaded already.
  static OrtLibrary& get(const std::string& named);

  const OrtApi& api() const { return *api_; }
  const OrtEnv* env() const { return env_; }
  const std::string& version() const { return version_; }

  // Throw what a status says; nothing where it is no error. ``what``: the beginning of the sentence.
  void check(OrtStatus* status, const std::string& what, Code code) const;

  std::mutex arena;  // of share_arena and of what it is for

  // Let sessions to come take no more than ``bytes``; whether this version can. Those there are keep their arena.
  bool share_arena(size_t bytes);

 private:
  explicit OrtLibrary(const std::string& named);

  SharedLibrary file_;
  std::string version_;
  const OrtApi* api_ = nullptr;
  OrtEnv* env_ = nullptr;
};

}  // namespace e2e
