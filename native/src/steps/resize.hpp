// Pictures and maps resized with OpenCV's arithmetic (cv::resize, modules/imgproc/src/resize.cpp, without IPP), so that
// the same frame gives the same numbers in C++ and in Python. Pixels are [H, W, channels].
#pragma once

#include <cstddef>
#include <cstdint>

#include "../bundle/manifest.hpp"

namespace e2e {

// Means of the areas that the result's pixels cover; neither side grows. Rows of ``from`` are ``stride`` values apart.
template <class T>
void resize_area(const T* from, size_t stride, Size size, int channels, T* to, size_t to_stride, Size wanted);

// Bilinear without antialiasing; bytes in fixed point with 11 bits.
template <class T>
void resize_linear(const T* from, size_t stride, Size size, int channels, T* to, size_t to_stride, Size wanted);

// Both are there for uint8_t and float.

}  // namespace e2e
