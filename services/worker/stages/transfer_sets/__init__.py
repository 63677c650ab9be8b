"""The transfer-set stage: `stage` puts the parts beside it together."""
