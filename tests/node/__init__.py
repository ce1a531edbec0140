"""The shell around the algorithm: the turn, the transport, the service, the server, and whole nodes in one process."""
