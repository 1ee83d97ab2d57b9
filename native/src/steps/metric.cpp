#include "metric.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "../bundle/text.hpp"
#include "../error.hpp"
#include "random.hpp"
#include "sums.hpp"

namespace e2e {
namespace {

// As in metric.py, where their reasons are.
constexpr double tolerance = 0.1, bisquare = 4.685, max_plane_m = 50.0, max_px = 1e6;
constexpr size_t min_points = 4, pairs = 500, max_points = 2000;

using Numbers = std::vector<double>;

// NumPy has its own ways for some exponents, exact ones.
double power_of(double base, double exponent) {
  if (exponent == 1.0) return base;
  if (exponent == -1.0) return 1.0 / base;
  return std::pow(base, exponent);
}

// The model's values and metres of the points inside the picture, evenly thinned to max_points.
void pick(const float* depth, Size size, const double* points, size_t count, Numbers& d, Numbers& z) {
  Numbers all_d, all_z;
  for (size_t i = 0; i < count; ++i) {
    const double column = std::nearbyint(points[3 * i]), row = std::nearbyint(points[3 * i + 1]), m = points[3 * i + 2];
    const bool is_inside = column >= 0 && column < static_cast<double>(size.width) && row >= 0 &&
                           row < static_cast<double>(size.height) && m > 0 && std::isfinite(m);
    if (!is_inside) continue;
    const float value = depth[static_cast<size_t>(row) * static_cast<size_t>(size.width) + static_cast<size_t>(column)];
    if (std::isfinite(value)) all_d.push_back(value), all_z.push_back(m);
  }
  const size_t held = all_d.size();
  if (held < min_points)
    throw Error(input, std::to_string(held) + " metric points lie in the " + by(size.width, size.height) +
                           " picture; at least " + std::to_string(min_points) + " are needed");
  const size_t kept = std::min(held, max_points);
  const double last = static_cast<double>(held - 1), step = last / static_cast<double>(kept - 1);
  for (size_t i = 0; i < kept; ++i) {
    const size_t chosen = i + 1 == kept ? held - 1 : static_cast<size_t>(static_cast<double>(i) * step);
    d.push_back(all_d[chosen]), z.push_back(all_z[chosen]);
  }
}

// Distance of the fit from a point, as a share of the point's own; infinite behind the camera.
double error_of(double scale, double shift, double d, double z, double power) {
  const double value = scale * d + shift;
  const double metres = value > 0 ? power_of(value, 1.0 / power) : std::numeric_limits<double>::infinity();
  return std::abs(metres - z) / z;
}

// The best of ``pairs`` lines through two points each.
void best_line(const Numbers& d, const Numbers& z, const Numbers& target, double power, double& scale, double& shift) {
  Pcg64 random;
  std::vector<size_t> first(pairs), second(pairs);
  for (auto* ends : {&first, &second})
    for (size_t& end : *ends) end = random.below(static_cast<uint32_t>(d.size()));
  double least = std::numeric_limits<double>::infinity();
  bool is_found = false;
  Numbers scores(d.size());
  for (size_t i = 0; i < pairs; ++i) {
    const double run = d[second[i]] - d[first[i]];
    if (!(std::abs(run) > 1e-6)) continue;
    const double a = (target[second[i]] - target[first[i]]) / run, b = target[first[i]] - a * d[first[i]];
    if (!(a > 0)) continue;
    for (size_t k = 0; k < d.size(); ++k) {
      const double score = std::min(error_of(a, b, d[k], z[k], power), tolerance);
      scores[k] = score * score;
    }
    const double sum = sum_of(scores);
    if (!is_found || sum < least) scale = a, shift = b, least = sum;
    is_found = true;
  }
  if (!is_found)
    throw Error(input, "the metric points do not tell a scale: the model sees no difference in depth between them, or "
                       "the opposite one; points both near and far are needed");
}

double weighted_mean(const Numbers& values, const Numbers& weights, double weight) {
  Numbers products(values.size());
  for (size_t i = 0; i < values.size(); ++i) products[i] = values[i] * weights[i];
  return sum_of(products) / weight;
}

// Tukey's bisquare from a start, by reweighted least squares on relative residuals.
void refine(double& scale, double& shift, const Numbers& all_d, const Numbers& all_z, double power) {
  Numbers d, target;
  for (size_t i = 0; i < all_d.size(); ++i)
    if (error_of(scale, shift, all_d[i], all_z[i], power) <= tolerance)
      d.push_back(all_d[i]), target.push_back(power_of(all_z[i], power));
  const size_t count = d.size();
  if (count < 2) return;
  Numbers residual(count), weights(count), spread(count), product(count);
  for (int turn = 0; turn < 10; ++turn) {
    for (size_t i = 0; i < count; ++i) residual[i] = std::abs((scale * d[i] + shift) - target[i]) / target[i];
    const double sigma = std::max(1.4826 * median_of(residual), 1e-9);
    for (size_t i = 0; i < count; ++i) {
      const double away = std::min(1.0, residual[i] / (bisquare * sigma)), near = 1.0 - away * away;
      weights[i] = near * near / (target[i] * target[i]);
    }
    const double weight = sum_of(weights);
    const double mean_d = weighted_mean(d, weights, weight), mean_t = weighted_mean(target, weights, weight);
    for (size_t i = 0; i < count; ++i) {
      const double off = d[i] - mean_d;
      spread[i] = weights[i] * (off * off);
      product[i] = weights[i] * off * (target[i] - mean_t);
    }
    const double variance = sum_of(spread);
    if (variance <= 0) return;
    scale = sum_of(product) / variance;
    shift = mean_t - scale * mean_d;
  }
}

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.0f%%", share * 100);
  return text;
}

}  // namespace

