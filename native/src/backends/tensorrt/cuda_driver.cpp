#include "cuda_driver.hpp"

#include <dlfcn.h>

#include "../../error.hpp"

namespace e2e {
namespace {

using Result = int;             // CUresult
using Device = int;             // CUdevice
using Address = uint64_t;       // CUdeviceptr
constexpr Result success = 0;
constexpr int major_attribute = 75, minor_attribute = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
constexpr unsigned int non_blocking = 1;                   // CU_STREAM_NON_BLOCKING

// The functions of libcuda that are called here, of the version that its header names.
struct Functions {
  Result (*cuInit)(unsigned int);
  Result (*cuDriverGetVersion)(int*);
  Result (*cuGetErrorString)(Result, const char**);
  Result (*cuDeviceGetCount)(int*);
  Result (*cuDeviceGet)(Device*, int);
  Result (*cuDeviceGetName)(char*, int, Device);
  Result (*cuDeviceGetAttribute)(int*, int, Device);
  Result (*cuDevicePrimaryCtxRetain)(void**, Device);
  Result (*cuDevicePrimaryCtxRelease)(Device);
  Result (*cuCtxGetCurrent)(void**);
  Result (*cuCtxSetCurrent)(void*);
  Result (*cuStreamCreate)(void**, unsigned int);
  Result (*cuStreamDestroy)(void*);
  Result (*cuStreamSynchronize)(void*);
  Result (*cuMemAlloc)(Address*, size_t);
  Result (*cuMemFree)(Address);
  Result (*cuMemAllocHost)(void**, size_t);
  Result (*cuMemFreeHost)(void*);
  Result (*cuMemcpyHtoDAsync)(Address, const void*, size_t, void*);
  Result (*cuMemcpyDtoHAsync)(void*, Address, size_t, void*);
};

template <typename F>
bool find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

// The driver's functions, or nullptr without a driver that starts.
const Functions* load() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  static Functions f;
  const bool whole =
      find(library, "cuInit", f.cuInit) && find(library, "cuDriverGetVersion", f.cuDriverGetVersion) &&
      find(library, "cuGetErrorString", f.cuGetErrorString) && find(library, "cuDeviceGetCount", f.cuDeviceGetCount) &&
      find(library, "cuDeviceGet", f.cuDeviceGet) && find(library, "cuDeviceGetName", f.cuDeviceGetName) &&
      find(library, "cuDeviceGetAttribute", f.cuDeviceGetAttribute) &&
      find(library, "cuDevicePrimaryCtxRetain", f.cuDevicePrimaryCtxRetain) &&
      find(library, "cuDevicePrimaryCtxRelease_v2", f.cuDevicePrimaryCtxRelease) &&
      find(library, "cuCtxGetCurrent", f.cuCtxGetCurrent) && find(library, "cuCtxSetCurrent", f.cuCtxSetCurrent) &&
      find(library, "cuStreamCreate", f.cuStreamCreate) && find(library, "cuStreamDestroy_v2", f.cuStreamDestroy) &&
      find(library, "cuStreamSynchronize", f.cuStreamSynchronize) && find(library, "cuMemAlloc_v2", f.cuMemAlloc) &&
      find(library, "cuMemFree_v2", f.cuMemFree) && find(library, "cuMemAllocHost_v2", f.cuMemAllocHost) &&
      find(library, "cuMemFreeHost", f.cuMemFreeHost) && find(library, "cuMemcpyHtoDAsync_v2", f.cuMemcpyHtoDAsync) &&
      find(library, "cuMemcpyDtoHAsync_v2", f.cuMemcpyDtoHAsync);
  return whole && f.cuInit(0) == success ? &f : nullptr;
}

const Functions* functions() {
  static const Functions* const found = load();
  return found;
}

void check(Result result, const char* call) {
  if (result == success) return;
  const char* said = nullptr;
  functions()->cuGetErrorString(result, &said);
  constexpr Result out_of_memory = 2;
  throw Error(result == out_of_memory ? unavailable : failed,
              std::string("the CUDA driver fails in ") + call + ": " +
                  (said == nullptr ? "error " + std::to_string(result) : said));
}

}  // namespace

int cuda_device_count() {
  int count = 0;
  return functions() != nullptr && functions()->cuDeviceGetCount(&count) == success ? count : 0;
}

CudaDriver::CudaDriver(int index) {
  const int count = cuda_device_count();
  if (count == 0) {
    throw Error(unavailable, "this machine has no NVIDIA GPU with a working driver; use the backend onnxruntime");
  }
  if (index >= count) {
    throw Error(unavailable, "cuda:" + std::to_string(index) + " was asked for, and this machine has " +
                                 std::to_string(count) + " CUDA devices, from cuda:0");
  }
  const Functions& cuda = *functions();
  char name[256] = "";
  int major = 0, minor = 0, version = 0;
  check(cuda.cuDeviceGet(&device_, index), "cuDeviceGet");
  check(cuda.cuDeviceGetName(name, sizeof name, device_), "cuDeviceGetName");
  check(cuda.cuDeviceGetAttribute(&major, major_attribute, device_), "cuDeviceGetAttribute");
  check(cuda.cuDeviceGetAttribute(&minor, minor_attribute, device_), "cuDeviceGetAttribute");
  check(cuda.cuDriverGetVersion(&version), "cuDriverGetVersion");
  gpu_ = {name, "sm" + std::to_string(major) + std::to_string(minor), version / 1000, version % 1000 / 10};
  check(cuda.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
}

CudaDriver::~CudaDriver() { functions()->cuDevicePrimaryCtxRelease(device_); }

CudaDriver::Current::Current(const CudaDriver& driver) {
  check(functions()->cuCtxGetCurrent(&before_), "cuCtxGetCurrent");
  check(functions()->cuCtxSetCurrent(driver.context_), "cuCtxSetCurrent");
}

CudaDriver::Current::~Current() { functions()->cuCtxSetCurrent(before_); }

void* CudaDriver::new_stream() const {
  void* stream = nullptr;
  check(functions()->cuStreamCreate(&stream, non_blocking), "cuStreamCreate");
  return stream;
}

void CudaDriver::destroy_stream(void* stream) const noexcept { functions()->cuStreamDestroy(stream); }

void CudaDriver::synchronise(void* stream) const {
  check(functions()->cuStreamSynchronize(stream), "cuStreamSynchronize");
}

uint64_t CudaDriver::allocate(size_t size) const {
  Address address = 0;
  check(functions()->cuMemAlloc(&address, size), "cuMemAlloc");
  return address;
}

void CudaDriver::free(uint64_t address) const noexcept { functions()->cuMemFree(address); }

void* CudaDriver::allocate_pinned(size_t size) const {
  void* memory = nullptr;
  check(functions()->cuMemAllocHost(&memory, size), "cuMemAllocHost");
  return memory;
}

void CudaDriver::free_pinned(void* memory) const noexcept { functions()->cuMemFreeHost(memory); }

void CudaDriver::copy_in(uint64_t address, const void* memory, size_t size, void* stream) const {
  check(functions()->cuMemcpyHtoDAsync(address, memory, size, stream), "cuMemcpyHtoDAsync");
}

void CudaDriver::copy_out(void* memory, uint64_t address, size_t size, void* stream) const {
  check(functions()->cuMemcpyDtoHAsync(memory, address, size, stream), "cuMemcpyDtoHAsync");
}

}  // namespace e2e
