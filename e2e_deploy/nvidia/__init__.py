"""The one adapter to NVIDIA's libraries: TensorRT, TensorRT-RTX and the driver."""
