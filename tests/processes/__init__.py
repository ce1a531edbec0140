"""Real nodes, as processes of their own."""
