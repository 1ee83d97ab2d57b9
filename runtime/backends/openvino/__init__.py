"""OpenVINO: the bundle's own ONNX graph on a CPU, an Intel GPU or an NPU; bf16 where a CPU has units for it."""
