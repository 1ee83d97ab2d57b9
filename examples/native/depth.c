/*
 * Depth of one picture, in C.
 *
 *   depth BUNDLE PICTURE.ppm DEPTH.pfm      float32, as the engine gives it
 *   depth BUNDLE PICTURE.ppm DEPTH.pgm      16 bits: 0 and 65535 are the ends of the result's range
 */
#include <ctype.h>
#include <e2e_deploy/e2e_deploy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PIXELS 100000000

/* A number of a PPM's header and the one blank after it; -1 where there is none. A comment runs from # to its line's end. */
static int next_number(FILE *file) {
  int value = 0, c = fgetc(file);
  while (isspace(c) || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF) c = fgetc(file);
    else
      c = fgetc(file);
  }
  if (!isdigit(c)) return -1;
  for (; isdigit(c) && value <= MOST_PIXELS; c = fgetc(file)) value = 10 * value + (c - '0');
  return value;
}

/* A binary PPM of 8 bits into memory that is to be freed; its size goes into the frame. NULL where it is none. */
static unsigned char *read_ppm(const char *path, e2e_frame *frame) {
  unsigned char *rgb = NULL;
  FILE *file = fopen(path, "rb");
  if (file == NULL) return NULL;
  if (fgetc(file) == 'P' && fgetc(file) == '6') {
    const int width = next_number(file), height = next_number(file), most = next_number(file);
    if (width > 0 && height > 0 && width <= MOST_PIXELS / height && most == 255) {
      const size_t bytes = 3 * (size_t)width * (size_t)height;
      rgb = malloc(bytes);
      if (rgb != NULL && fread(rgb, 1, bytes, file) == bytes) {
        frame->rgb = rgb;
        frame->width = width;
        frame->height = height;
      } else {
        free(rgb);
        rgb = NULL;
      }
    }
  }
  fclose(file);
  return rgb;
}

/* Float32, rows from the bottom to the top; the sign of the scale tells the order of bytes. */
static void write_pfm(FILE *file, const float *values, int width, int height) {
  const int one = 1;
  int row;
  fprintf(file, "Pf\n%d %d\n%s\n", width, height, *(const char *)&one ? "-1.0" : "1.0");
  for (row = height - 1; row >= 0; row--)
    fwrite(values + (size_t)row * (size_t)width, sizeof(float), (size_t)width, file);
}

/* 16 bits, the high byte first. */
static void write_pgm(FILE *file, const float *values, int width, int height, const e2e_output *output) {
  const size_t count = (size_t)width * (size_t)height;
  size_t i;
  fprintf(file, "P5\n%d %d\n65535\n", width, height);
  for (i = 0; i < count; i++) {
    const double share = (values[i] - output->low) / (output->high - output->low);
    const unsigned code = share >= 1 ? 65535U : share > 0 ? (unsigned)(65535 * share + 0.5) : 0U;
    fputc((int)(code >> 8), file);
    fputc((int)(code & 255U), file);
  }
}

static int write_map(const char *path, const float *values, const e2e_frame *frame, const e2e_output *output) {
  const char *ending = strrchr(path, '.');
  FILE *file = fopen(path, "wb");
  int failed;
  if (file == NULL) return 0;
  if (ending != NULL && strcmp(ending, ".pgm") == 0)
    write_pgm(file, values, frame->width, frame->height, output);
  else
    write_pfm(file, values, frame->width, frame->height);
  failed = ferror(file);
  if (fclose(file) != 0) failed = 1;
  if (failed) remove(path);
  return !failed;
}

int main(int argc, char **argv) {
  e2e_bundle *bundle = NULL;
  e2e_engine *engine = NULL;
  e2e_engine_info info = E2E_ENGINE_INFO_INIT;
  e2e_output output = E2E_OUTPUT_INIT;
  e2e_frame frame = E2E_FRAME_INIT;
  e2e_result depth = E2E_RESULT_INIT;
  unsigned char *rgb = NULL;
  int code = E2E_USAGE;

  if (argc != 4) {
    fprintf(stderr, "usage: %s BUNDLE PICTURE.ppm DEPTH.pfm|DEPTH.pgm\n", argv[0]);
    return code;
  }
  if (e2e_bundle_open(argv[1], 1, &bundle) != E2E_OK || e2e_engine_open(bundle, NULL, &engine) != E2E_OK ||
      e2e_engine_about(engine, &info) != E2E_OK || e2e_engine_output(engine, 0, &output) != E2E_OK) {
    fprintf(stderr, "%s\n", e2e_last_error());
    code = e2e_last_code();
  } else if (info.batch != 1 || info.outputs != 1 || output.channels != 1) {
    fprintf(stderr, "this program takes bundles that make one map of one frame\n");
  } else if ((rgb = read_ppm(argv[2], &frame)) == NULL) {
    fprintf(stderr, "%s is no binary PPM of 8 bits (P6), or cannot be read\n", argv[2]);
    code = E2E_INPUT;
  } else {
    depth.count = (size_t)frame.width * (size_t)frame.height;
    depth.values = malloc(depth.count * sizeof(float));
    if (depth.values == NULL) {
      fprintf(stderr, "no memory for %dx%d pixels\n", frame.width, frame.height);
      code = E2E_UNAVAILABLE;
    } else if (e2e_engine_run(engine, &frame, 1, &depth, 1) != E2E_OK) {
      fprintf(stderr, "%s\n", e2e_last_error());
      code = e2e_last_code();
    } else if (!write_map(argv[3], depth.values, &frame, &output)) {
      fprintf(stderr, "%s cannot be written\n", argv[3]);
      code = E2E_FAILED;
    } else {
      printf("%s: %s, %dx%d; %s on %s\n", argv[3], output.meaning, frame.width, frame.height, info.backend, info.device);
      code = E2E_OK;
    }
  }
  free(depth.values);
  free(rgb);
  e2e_engine_close(engine);
  e2e_bundle_close(bundle);
  return code;
}
