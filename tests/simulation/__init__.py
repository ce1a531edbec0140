"""The simulator: a whole cluster, its clients, networks, disks and clocks in one thread. docs/testing.md introduces
it."""
