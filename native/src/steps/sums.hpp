// Sums and medians in the order in which NumPy adds, so that they round as its do.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace e2e {

// NumPy's pairwise summation of ``count`` doubles.
inline double pairwise_sum(const double* values, size_t count) {
  if (count < 8) {
    double sum = 0;
    for (size_t i = 0; i < count; ++i) sum += values[i];
    return sum;
  }
  if (count > 128) {
    const size_t half = count / 2 - count / 2 % 8;
    return pairwise_sum(values, half) + pairwise_sum(values + half, count - half);
  }
  double r[8];
  std::copy(values, values + 8, r);
  size_t i = 8;
  for (; i < count - count % 8; i += 8)
    for (size_t k = 0; k < 8; ++k) r[k] += values[i + k];
  double sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
  for (; i < count; ++i) sum += values[i];
  return sum;
}

inline double sum_of(const std::vector<double>& values) { return pairwise_sum(values.data(), values.size()); }

inline double mean_of(const std::vector<double>& values) { return sum_of(values) / static_cast<double>(values.size()); }

// Of numbers, at least one.
inline double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2) return *middle;
  return (*std::max_element(values.begin(), middle) + *middle) / 2;
}

}  // namespace e2e
