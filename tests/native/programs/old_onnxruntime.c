/* A library that calls itself ONNX Runtime 1.19, and has nothing of it but that. */
#include <stddef.h>

typedef struct base {
  const void *(*api)(unsigned int version);
  const char *(*version)(void);
} base;

static const void *api(unsigned int version) { return version > 19 ? NULL : ""; }
static const char *version(void) { return "1.19.2"; }

const base *OrtGetApiBase(void) {
  static const base mine = {api, version};
  return &mine;
}
