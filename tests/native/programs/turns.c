/*
 * turns BUNDLE CYCLES FRAMES: opens and closes engines, then runs frames; prints by how much the memory grew.
 *
 * The frames go in turn at the engine's size and at another one, with steady depth and metres, in two threads with an
 * engine each and one that both have.
 */
#include <e2e_deploy/e2e_deploy.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define OR_FAIL(call) \
  do {                \
    if ((call) != E2E_OK) { \
      fprintf(stderr, "%s\n", e2e_last_error()); \
      exit(e2e_last_code()); \
    } \
  } while (0)

enum { SMALL = 16, MAX_SIDE = 64 };

typedef struct work {
  e2e_engine *own, *shared;
  int frames;
} work;

static long resident_kib(void) {
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (file == NULL || fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
  if (file != NULL) fclose(file);
  return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void run(e2e_engine *engine, e2e_steady *steady, int number) {
  static const double points[] = {1, 1, 1.0, 20, 3, 4.0, 5, 12, 2.0, 25, 15, 3.0, 9, 9, 2.5, 12, 2, 1.5};
  static const e2e_engine_info no_info = E2E_ENGINE_INFO_INIT;
  unsigned char *rgb = malloc(MAX_SIDE * MAX_SIDE * 3);
  float *depth = malloc(MAX_SIDE * MAX_SIDE * sizeof(float));
  e2e_engine_info info = no_info;
  e2e_frame frame = E2E_FRAME_INIT;
  e2e_result result = E2E_RESULT_INIT;
  e2e_metric metric = E2E_METRIC_INIT;
  int i;
  if (rgb == NULL || depth == NULL) exit(1);
  for (i = 0; i < MAX_SIDE * MAX_SIDE * 3; ++i) rgb[i] = (unsigned char)(i * 7 + number);
  OR_FAIL(e2e_engine_about(engine, &info));
  frame.rgb = rgb;
  frame.height = info.height + (number % 3) * SMALL / 4;
  frame.width = info.width + (number % 2) * SMALL;
  result.values = depth;
  result.count = MAX_SIDE * MAX_SIDE;
  OR_FAIL(e2e_engine_run(engine, &frame, 1, &result, 1));
  if (steady != NULL) OR_FAIL(e2e_steady_run(steady, depth, frame.height, frame.width, depth, NULL));
  /* Whether the points fit is no matter here. */
  if (e2e_metric_from_points(depth, frame.height, frame.width, "depth", points, 6, &metric) == E2E_OK) {
    OR_FAIL(e2e_metric_apply(&metric, depth, (size_t)frame.height * (size_t)frame.width, depth));
  }
  free(rgb);
  free(depth);
}

static void *frames_of(void *given) {
  work *own = given;
  e2e_steady *steady = NULL;
  int i;
  OR_FAIL(e2e_steady_open(&steady));
  for (i = 0; i < own->frames; ++i) run(i % 4 == 3 ? own->shared : own->own, steady, i);
  e2e_steady_close(steady);
  return NULL;
}

static void cycle(const char *folder) {
  e2e_engine_options options = E2E_ENGINE_OPTIONS_INIT;
  e2e_bundle *bundle = NULL;
  e2e_engine *engine = NULL;
  options.threads = 2;
  OR_FAIL(e2e_bundle_open(folder, 1, &bundle));
  OR_FAIL(e2e_engine_open(bundle, &options, &engine));
  e2e_bundle_close(bundle);
  run(engine, NULL, 0);
  e2e_engine_close(engine);
  if (e2e_bundle_open("/no/such/bundle", 1, &bundle) != E2E_INPUT) exit(1);
}

static void frames(const char *folder, int count) {
  e2e_engine_options options = E2E_ENGINE_OPTIONS_INIT;
  e2e_bundle *bundle = NULL;
  e2e_engine *engines[3] = {NULL, NULL, NULL};
  pthread_t threads[2];
  work works[2];
  int i;
  options.threads = 1;
  OR_FAIL(e2e_bundle_open(folder, 1, &bundle));
  for (i = 0; i < 3; ++i) OR_FAIL(e2e_engine_open(bundle, &options, &engines[i]));
  e2e_bundle_close(bundle);
  for (i = 0; i < 2; ++i) {
    works[i].own = engines[i];
    works[i].shared = engines[2];
    works[i].frames = count / 2;
    if (pthread_create(&threads[i], NULL, frames_of, &works[i]) != 0) exit(1);
  }
  for (i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  for (i = 0; i < 3; ++i) e2e_engine_close(engines[i]);
}

int main(int argc, char **argv) {
  long before;
  int i, cycles, count;
  if (argc != 4) return E2E_USAGE;
  cycles = atoi(argv[2]);
  count = atoi(argv[3]);
  for (i = 0; i < cycles / 4 + 1; ++i) cycle(argv[1]); /* what is kept for ever is there after a while */
  before = resident_kib();
  for (i = 0; i < cycles; ++i) cycle(argv[1]);
  printf("%d cycles %ld KiB\n", cycles, resident_kib() - before);
  frames(argv[1], count / 4);
  before = resident_kib();
  frames(argv[1], count);
  printf("%d frames %ld KiB\n", count, resident_kib() - before);
  return 0;
}
