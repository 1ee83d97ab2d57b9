// The names that manifests share, as e2e_deploy/names.py has them (tests/native compares the two).
#pragma once

namespace e2e {

constexpr const char* task_names[] = {"depth",        "disparity", "normals",    "geometry",
                                      "segmentation", "matting",   "appearance", "lighting"};
// In the order of names.py, for errors; kinds.cpp says what each is.
constexpr const char* result_kinds[] = {"depth",  "disparity",     "sqrt-disparity", "normals", "mask",    "matte",
                                        "albedo", "linear-albedo", "material",       "shading", "residual"};
constexpr const char* precisions[] = {"fp32", "fp16", "bf16", "int8"};
constexpr const char* graph_kinds[] = {"frame", "core"};
constexpr const char* graph_targets[] = {"onnxruntime-cuda"};
constexpr const char* plan_kinds[] = {"tensorrt", "tensorrt-rtx", "inductor"};
constexpr const char* vae_parts[] = {"both", "encoder", "decoder"};
constexpr const char* dtypes[] = {"uint8", "float32"};

}  // namespace e2e
