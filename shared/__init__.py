"""The core: the method, the formats and the contracts. Loads and runs without a server, a broker or a GPU."""
