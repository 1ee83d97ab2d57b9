/*
 * e2e-deploy in C: frames through a bundle that `e2e-deploy export` wrote. No Python, no torch; C89, one header.
 *
 *   #include <e2e_deploy/e2e_deploy.h>
 *   #include <stdio.h>
 *
 *   static unsigned char camera[480 * 640 * 3];
 *   static float depth[480 * 640];
 *
 *   int main(void) {
 *     e2e_bundle *bundle = NULL;
 *     e2e_engine *engine = NULL;
 *     e2e_frame frame = E2E_FRAME_INIT;
 *     e2e_result result = E2E_RESULT_INIT;
 *     frame.rgb = camera;
 *     frame.height = 480;
 *     frame.width = 640;
 *     result.values = depth;
 *     result.count = 480 * 640;
 *     if (e2e_bundle_open("my-bundle", 1, &bundle) != E2E_OK || e2e_engine_open(bundle, NULL, &engine) != E2E_OK ||
 *         e2e_engine_run(engine, &frame, 1, &result, 1) != E2E_OK) {
 *       fprintf(stderr, "%s\n", e2e_last_error());
 *     } else {
 *       printf("%g in the middle\n", depth[240 * 640 + 320]);
 *     }
 *     e2e_engine_close(engine);
 *     e2e_bundle_close(bundle);
 *     return e2e_last_code();
 *   }
 *
 *   cc program.c $(pkg-config --cflags --libs e2e_deploy)
 *
 * or in CMake find_package(e2e_deploy) and e2e_deploy::e2e_deploy.
 *
 * Errors. A function that can fail returns E2E_OK or the code of what is wrong: the exit codes of the command line.
 * e2e_last_error says it in one sentence, of the calling thread. No C++ exception leaves a function, nothing is
 * printed, no signal handler is installed. A handle that a function would have given stays as it was where it fails.
 *
 * Threads. Every function may be called from every thread. One engine serves several threads, one call at a time. A
 * handle is closed once, when no other call has it. A child of fork opens its own engines; it may close an inherited
 * one, which releases nothing there. Once loaded, the library stays in the process: dlclose does not unload it.
 *
 * ABI. Symbols are versioned (E2E_DEPLOY_1), functions are only added, and a struct grows only at its end, which is
 * what struct_size is for: set it to sizeof, as the _INIT macros do, and a program that was built with an older header
 * goes on. In an array of structs each has the same struct_size.
 *
 * Texts are UTF-8. Those that a handle gives live as long as the handle.
 */
#ifndef E2E_DEPLOY_E2E_DEPLOY_H
#define E2E_DEPLOY_E2E_DEPLOY_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define E2E_DEPLOY_VERSION "0.1.0"
#define E2E_DEPLOY_ABI 1

#if defined(__GNUC__)
#define E2E_API __attribute__((visibility("default")))
#else
#define E2E_API
#endif

/* ---- codes ---- */

#define E2E_OK 0
#define E2E_FAILED 1      /* something failed */
#define E2E_USAGE 2       /* an argument that cannot be used as given */
#define E2E_PARITY 3      /* outside its limit; no function gives it yet */
#define E2E_UNAVAILABLE 4 /* hardware, a driver or a library is missing here, or memory */
#define E2E_INPUT 5       /* a bundle or points: missing, unreadable, damaged or changed */

/* What the last call of this thread that failed said, "" where none did; valid until this thread's next call. */
E2E_API const char *e2e_last_error(void);
/* Its code, E2E_OK where none failed. */
E2E_API int e2e_last_code(void);

/* E2E_DEPLOY_VERSION and E2E_DEPLOY_ABI of the library, which may be newer than the header. */
E2E_API const char *e2e_version(void);
E2E_API int e2e_abi(void);

/* ---- bundles ---- */

typedef struct e2e_bundle e2e_bundle;

/*
 * Open the bundle in a folder after checking its manifest, its paths, its graphs and the SHA-256 of every file.
 * hash_check: 0 skips the SHA-256, for a folder that nobody else can write to; a plan's is checked when it is loaded.
 */
