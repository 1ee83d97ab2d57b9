#include "fit.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "../bundle/text.hpp"
#include "../error.hpp"
#include "resize.hpp"

namespace e2e {
namespace {

// Of e2e_deploy/frames.py.
constexpr int64_t min_side_px = 16, max_pixels = 64 * 1024 * 1024;
constexpr int64_t min_inner_px = 8;

void check_frame_size(Size size) {
  const std::string picture =
      "the picture is " + std::to_string(size.width) + " px wide and " + std::to_string(size.height) + " high";
  if (std::min(size.height, size.width) < min_side_px)
    throw Error(usage, picture + "; both sides must be at least " + std::to_string(min_side_px) + " px");
  const double pixels = static_cast<double>(size.height) * static_cast<double>(size.width);
  if (pixels > static_cast<double>(max_pixels))
    throw Error(usage, picture + " (" + short_number(std::nearbyint(pixels / 1e6), 15) + " Mpx); the limit is " +
                           std::to_string(max_pixels / 1000000) + " Mpx: make it smaller first");
}

int64_t inner_side(int64_t source, int64_t engine, double scale) {
  const double scaled = std::nearbyint(static_cast<double>(source) * scale);
  return std::min(engine, std::max<int64_t>(1, static_cast<int64_t>(scaled)));
}

}  // namespace

Fit::Fit(Size source, Size engine) : source_(source), engine_(engine) {
  check_frame_size(source);
  const double scale = std::min(static_cast<double>(engine.height) / static_cast<double>(source.height),
                                static_cast<double>(engine.width) / static_cast<double>(source.width));
  inner_ = {inner_side(source.height, engine.height, scale), inner_side(source.width, engine.width, scale)};
  if (std::min(inner_.height, inner_.width) < min_inner_px)
    throw Error(usage, "a frame of " + by(source.height, source.width) +
                           " (height x width) is too narrow for an engine of " + by(engine.height, engine.width));
}

void Fit::to_engine(const uint8_t* frame, size_t row_bytes, uint8_t* out) const {
  const size_t out_bytes = static_cast<size_t>(engine_.width) * 3;
  const auto height = static_cast<size_t>(inner_.height), width = static_cast<size_t>(inner_.width);
  if (is_identity()) {
    for (size_t y = 0; y < height; ++y) std::memcpy(out + y * out_bytes, frame + y * row_bytes, out_bytes);
    return;
  }
  if (inner_.height < source_.height)
    resize_area(frame, row_bytes, source_, 3, out, out_bytes, inner_);
  else
    resize_linear(frame, row_bytes, source_, 3, out, out_bytes, inner_);
  // What is left over repeats the edge.
  for (size_t y = 0; y < height; ++y)
    for (size_t x = width; x < static_cast<size_t>(engine_.width); ++x)
      std::memcpy(out + y * out_bytes + 3 * x, out + y * out_bytes + 3 * (width - 1), 3);
  for (size_t y = height; y < static_cast<size_t>(engine_.height); ++y)
    std::memcpy(out + y * out_bytes, out + (height - 1) * out_bytes, out_bytes);
}

void Fit::to_source(const float* result, int channels, bool vectors, float* out) const {
  const auto step = static_cast<size_t>(channels);
  const size_t stride = static_cast<size_t>(engine_.width) * step;
  const size_t out_stride = static_cast<size_t>(source_.width) * step;
  const size_t count = out_stride * static_cast<size_t>(source_.height);
  if (is_identity()) {
    std::memcpy(out, result, count * sizeof(float));
    return;
  }
  resize_linear(result, stride, inner_, channels, out, out_stride, source_);
  if (!vectors) return;
  for (size_t i = 0; i + 2 < count; i += 3) {
    const float length = std::sqrt(out[i] * out[i] + out[i + 1] * out[i + 1] + out[i + 2] * out[i + 2]);
    const float divisor = length < 1e-6f ? 1e-6f : length;  // of a length that is no number, that
    for (size_t c = 0; c < 3; ++c) out[i + c] /= divisor;
  }
}

}  // namespace e2e
