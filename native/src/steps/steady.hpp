// Steady depth, as runtime/steps/steady.py: every map of a video brought to the scale and shift of the ones before it.
#pragma once

#include <cstdint>
#include <vector>

#include "../bundle/manifest.hpp"

namespace e2e {

// How one map was changed: steady = scale * depth + shift.
struct Alignment {
  double scale = 1.0, shift = 0.0;
  double residual = 0.0;  // median distance to the reference after the fit, in units of the reference's range
  bool cut = false;       // the map did not fit the ones before it, so it begins anew with scale 1 and shift 0
};

// For one video, its maps in order, one thread.
class Stabiliser {
 public:
  // Forget what was seen: the next map is taken as it is.
  void reset();

  // The map [H, W] into ``out`` (which may be ``depth``) in the scale and shift of the ones before it.
  Alignment operator()(const float* depth, Size size, float* out);

 private:
  Alignment begin(std::vector<double> small, Size cells, bool cut, double residual);

  std::vector<double> reference_;
  Size cells_;  // of the reference; 0 x 0 where there is none
  int64_t count_ = 0;
  double own_[2] = {0, 0}, kept_[2] = {0, 0};
};

}  // namespace e2e