E2E_API int e2e_bundle_open(const char *folder, int hash_check, e2e_bundle **bundle);
/* What the bundle is, as JSON: task, family, checkpoint, precision, notes, graphs with their outputs, plans. */
E2E_API const char *e2e_bundle_facts(const e2e_bundle *bundle);
/* Engines that were opened from it go on. NULL is nothing to close. */
E2E_API void e2e_bundle_close(e2e_bundle *bundle);

/* ---- engines ---- */

typedef struct e2e_engine e2e_engine;

typedef struct e2e_engine_options {
  size_t struct_size;
  const char *backend; /* "onnxruntime", "tensorrt", or NULL for "auto": a fitting plan where a GPU is, else ONNX Runtime */
  const char *device;  /* "cpu", "cuda", "cuda:1", or NULL for "auto" */
  int threads;         /* of ONNX Runtime for one operator; 0: as many as there are cores */
  int height;          /* of the frames of the graph to load, which must be one of the bundle's; */
  int width;           /* both 0: the bundle's first graph */
  const char *onnxruntime; /* file of ONNX Runtime's library; NULL: what E2E_DEPLOY_ONNXRUNTIME names, else libonnxruntime.so.1 */
  const char *tensorrt;    /* file of TensorRT's library; NULL: what E2E_DEPLOY_TENSORRT names, else libnvinfer.so.N */
} e2e_engine_options;
#define E2E_ENGINE_OPTIONS_INIT {sizeof(e2e_engine_options), NULL, NULL, 0, 0, 0, NULL, NULL}

typedef struct e2e_engine_info {
  size_t struct_size;
  int height; /* of the frames it takes without scaling them */
  int width;
  int batch;           /* frames it takes at once */
  int outputs;         /* results of a frame */
  const char *backend; /* "onnxruntime" or "tensorrt" */
  const char *device;  /* where it runs, in words */
  const char *reason;  /* why this backend */
} e2e_engine_info;
#define E2E_ENGINE_INFO_INIT {sizeof(e2e_engine_info), 0, 0, 0, 0, NULL, NULL, NULL}

typedef struct e2e_output {
  size_t struct_size;
  const char *name;    /* of the graph's output */
  const char *kind;    /* what the numbers are: depth, disparity, sqrt-disparity, normals, mask, matte, albedo, ... */
  const char *form;    /* distance, vectors or picture */
  const char *meaning; /* in words, for example "affine-invariant depth, 0 = near, 1 = far" */
  const char *units;
  int height; /* of a result of a frame of the engine's own size */
  int width;
  int channels; /* 1 or 3 */
  double low;   /* range of the values */
  double high;
  double power; /* of a distance: an affine map of the value is depth to this power; else 0 */
} e2e_output;
#define E2E_OUTPUT_INIT {sizeof(e2e_output), NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0.0, 0.0, 0.0}

/* options: NULL for all as in E2E_ENGINE_OPTIONS_INIT. See docs/native.md for the libraries that it loads. */
E2E_API int e2e_engine_open(const e2e_bundle *bundle, const e2e_engine_options *options, e2e_engine **engine);
E2E_API int e2e_engine_about(const e2e_engine *engine, e2e_engine_info *info);
/* The result number index, from 0. */
E2E_API int e2e_engine_output(const e2e_engine *engine, int index, e2e_output *output);

typedef struct e2e_frame {
  size_t struct_size;
  const unsigned char *rgb; /* upright, height rows of width pixels of 3 bytes: R, G, B */
  size_t row_bytes;         /* from the start of one row to that of the next; 0: 3 * width */
  int height;
  int width;
} e2e_frame;
#define E2E_FRAME_INIT {sizeof(e2e_frame), NULL, 0, 0, 0}

typedef struct e2e_result {
  size_t struct_size;
  float *values; /* the caller's memory, for [batch, height, width] or [batch, height, width, 3] floats without gaps */
  size_t count;  /* floats that fit there */
} e2e_result;
#define E2E_RESULT_INIT {sizeof(e2e_result), NULL, 0}

