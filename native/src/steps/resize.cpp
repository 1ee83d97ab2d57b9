#include "resize.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

namespace e2e {
namespace {

constexpr int coefficient = 2048;  // one, in fixed point

// Half to even, as cvRound.
int64_t rounded(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

void store(float value, uint8_t& to) { to = static_cast<uint8_t>(std::clamp<int64_t>(rounded(value), 0, 255)); }
void store(float value, float& to) { to = value; }

// How much of a pixel of one side goes into a pixel of the result.
struct Share {
  size_t to, from;
  float weight;
};

std::vector<Share> shares_of(int64_t from, int64_t to, double scale) {
  std::vector<Share> shares;
  for (int64_t at = 0; at < to; ++at) {
    const double begin = static_cast<double>(at) * scale, end = begin + scale;
    const double cell = std::min(scale, static_cast<double>(from) - begin);
    auto first = static_cast<int64_t>(std::ceil(begin)), last = static_cast<int64_t>(std::floor(end));
    last = std::min(last, from - 1);
    first = std::min(first, last);
    const auto add = [&](int64_t pixel, double weight) {
      shares.push_back({static_cast<size_t>(at), static_cast<size_t>(pixel), static_cast<float>(weight)});
    };
    if (static_cast<double>(first) - begin > 1e-3) add(first - 1, (static_cast<double>(first) - begin) / cell);
    for (int64_t pixel = first; pixel < last; ++pixel) add(pixel, 1.0 / cell);
    const double rest = end - static_cast<double>(last);
    if (rest > 1e-3) add(last, std::min(std::min(rest, 1.0), cell) / cell);
  }
  return shares;
}

// Whole blocks of ``across`` x ``down`` pixels.
template <class T>
void block_means(const T* from, size_t stride, int channels, T* to, size_t to_stride, Size wanted, int64_t across,
                 int64_t down) {
  using Sum = std::conditional_t<std::is_same_v<T, uint8_t>, int, float>;
  const auto step = static_cast<size_t>(channels), width = static_cast<size_t>(wanted.width) * step;
  const auto area = static_cast<size_t>(across * down);
  const float share = 1.0f / static_cast<float>(area);
  std::vector<size_t> offsets;
  for (int64_t y = 0; y < down; ++y)
    for (int64_t x = 0; x < across; ++x)
      offsets.push_back(static_cast<size_t>(y) * stride + static_cast<size_t>(x) * step);
  // Blocks of four numbers are added in pairs where OpenCV has vectors for them, four columns at a time.
  const bool is_pairwise = std::is_same_v<T, float> && across == 2 && down == 2 && channels == 1;
  const size_t in_pairs = is_pairwise ? width / 4 * 4 : 0;
  for (int64_t y = 0; y < wanted.height; ++y) {
    const T* row = from + static_cast<size_t>(y * down) * stride;
    T* into = to + static_cast<size_t>(y) * to_stride;
    for (size_t x = 0; x < width; ++x) {
      const T* corner = row + x / step * static_cast<size_t>(across) * step + x % step;
      if (x < in_pairs) {
        const T mean = static_cast<T>((corner[0] + corner[1] + (corner[stride] + corner[stride + 1])) * share);
        into[x] = mean;
        continue;
      }
      Sum sum = 0;
      size_t k = 0;
      for (; k + 4 <= area; k += 4)
        sum += static_cast<Sum>(corner[offsets[k]]) + static_cast<Sum>(corner[offsets[k + 1]]) +
               static_cast<Sum>(corner[offsets[k + 2]]) + static_cast<Sum>(corner[offsets[k + 3]]);
      for (; k < area; ++k) sum += static_cast<Sum>(corner[offsets[k]]);
      if (std::is_same_v<T, uint8_t> && across == 2 && down == 2)
        into[x] = static_cast<T>((static_cast<int>(sum) + 2) >> 2);
      else
        store(static_cast<float>(sum) * share, into[x]);
    }
  }
}

// The two pixels of a side that a pixel of the result lies between, and how far it is along.
struct Between {
  int64_t first;
  float along;
};

Between between(int64_t at, double scale) {
  const auto place = static_cast<float>((static_cast<double>(at) + 0.5) * scale - 0.5);
  const float first = std::floor(place);
  return {static_cast<int64_t>(first), place - first};
}

}  // namespace

template <class T>
void resize_area(const T* from, size_t stride, Size size, int channels, T* to, size_t to_stride, Size wanted) {
  const auto step = static_cast<size_t>(channels), width = static_cast<size_t>(wanted.width) * step;
  if (size == wanted) {
    for (size_t y = 0; y < static_cast<size_t>(size.height); ++y)
      std::memcpy(to + y * to_stride, from + y * stride, width * sizeof(T));
    return;
  }
  const double scale_x = 1.0 / (static_cast<double>(wanted.width) / static_cast<double>(size.width));
  const double scale_y = 1.0 / (static_cast<double>(wanted.height) / static_cast<double>(size.height));
  const int64_t across = rounded(scale_x), down = rounded(scale_y);
  if (std::abs(scale_x - static_cast<double>(across)) < DBL_EPSILON &&
      std::abs(scale_y - static_cast<double>(down)) < DBL_EPSILON)
    return block_means(from, stride, channels, to, to_stride, wanted, across, down);
  const std::vector<Share> columns = shares_of(size.width, wanted.width, scale_x);
  const std::vector<Share> rows = shares_of(size.height, wanted.height, scale_y);
  std::vector<float> row(width), sum(width);
  size_t done = 0;
  const auto finish = [&] {
    for (size_t x = 0; x < width; ++x) store(sum[x], to[done * to_stride + x]);
  };
  for (size_t j = 0; j < rows.size(); ++j) {
    std::fill(row.begin(), row.end(), 0.0f);
    const T* pixels = from + rows[j].from * stride;
    for (const Share& share : columns)
      for (size_t c = 0; c < step; ++c)
        row[share.to * step + c] += static_cast<float>(pixels[share.from * step + c]) * share.weight;
    const float weight = rows[j].weight;
    if (rows[j].to != done) {
      finish();
      done = rows[j].to;
      for (size_t x = 0; x < width; ++x) sum[x] = weight * row[x];
    } else {
      for (size_t x = 0; x < width; ++x) sum[x] += weight * row[x];
    }
  }
  finish();
}

template <class T>
void resize_linear(const T* from, size_t stride, Size size, int channels, T* to, size_t to_stride, Size wanted) {
  constexpr bool in_bytes = std::is_same_v<T, uint8_t>;
  using Weight = std::conditional_t<in_bytes, int, float>;  // also of a row that is resized
  const auto weight = [](float share) {
    return static_cast<Weight>(in_bytes ? static_cast<float>(rounded(share * coefficient)) : share);
  };
  if (size == wanted || (size.width == 2 * wanted.width && size.height == 2 * wanted.height))
    return resize_area(from, stride, size, channels, to, to_stride, wanted);
  const double scale_x = 1.0 / (static_cast<double>(wanted.width) / static_cast<double>(size.width));
  const double scale_y = 1.0 / (static_cast<double>(wanted.height) / static_cast<double>(size.height));
  const auto step = static_cast<size_t>(channels), width = static_cast<size_t>(wanted.width) * step;
  std::vector<size_t> left(width), right(width);
  std::vector<Weight> left_weight(width), right_weight(width);
  for (int64_t x = 0; x < wanted.width; ++x) {
    Between place = between(x, scale_x);
    if (place.first < 0) place = {0, 0.0f};
    if (place.first >= size.width - 1) place = {size.width - 1, 0.0f};
    for (size_t c = 0; c < step; ++c) {
      const size_t i = static_cast<size_t>(x) * step + c;
      left[i] = static_cast<size_t>(place.first) * step + c;
      right[i] = static_cast<size_t>(std::min(place.first + 1, size.width - 1)) * step + c;
      left_weight[i] = weight(1.0f - place.along), right_weight[i] = weight(place.along);
    }
  }
  std::vector<Weight> rows[2] = {std::vector<Weight>(width), std::vector<Weight>(width)};
  int64_t held[2] = {-1, -1};
  const auto resized = [&](int64_t y, int64_t keep) -> const std::vector<Weight>& {
    const int slot = held[0] == y ? 0 : held[1] == y ? 1 : held[0] == keep ? 1 : 0;
    if (held[slot] == y) return rows[slot];
    held[slot] = y;
    const T* row = from + static_cast<size_t>(y) * stride;
    for (size_t x = 0; x < width; ++x) {
      const auto a = static_cast<Weight>(row[left[x]]), b = static_cast<Weight>(row[right[x]]);
      rows[slot][x] = a * left_weight[x] + b * right_weight[x];
    }
    return rows[slot];
  };
  for (int64_t y = 0; y < wanted.height; ++y) {
    const Between place = between(y, scale_y);
    const int64_t upper = std::clamp<int64_t>(place.first, 0, size.height - 1);
    const int64_t lower = std::clamp<int64_t>(place.first + 1, 0, size.height - 1);
    const std::vector<Weight>& above = resized(upper, lower);
    const std::vector<Weight>& below = resized(lower, upper);
    const Weight a = weight(1.0f - place.along), b = weight(place.along);
    T* into = to + static_cast<size_t>(y) * to_stride;
    for (size_t x = 0; x < width; ++x) {
      if constexpr (in_bytes)
        into[x] = static_cast<uint8_t>(((a * (above[x] >> 4) >> 16) + (b * (below[x] >> 4) >> 16) + 2) >> 2);
      else
        into[x] = a * above[x] + b * below[x];
    }
  }
}

template void resize_area(const uint8_t*, size_t, Size, int, uint8_t*, size_t, Size);
template void resize_area(const float*, size_t, Size, int, float*, size_t, Size);
template void resize_linear(const uint8_t*, size_t, Size, int, uint8_t*, size_t, Size);
template void resize_linear(const float*, size_t, Size, int, float*, size_t, Size);

}  // namespace e2e
