/* forks BUNDLE: what an engine does in a child of the process that opened it; prints codes and what is said. */
#include <e2e_deploy/e2e_deploy.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned char rgb[24 * 32 * 3];
static float depth[24 * 32];

static int run(e2e_engine *engine) {
  e2e_frame frame = E2E_FRAME_INIT;
  e2e_result result = E2E_RESULT_INIT;
  frame.rgb = rgb;
  frame.height = 24;
  frame.width = 32;
  result.values = depth;
  result.count = 24 * 32;
  return e2e_engine_run(engine, &frame, 1, &result, 1);
}

int main(int argc, char **argv) {
  e2e_bundle *bundle = NULL;
  e2e_engine *engine = NULL, *own = NULL;
  e2e_engine_options options = E2E_ENGINE_OPTIONS_INIT;
  pid_t child;
  int code, status;
  options.threads = 2;
  if (argc != 2 || e2e_bundle_open(argv[1], 1, &bundle) || e2e_engine_open(bundle, &options, &engine) || run(engine)) {
    printf("%s\n", e2e_last_error());
    return 1;
  }
  child = fork();
  if (child == 0) {
    code = run(engine);
    printf("child: %d %s\n", code, e2e_last_error());
    e2e_engine_close(engine);
    code = e2e_engine_open(bundle, &options, &own);
    printf("child: its own %d", code);
    printf(" %d\n", own == NULL ? -1 : run(own));
    e2e_engine_close(own);
    e2e_bundle_close(bundle);
    fflush(stdout);
    _exit(0);
  }
  waitpid(child, &status, 0);
  printf("parent: %d %d\n", run(engine), status);
  e2e_engine_close(engine);
  e2e_bundle_close(bundle);
  return 0;
}
