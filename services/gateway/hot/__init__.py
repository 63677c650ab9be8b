"""The hot path of predictions: what one turn of the event loop brings, one call of the student answers."""
