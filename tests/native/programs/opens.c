/* opens [hashed|unhashed] [ONNXRUNTIME]: opens the bundle in each folder that standard input names, a line each, and an
   engine of it; prints the code of what fails first, or 0, and what it says. In the user's locale. */
#include <e2e_deploy/e2e_deploy.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  static char folder[4096];
  int hash_check = argc < 2 || strcmp(argv[1], "unhashed") != 0;
  setlocale(LC_ALL, "");
  while (fgets(folder, sizeof folder, stdin) != NULL) {
    e2e_engine_options options = E2E_ENGINE_OPTIONS_INIT;
    e2e_bundle *bundle = NULL;
    e2e_engine *engine = NULL;
    int code;
    folder[strcspn(folder, "\n")] = '\0';
    options.threads = 1;
    if (argc > 2) options.onnxruntime = argv[2];
    code = e2e_bundle_open(folder, hash_check, &bundle);
    if (code == E2E_OK) code = e2e_engine_open(bundle, &options, &engine);
    printf("%d %s\n", code, code == E2E_OK ? "" : e2e_last_error());
    e2e_engine_close(engine);
    e2e_bundle_close(bundle);
  }
  return 0;
}
