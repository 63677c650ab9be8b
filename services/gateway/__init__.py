"""Takes jobs, data and promotions; answers predictions at T = 1."""
