#include "steady.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "resize.hpp"
#include "sums.hpp"

namespace e2e {
namespace {

// As in steady.py, where their reasons are.
constexpr double cells = 3072, keep = 0.6, cut_residual = 0.08, average = 0.01, anchor = 0.01;
constexpr int fits = 4, refits = 3;
constexpr int64_t settle = 100;

struct Line {
  double slope = 0, axis = 0;  // of y on x and of the reduced major axis; 0: it does not rise
  double mean_x = 0, mean_y = 0;
};

Line line_through(std::vector<double> x, std::vector<double> y) {
  Line line;
  line.mean_x = mean_of(x), line.mean_y = mean_of(y);
  double xx = 0, xy = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double a = x[i] - line.mean_x, b = y[i] - line.mean_y;
    xx += a * a, xy += a * b, yy += b * b;
  }
  if (!(xy <= 0 || xx <= 1e-12 * static_cast<double>(x.size()))) line.slope = xy / xx, line.axis = std::sqrt(yy / xx);
  return line;
}

using Numbers = std::vector<double>;

Numbers distances(const Numbers& x, const Numbers& y, double slope, const Line& line) {
  Numbers residual(x.size());
  for (size_t i = 0; i < x.size(); ++i) residual[i] = std::abs(slope * (x[i] - line.mean_x) + line.mean_y - y[i]);
  return residual;
}

// Scale and shift of the line through most of the points: trimmed_fit of steady.py.
void trimmed_fit(const std::vector<double>& x, const std::vector<double>& y, double& scale, double& shift) {
  const size_t count = std::max<size_t>(1, static_cast<size_t>(keep * static_cast<double>(x.size())));
  std::vector<double> some_x = x, some_y = y, residual;
  std::vector<size_t> order(x.size());
  for (int i = 0; i < fits; ++i) {
    const Line line = line_through(some_x, some_y);
    residual = distances(x, y, line.slope, line);
    std::iota(order.begin(), order.end(), size_t{0});
    const auto is_nearer = [&](size_t a, size_t b) {
      return residual[a] != residual[b] ? residual[a] < residual[b] : a < b;
    };
    const auto last = order.begin() + static_cast<std::ptrdiff_t>(count - 1);
    std::nth_element(order.begin(), last, order.end(), is_nearer);
    some_x.clear(), some_y.clear();
    for (size_t k = 0; k < count; ++k) some_x.push_back(x[order[k]]), some_y.push_back(y[order[k]]);
  }
  Line line;
  for (int i = 0; i < refits; ++i) {
    const double most = 3 * 1.4826 * median_of(residual) + 1e-9;
    some_x.clear(), some_y.clear();
    for (size_t k = 0; k < x.size(); ++k)
      if (residual[k] <= most) some_x.push_back(x[k]), some_y.push_back(y[k]);
    line = line_through(some_x, some_y);
    residual = distances(x, y, line.axis, line);
  }
  scale = line.axis;
  shift = line.mean_y - line.axis * line.mean_x;
}

// The map as means of square blocks, about ``cells`` of them; what is not finite is NaN.
std::vector<double> small_map(const float* depth, Size size, Size& blocks) {
  const double pixels = static_cast<double>(size.height * size.width);
  const int64_t block = std::max<int64_t>(1, static_cast<int64_t>(std::nearbyint(std::sqrt(pixels / cells))));
  blocks = {std::max<int64_t>(1, size.height / block), std::max<int64_t>(1, size.width / block)};
  const Size whole = {std::min(size.height, blocks.height * block), std::min(size.width, blocks.width * block)};
  std::vector<float> means(static_cast<size_t>(blocks.height * blocks.width));
  const auto stride = static_cast<size_t>(size.width), to_stride = static_cast<size_t>(blocks.width);
  resize_area(depth, stride, whole, 1, means.data(), to_stride, blocks);
  std::vector<double> small(means.begin(), means.end());
  for (double& value : small)
    if (!std::isfinite(value)) value = std::numeric_limits<double>::quiet_NaN();
  return small;
}

double ranked(std::vector<double> values, size_t rank) {
  const auto place = values.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

}  // namespace

void Stabiliser::reset() { cells_ = {}; }

Alignment Stabiliser::begin(std::vector<double> small, Size blocks, bool cut, double residual) {
  reference_ = std::move(small);
  cells_ = blocks;
  count_ = 1;
  std::fill(own_, own_ + 2, 0.0), std::fill(kept_, kept_ + 2, 0.0);
  Alignment alignment;
  alignment.residual = residual, alignment.cut = cut;
  return alignment;
}

Alignment Stabiliser::operator()(const float* depth, Size size, float* out) {
  const auto pixels = static_cast<size_t>(size.height * size.width);
  Size blocks;
  std::vector<double> small = small_map(depth, size, blocks);
  const auto unchanged = [&](const Alignment& alignment) {
    if (out != depth) std::copy(depth, depth + pixels, out);
    return alignment;
  };
  if (!std::any_of(small.begin(), small.end(), [](double value) { return std::isfinite(value); })) return unchanged({});
  if (cells_ != blocks) return unchanged(begin(std::move(small), blocks, cells_ != Size{}, 0.0));
  std::vector<double> x, y;
  for (size_t i = 0; i < small.size(); ++i)
    if (std::isfinite(small[i]) && std::isfinite(reference_[i])) x.push_back(small[i]), y.push_back(reference_[i]);
  if (x.empty()) return unchanged(begin(std::move(small), blocks, true, 0.0));
  double scale, shift;
  trimmed_fit(x, y, scale, shift);
  const size_t edge = y.size() / 50;
  const double range = ranked(y, y.size() - 1 - edge) - ranked(y, edge);
  std::vector<double> away(x.size());
  for (size_t i = 0; i < x.size(); ++i) away[i] = std::abs(scale * x[i] + shift - y[i]);
  const double residual = median_of(std::move(away)) / std::max(range, 1e-6);
  if (scale == 0.0 || residual > cut_residual) return unchanged(begin(std::move(small), blocks, true, residual));
  ++count_;
  const double own[2] = {1.0 / scale - 1.0, -shift / scale};
  const double weight = std::max(average, 1.0 / static_cast<double>(count_));
  for (int i = 0; i < 2; ++i) own_[i] += weight * (own[i] - own_[i]);
  if (count_ <= settle) std::copy(own_, own_ + 2, kept_);
  const double back[2] = {anchor * (own_[0] - kept_[0]), anchor * (own_[1] - kept_[1])};
  for (size_t i = 0; i < small.size(); ++i) {
    const double followed = std::isfinite(small[i]) ? scale * small[i] + shift : reference_[i];
    reference_[i] = followed + back[0] * followed + back[1];
  }
  for (int i = 0; i < 2; ++i) own_[i] -= back[i];
  const auto factor = static_cast<float>(scale), term = static_cast<float>(shift);
  for (size_t i = 0; i < pixels; ++i) out[i] = depth[i] * factor + term;
  Alignment alignment;
  alignment.scale = scale, alignment.shift = shift, alignment.residual = residual;
  return alignment;
}

}  // namespace e2e
