"""A student bundle answering in process on ONNX Runtime."""
