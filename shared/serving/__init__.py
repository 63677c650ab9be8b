"""The student in process: a bundle on ONNX Runtime, and images made ready for it. Loads no torch."""
