"""ONNX Runtime: the backend that runs everywhere, on a CPU or through a provider for NVIDIA GPUs."""
