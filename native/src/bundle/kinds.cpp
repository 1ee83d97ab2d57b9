#include "kinds.hpp"

namespace e2e {
namespace {

constexpr const char* affine = "none: scale and shift are unknown (not metric)";
constexpr const char* share = "none: shares from 0 to 1";

}  // namespace

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> table = {
      {"depth", "depth", "distance", 1, 0, 1, "affine-invariant depth, 0 = near, 1 = far", affine, 1.0, false},
      {"disparity", "disparity", "distance", 1, 0, 1, "affine-invariant disparity, 0 = far, 1 = near", affine, -1.0,
       false},
      {"sqrt-disparity", "sqrt_disparity", "distance", 1, 0, 1,
       "affine-invariant square root of disparity, 0 = far, 1 = near", affine, -0.5, false},
      {"normals", "normals", "vectors", 3, -1, 1, "unit surface normals, x right, y up, z toward the viewer",
       "none: unit vectors", 0.0, false},
      {"mask", "mask", "picture", 3, 0, 1, "segments, each in a colour of its own", share, 0.0, false},
      {"matte", "matte", "picture", 1, 0, 1, "opacity of the foreground", share, 0.0, false},
      {"albedo", "albedo", "picture", 3, 0, 1, "albedo, RGB as in sRGB", share, 0.0, false},
      {"material", "material", "picture", 3, 0, 1, "roughness, metallicity, and no meaning", share, 0.0, false},
      {"linear-albedo", "linear_albedo", "picture", 3, 0, 1, "albedo, linear RGB", share, 0.0, true},
      {"shading", "shading", "picture", 3, 0, 1, "diffuse shading, linear RGB, scale unknown", share, 0.0, true},
      {"residual", "residual", "picture", 3, 0, 1, "light that is not diffuse, linear RGB, scale unknown", share, 0.0,
       true},
  };
  return table;
}

const Kind* find_kind(const std::string& name) {
  for (const Kind& kind : kinds())
    if (kind.name == name) return &kind;
  return nullptr;
}

}  // namespace e2e
