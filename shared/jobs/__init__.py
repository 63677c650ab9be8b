"""What a job may do: its states, its service, the ports it needs."""
