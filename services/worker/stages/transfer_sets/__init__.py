"""The parts of the transfer-set stage; `services.worker.stages.transfer_set` puts them together."""
