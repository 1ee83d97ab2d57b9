// Coloured depth of a picture or a video, in C++ with OpenCV: near is red, far is blue; of a video it is steady.
//
//   depth_opencv BUNDLE PICTURE|VIDEO OUT.png|OUT.mp4
#include <e2e_deploy/e2e_deploy.h>

#include <cstdio>
#include <memory>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <stdexcept>
#include <string>

namespace {

struct Close {
  void operator()(e2e_bundle *bundle) const { e2e_bundle_close(bundle); }
  void operator()(e2e_engine *engine) const { e2e_engine_close(engine); }
  void operator()(e2e_steady *steady) const { e2e_steady_close(steady); }
};

struct Failure : std::runtime_error {
  Failure(int code, const std::string &what) : std::runtime_error(what), code(code) {}
  int code;
};

void check(int code) {
  if (code != E2E_OK) throw Failure(code, e2e_last_error());
}

class Depth {
 public:
  explicit Depth(const char *folder) {
    e2e_bundle *bundle = nullptr;
    check(e2e_bundle_open(folder, 1, &bundle));
    const std::unique_ptr<e2e_bundle, Close> opened(bundle);  // the engine goes on without it
    e2e_engine *engine = nullptr;
    check(e2e_engine_open(bundle, nullptr, &engine));
    engine_.reset(engine);
    e2e_steady *steady = nullptr;
    check(e2e_steady_open(&steady));
    steady_.reset(steady);
    e2e_engine_info info = E2E_ENGINE_INFO_INIT;
    check(e2e_engine_about(engine, &info));
    check(e2e_engine_output(engine, 0, &output_));
    if (info.batch != 1 || info.outputs != 1 || std::string(output_.form) != "distance")
      throw Failure(E2E_USAGE, "this program takes bundles that make one map of distances of one frame");
    about_ = std::string(info.backend) + " on " + info.device;
  }

  // 32 bits [height, width] of a BGR picture of any size.
  cv::Mat operator()(const cv::Mat &bgr, bool steady) {
    cv::Mat rgb, map(bgr.size(), CV_32F);
    cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
    e2e_frame frame = E2E_FRAME_INIT;
    frame.rgb = rgb.data;
    frame.row_bytes = rgb.step;
    frame.height = rgb.rows;
    frame.width = rgb.cols;
    e2e_result result = E2E_RESULT_INIT;
    result.values = map.ptr<float>();
    result.count = map.total();
    check(e2e_engine_run(engine_.get(), &frame, 1, &result, 1));
    if (steady) check(e2e_steady_run(steady_.get(), result.values, map.rows, map.cols, result.values, nullptr));
    return map;
  }

  cv::Mat colours(const cv::Mat &map) const {
    cv::Mat grey, bgr;
    const bool low_is_near = output_.power > 0;  // of depth; of disparity it is far
    map.convertTo(grey, CV_8U, low_is_near ? -255 : 255, low_is_near ? 255 : 0);
    cv::applyColorMap(grey, bgr, cv::COLORMAP_TURBO);
    return bgr;
  }

  const std::string &about() const { return about_; }

 private:
  std::unique_ptr<e2e_engine, Close> engine_;
  std::unique_ptr<e2e_steady, Close> steady_;
  e2e_output output_ = E2E_OUTPUT_INIT;
  std::string about_;
};

int run_video(Depth &depth, const std::string &source, const std::string &out) {
  cv::VideoCapture video(source);
  if (!video.isOpened()) throw Failure(E2E_INPUT, "OpenCV cannot read " + source);
  cv::VideoWriter writer;
  const double fps = video.get(cv::CAP_PROP_FPS) > 0 ? video.get(cv::CAP_PROP_FPS) : 30;
  int frames = 0;
  for (cv::Mat bgr; video.read(bgr); ++frames) {
    const cv::Mat colours = depth.colours(depth(bgr, true));
    if (frames == 0) writer.open(out, cv::VideoWriter::fourcc('m', 'p', '4', 'v'), fps, colours.size());
    if (!writer.isOpened()) throw Failure(E2E_FAILED, "OpenCV cannot write " + out);
    writer.write(colours);
  }
  if (frames == 0) throw Failure(E2E_INPUT, "there is no frame in " + source);
  return frames;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s BUNDLE PICTURE|VIDEO OUT.png|OUT.mp4\n", argv[0]);
    return E2E_USAGE;
  }
  cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);  // failures are told below
  try {
    const std::string source = argv[2], out = argv[3];
    Depth depth(argv[1]);
    int frames = 1;
    if (const cv::Mat picture = cv::imread(source, cv::IMREAD_COLOR); picture.empty())
      frames = run_video(depth, source, out);
    else if (!cv::imwrite(out, depth.colours(depth(picture, false))))
      throw Failure(E2E_FAILED, "OpenCV cannot write " + out);
    std::printf("%s: %d frame%s; %s\n", out.c_str(), frames, frames == 1 ? "" : "s", depth.about().c_str());
    return E2E_OK;
  } catch (const Failure &failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return failure.code;
  } catch (const cv::Exception &error) {
    std::fprintf(stderr, "OpenCV: %s\n", error.err.c_str());
    return E2E_FAILED;
  }
}
