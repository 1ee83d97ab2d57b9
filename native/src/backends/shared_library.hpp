// A library that is loaded while the program runs, and stays loaded: neither ONNX Runtime nor TensorRT is made to be
// unloaded.
#pragma once

#include <string>
#include <vector>

namespace e2e {

class SharedLibrary {
 public:
  // The file that the user named, else the one that the environment variable names, else the first of ``names`` that
  // the system's loader finds. Error (unavailable) with ``remedy``.
  SharedLibrary(const std::string& title, const std::string& named, const char* variable,
                const std::vector<std::string>& names, const std::string& remedy);

  // Address of a symbol; nullptr without it.
  void* find(const char* symbol) const;

  // Whether ``name``, a file or a name for the loader, is this library.
  bool is(const std::string& name) const;

  // Path of what was loaded, as the loader tells it.
  const std::string& path() const { return path_; }

 private:
  void* handle_ = nullptr;
  std::string path_;
};

}  // namespace e2e
