"""The Open Inference Protocol v2: the student as Triton, KServe and MLServer would serve it."""
