"""The three networks as graphs that small runtimes run without torch's modules: ONNX and OpenVINO."""
