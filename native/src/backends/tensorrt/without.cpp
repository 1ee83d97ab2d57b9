// In the place of plan.cpp where the library is built without TensorRT's headers.
#include "plan.hpp"

namespace e2e {

std::unique_ptr<Backend> run_plan(const Bundle&, const Graph&, const Asked&, int) {
  throw Error(unavailable,
              "this libe2e_deploy was built without TensorRT: build it with TENSORRT_INCLUDE_DIR, or use the backend "
              "onnxruntime");
}

}  // namespace e2e
