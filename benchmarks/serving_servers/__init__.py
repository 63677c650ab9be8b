"""What the gateway is compared with: each a script that runs alone, in an environment of its own."""