void MetricFit::apply(const float* depth, size_t count, float* out) const {
  const auto factor = static_cast<float>(scale), term = static_cast<float>(shift);
  const auto exponent = static_cast<float>(1 / space->power);
  for (size_t i = 0; i < count; ++i) {
    const float value = depth[i] * factor + term;
    if (!(value > 0))
      out[i] = std::numeric_limits<float>::quiet_NaN();
    else
      out[i] = exponent == 1.0f ? value : exponent == -1.0f ? 1.0f / value : std::pow(value, exponent);
  }
}

MetricFit fit_metric(const float* depth, Size size, const double* points, size_t count, const Kind& space,
                     double min_inliers) {
  const double power = space.power;
  if (power == 0.0) throw Error(usage, std::string("metres are made of distances, and ") + space.name + " is none");
  Numbers d, z, target;
  pick(depth, size, points, count, d, z);
  for (double metres : z) target.push_back(power_of(metres, power));
  MetricFit fit;
  best_line(d, z, target, power, fit.scale, fit.shift);
  refine(fit.scale, fit.shift, d, z, power);
  Numbers errors, metres;
  for (size_t i = 0; i < d.size(); ++i) {
    const double error = error_of(fit.scale, fit.shift, d[i], z[i], power);
    if (error <= tolerance) errors.push_back(error), metres.push_back(error * z[i]);
  }
  fit.space = &space;
  fit.points = d.size();
  fit.inliers = static_cast<double>(errors.size()) / static_cast<double>(d.size());
  if (fit.inliers < min_inliers || fit.scale <= 0)
    throw Error(input, "the metric points do not fit the picture: " + percent(fit.inliers) + " of " +
                           std::to_string(d.size()) + " are within " + percent(tolerance) +
                           " of one scale and shift, at least " + percent(min_inliers) +
                           " must be; check that they are columns, rows and metres of this camera");
  fit.residual_m = errors.empty() ? std::numeric_limits<double>::quiet_NaN() : median_of(std::move(metres));
  fit.residual = errors.empty() ? fit.residual_m : median_of(std::move(errors));
  return fit;
}

std::vector<double> plane_points(Size size, const Intrinsics& camera, double distance_m,
                                 const std::array<double, 3>& normal) {
  const auto [nx, ny, nz] = normal;
  const std::vector<double> given = {camera.fx, camera.fy, camera.cx, camera.cy};
  const auto is_good = [](double px) { return std::abs(px) <= max_px; };
  if (!std::all_of(given.begin(), given.end(), is_good) || std::min(camera.fx, camera.fy) < 1) {
    std::vector<std::string> words;
    for (double px : given) words.push_back(short_number(px, 12));
    throw Error(usage, "intrinsics are fx,fy,cx,cy in pixels, up to " + short_number(max_px, 6) +
                           " and focal lengths from 1, not " + quoted(joined(words, ",")) +
                           "; for example 600,600,320,240");
  }
  const double length = std::sqrt(nx * nx + ny * ny + nz * nz);
  const std::string distance = short_number(distance_m, 12) + " m";
  const std::string direction =
      "(" + joined({short_number(nx, 12), short_number(ny, 12), short_number(nz, 12)}, ", ") + ")";
  if (!(distance_m > 0 && std::isfinite(distance_m) && length > 0 && std::isfinite(length)))
    throw Error(usage, "a plane needs a positive distance and a normal: got " + distance + " and " + direction);
  const double share = static_cast<double>(size.height * size.width) / static_cast<double>(max_points);
  const int64_t step = std::max<int64_t>(1, static_cast<int64_t>(std::sqrt(share)));
  std::vector<double> points;
  for (int64_t v = 0; v < size.height; v += step) {
    for (int64_t u = 0; u < size.width; u += step) {
      const double x = (static_cast<double>(u) - camera.cx) / camera.fx;
      const double y = (static_cast<double>(v) - camera.cy) / camera.fy;
      const double toward = x * (nx / length) + y * (ny / length) + nz / length;
      if (!(toward * max_plane_m > distance_m)) continue;  // nearer than max_plane_m along the optical axis
      points.insert(points.end(), {static_cast<double>(u), static_cast<double>(v), distance_m / toward});
    }
  }
  if (points.size() < 3 * min_points)
    throw Error(usage, "this camera does not see a plane " + distance + " away in the direction " + direction +
                           " within " + short_number(max_plane_m, 12) + " m");
  return points;
}

}  // namespace e2e
