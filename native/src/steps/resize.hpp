// Pictures and maps resized with OpenCV's arithmetic (cv::resize, modules/imgproc/src/resize.cpp, without IPP), so that
// the same frame gives the same numbers in C++ and in Python. Pixels are [H, W, channels].
#pragma once

#include <cstddef>
#include <cstdint>

#include "../bundle/manifest.hpp"

namespace e2e {

// Means of the areas that the result's pixels cover; neither side grows. Rows of ``from`` are ``stride`` values apart.
void resize_area(const uint8_t* from, size_t stride, Size size, int channels, uint8_t* to, size_t to_stride, Size wanted);
void resize_area(const float* from, size_t stride, Size size, int channels, float* to, size_t to_stride, Size wanted);

// Bilinear without antialiasing; bytes in fixed point with 11 bits.
void resize_linear(const uint8_t* from, size_t stride, Size size, int channels, uint8_t* to, size_t to_stride, Size wanted);
void resize_linear(const float* from, size_t stride, Size size, int channels, float* to, size_t to_stride, Size wanted);

}  // namespace e2e
