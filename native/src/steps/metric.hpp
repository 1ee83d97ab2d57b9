// Metres from affine-invariant distances, as runtime/steps/metric.py: scale and shift from points or a plane whose
// distance along the optical axis is known.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "../bundle/manifest.hpp"

namespace e2e {

// metres ** power = scale * value + shift, with the power of the kind ``space``.
struct MetricFit {
  double scale = 1, shift = 0;
  const Kind* space = nullptr;
  size_t points = 0;      // how many could be used
  double inliers = 0;     // share of them within a tenth of their distance
  double residual_m = 0;  // median distance of the inliers from the fit, in metres
  double residual = 0;    // the same as a share of their own distance

  // Depth in metres of ``count`` values; NaN where the fit puts a pixel at or behind the camera, or beyond all.
  void apply(const float* depth, size_t count, float* out) const;
};

// Focal lengths and principal point in pixels; pixel centres are whole numbers.
struct Intrinsics {
  double fx = 0, fy = 0, cx = 0, cy = 0;
};

// Scale and shift that bring the map [H, W] of the distance ``space`` to ``points``: rows of column, row and metres.
// Error (usage): ``space`` is no distance. Error (input): too few points, they do not tell a scale, too few agree.
MetricFit fit_metric(const float* depth, Size size, const double* points, size_t count, const Kind& space,
                     double min_inliers = 0.5);

constexpr double min_plane_inliers = 0.1;  // of a plane, only the part that nothing stands on is seen

// Where a plane would be seen: rows of column, row, metres for ``fit_metric`` (with min_plane_inliers). ``normal``
// points toward the plane in optical axes; (0, 1, 0) is the ground under a camera that looks straight ahead.
// Error (usage): no plane, or one that this camera does not see.
std::vector<double> plane_points(Size size, const Intrinsics& intrinsics, double distance_m,
                                 const std::array<double, 3>& normal);

}  // namespace e2e
