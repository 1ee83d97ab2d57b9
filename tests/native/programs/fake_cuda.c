/* A CUDA driver whose one GPU is the host: memory is the heap, a stream has done its work when it was queued. */
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;

static int live;     /* memory, streams and holds on the context that were not given back */
static void *current;
static int context;

int fake_cuda_live(void) { return live; }
void *fake_cuda_current(void) { return current; }

static int kept(void *memory, void **out) {
  *out = memory;
  live += memory != NULL;
  return memory == NULL ? 2 : 0;
}
static int gone(void *memory) {
  free(memory);
  live -= memory != NULL;
  return 0;
}

int cuInit(unsigned int flags) { return (int)flags; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuGetErrorString(int error, const char **text) { return *text = error == 2 ? "out of memory" : "invalid value", 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int index) { return *device = index, 0; }
int cuDeviceGetName(char *name, int size, int device) {
  (void)device;
  strncpy(name, "NVIDIA Test GPU", (size_t)size);
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  return *value = attribute == 75 ? 8 : 9, 0;
}
int cuDevicePrimaryCtxRetain(void **out, int device) {
  (void)device;
  *out = &context;
  ++live;
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  --live;
  return device;
}
int cuCtxGetCurrent(void **out) { return *out = current, 0; }
int cuCtxSetCurrent(void *given) { return current = given, 0; }
int cuStreamCreate(void **stream, unsigned int flags) { return flags == 1 ? kept(malloc(1), stream) : 1; }
int cuStreamDestroy_v2(void *stream) { return gone(stream); }
int cuStreamSynchronize(void *stream) { return stream == NULL; }
int cuMemAlloc_v2(address *out, size_t size) {
  void *memory = NULL;
  int code;
  if (current != &context) return 1;
  code = kept(aligned_alloc(256, (size + 255) / 256 * 256), &memory);
  *out = (address)memory;
  return code;
}
int cuMemFree_v2(address memory) { return gone((void *)memory); }
int cuMemAllocHost_v2(void **out, size_t size) { return kept(malloc(size), out); }
int cuMemFreeHost(void *memory) { return gone(memory); }
int cuMemcpyHtoDAsync_v2(address to, const void *from, size_t size, void *stream) {
  memcpy((void *)to, from, size);
  return stream == NULL;
}
int cuMemcpyDtoHAsync_v2(void *to, address from, size_t size, void *stream) {
  memcpy(to, (void *)from, size);
  return stream == NULL;
}
