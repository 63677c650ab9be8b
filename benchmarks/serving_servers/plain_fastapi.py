"""FastAPI, Pillow and ONNX Runtime as most would write it: one route, the raw body, one call an image.

python plain_fastapi.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import io
import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

PORT, MODEL, CHANNELS = int(sys.argv[1]), sys.argv[2], int(sys.argv[5])

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(MODEL, options)
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> dict[str, list[float]]:
    """Return the probabilities."""
    image = Image.open(io.BytesIO(await request.body())).convert("L" if CHANNELS == 1 else "RGB")
    pixels = np.asarray(image, dtype=np.uint8).reshape(1, image.height, image.width, CHANNELS)
    (probabilities,) = session.run(["probabilities"], {"images": pixels})
    return {"probabilities": probabilities[0].tolist()}


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning", access_log=False)
