// The CUDA driver, loaded while the program runs, on one device's primary context; as e2e_deploy/nvidia/cuda_driver.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace e2e {

struct Gpu {
  std::string name;    // as the driver says it
  std::string target;  // its compute capability, for example sm89
  int cuda_major = 0, cuda_minor = 0;  // of CUDA that the driver supports
};

// Number of CUDA devices that the driver reports; 0 without a driver.
int cuda_device_count();

class CudaDriver {
 public:
  // Error (unavailable): no driver, or no such device.
  explicit CudaDriver(int index);
  ~CudaDriver();
  CudaDriver(const CudaDriver&) = delete;
  CudaDriver& operator=(const CudaDriver&) = delete;

  const Gpu& gpu() const { return gpu_; }

  // While it lives, the GPU is current in this thread; then what was before.
  class Current {
   public:
    explicit Current(const CudaDriver& driver);
    ~Current();
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

   private:
    void* before_ = nullptr;
  };

  // Each needs the GPU to be current. Error (failed): what the driver says.
  void* new_stream() const;
  void destroy_stream(void* stream) const noexcept;
  void synchronise(void* stream) const;
  uint64_t allocate(size_t size) const;
  void free(uint64_t address) const noexcept;
  void* allocate_pinned(size_t size) const;
  void free_pinned(void* memory) const noexcept;
  void copy_in(uint64_t address, const void* memory, size_t size, void* stream) const;
  void copy_out(void* memory, uint64_t address, size_t size, void* stream) const;

 private:
  int device_ = 0;
  void* context_ = nullptr;
  Gpu gpu_;
};

}  // namespace e2e
