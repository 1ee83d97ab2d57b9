// The manifest of a bundle, as e2e_deploy/bundle/manifest.py reads it: everything there is to know about a bundle
// without opening its other files. Knows no files.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kinds.hpp"

namespace e2e {

constexpr int schema = 7;
constexpr int schema_before_vae = 6;  // read too: its bundles have the checkpoint's own VAE
constexpr int64_t max_batch = 64;
constexpr int64_t free_side = -1;  // a side of a tensor that the graph leaves open
constexpr int64_t max_side_px = 65536;
constexpr const char* manifest_name = "manifest.json";

struct Size {
  int64_t height = 0, width = 0;
  bool operator==(const Size& other) const { return height == other.height && width == other.width; }
  bool operator!=(const Size& other) const { return !(*this == other); }
};

struct FileEntry {
  uint64_t bytes = 0;
  std::string sha256;
};

struct Tensor {
  std::string name, dtype;  // uint8 or float32
  std::vector<int64_t> shape;
  std::string meaning;
};

// Another form of a graph, in operators that one target alone has.
struct Variant {
  std::string target, onnx;
  std::map<std::string, int64_t> operators;
};

struct Graph {
  std::string kind;         // frame: uint8 frame to result at its size. core: rgb in [-1, 1], at the processing size
  int64_t multiple_of = 0;  // H and W may be any multiple of this; 0: they are fixed
  Size frame_size, processing_size;
  std::string onnx, reference;
  std::vector<Tensor> inputs, outputs;
  std::vector<Variant> variants;

  // The ONNX file that ``target`` runs: its variant, or the graph for everything where there is none.
  const std::string& file_for(const std::string& target) const;
  int64_t batch() const { return inputs.at(0).shape.at(0); }
};

struct Plan {
  std::string file, backend, version;
  std::string target;  // compute capability it runs on, sm89; sm80+ is every one from 8.0 that TensorRT-RTX knows
  std::string gpu;     // name of the GPU it was built for; empty when it was built without one
  int64_t cuda = 0;    // major version of CUDA that the driver must support; 0 if unknown
  Size frame_size;
  std::string precision;
  std::string options;  // JSON
  double seconds = 0;
  std::map<std::string, int64_t> layers;
};

struct Manifest {
  std::string task;
  std::vector<std::string> outputs;  // names of kinds, in the order of the graphs' outputs
  std::string family;
  std::map<std::string, std::string> settings;
  std::string checkpoint_id, checkpoint_sha256;
  std::string checkpoint_note;  // said with every output; empty when nothing is to be said
  int64_t resolution = 0, pad = 0;
  std::string precision;
  std::vector<std::string> fp32_ops;
  int64_t opset = 0;
  std::vector<Graph> graphs;
  std::map<std::string, std::string> versions;
  std::string created;
  std::vector<Plan> plans;
  std::vector<std::string> notes;
  std::map<std::string, FileEntry> files;

  // What the results are, in the order of ``outputs``.
  std::vector<const Kind*> result_kinds() const;
};

// The manifest in ``text``, or an Error (input): not JSON, beyond its bounds, another schema, a key that is missing,
// unknown or of another type, a number outside its range, entries that contradict each other.
Manifest parse_manifest(const std::string& text);

}  // namespace e2e
