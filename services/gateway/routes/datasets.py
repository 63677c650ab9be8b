"""Datasets: upload one, look at what there is."""

from fastapi import APIRouter

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])
