// Frames of any size through an engine of a fixed size, as runtime/fit.py: scaled to fit, padded, and brought back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../bundle/manifest.hpp"

namespace e2e {

class Fit {
 public:
  // Error (usage): the frame is too small, too large or too narrow.
  Fit(Size source, Size engine);

  bool is_identity() const { return source_ == engine_; }

  // RGB uint8 [H, W, 3] of the source size, rows ``row_bytes`` apart, into a whole [H, W, 3] of the engine's size.
  void to_engine(const uint8_t* frame, size_t row_bytes, uint8_t* out) const;

  // The engine's result, float32 [H, W] or [H, W, channels], into one of the source size; ``vectors`` are made unit
  // length again.
  void to_source(const float* result, int channels, bool vectors, float* out) const;

 private:
  Size source_, engine_, inner_;
};

}  // namespace e2e