/*
 * Frames of the host through the engine; back when the results are there.
 * frames: as many as the engine's batch, all of one size. Of another size than the engine's they are scaled to fit with
 *     their aspect kept, the rest is filled from the edge, and the results come back at the frames' own size.
 * results: one for each of the engine's outputs, in order.
 */
E2E_API int e2e_engine_run(e2e_engine *engine, const e2e_frame *frames, size_t frame_count, const e2e_result *results,
                           size_t result_count);

/*
 * Frames and results in the memory of the engine's GPU: queued in a stream, not waited for.
 * frames: uint8 [batch, height, width, 3] of the engine's size, without gaps.
 * results: one address of float32 memory for each output. Every address is a multiple of 256.
 * stream: a cudaStream_t of the engine's device; NULL is CUDA's default stream.
 * All memory must live until the stream has passed the call. Calls on one engine go into one stream, or the caller
 * orders them: they share the engine's working memory.
 */
E2E_API int e2e_engine_run_on_device(e2e_engine *engine, const void *frames, void *const *results, size_t result_count,
                                     void *stream);
/* NULL is nothing to close. */
E2E_API void e2e_engine_close(e2e_engine *engine);

/* ---- steady depth: each map of a video in the scale and shift of the ones before it ---- */

typedef struct e2e_steady e2e_steady;

typedef struct e2e_alignment {
  size_t struct_size;
  double scale; /* steady = scale * map + shift */
  double shift;
  double residual; /* median distance to the map before, as a share of its range */
  int cut;         /* 1: the map did not fit the ones before it, so it begins anew */
} e2e_alignment;
#define E2E_ALIGNMENT_INIT {sizeof(e2e_alignment), 1.0, 0.0, 0.0, 0}

/* For one video; its maps in order. One thread at a time. */
E2E_API int e2e_steady_open(e2e_steady **steady);
/* map: a distance, float32 [height, width]. out: as many floats; may be map. alignment: may be NULL. */
E2E_API int e2e_steady_run(e2e_steady *steady, const float *map, int height, int width, float *out,
                           e2e_alignment *alignment);
/* Forget what was seen, for the next video. */
E2E_API int e2e_steady_reset(e2e_steady *steady);
E2E_API void e2e_steady_close(e2e_steady *steady);

/* ---- metres: scale and shift from points or a plane whose distance is known ---- */

typedef struct e2e_metric {
  size_t struct_size;
  double scale; /* metres to the power = scale * value + shift */
  double shift;
  double power;      /* of the kind: 1 of depth, -1 of disparity */
  double inliers;    /* share of the points within a tenth of their distance */
  double residual_m; /* their median distance from the fit, in metres */
  double residual;   /* the same as a share of their own distance */
  size_t points;     /* how many could be used */
} e2e_metric;
#define E2E_METRIC_INIT {sizeof(e2e_metric), 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0}

typedef struct e2e_intrinsics {
  size_t struct_size;
  double fx; /* focal lengths and principal point, in pixels of the map; pixel centres are whole numbers */
  double fy;
  double cx;
  double cy;
} e2e_intrinsics;
#define E2E_INTRINSICS_INIT {sizeof(e2e_intrinsics), 0.0, 0.0, 0.0, 0.0}

/*
 * map: float32 [height, width] of a kind whose form is distance, as e2e_output says it.
 * points: count rows of column, row and metres along the optical axis. Fewer than half may be wrong.
 */
E2E_API int e2e_metric_from_points(const float *map, int height, int width, const char *kind, const double *points,
                                   size_t count, e2e_metric *metric);
/*
 * distance_m: of the plane from the camera. normal: toward the plane, x right, y down, z forward; 0, 1, 0 is the
 * ground under a camera that looks straight ahead.
 */
E2E_API int e2e_metric_from_plane(const float *map, int height, int width, const char *kind,
                                  const e2e_intrinsics *intrinsics, double distance_m, const double *normal,
                                  e2e_metric *metric);
/* metres: count floats, may be map; NaN where the fit puts a pixel at or behind the camera. */
E2E_API int e2e_metric_apply(const e2e_metric *metric, const float *map, size_t count, float *metres);

#ifdef __cplusplus
}
#endif

#endif
