"""Faults on real processes: theory of operation.

    nemesis.py    the run: a storm of faults under a workload, then peace, then the verdict; the command line
    faults.py     what can be done to a cluster, each fault a small script
    workload.py   the clients, and the history of what they did and were told
    aftermath.py  what must hold when the storm is over
    report.py     figures for people, and the plot
    sandbox.py    Linux namespaces for the run: its own network, mounts and processes
    network.py    the network between the nodes, as the faults see it
    switch.py     ... where there is a sandbox: a switch for IP packets, in a process of its own
    proxy.py      ... elsewhere: a proxy for each ordered pair of nodes, in a process of its own
    proxied_node.py    a node whose connections go through these proxies
    measure.py    how long a failover takes, and whether load causes elections

The nodes are the real ones (`tests.support.processes`), gRPC is real, and so is the disk unless strace stands in front
of it. Nothing is mocked, so a run can't be repeated event by event: a seed repeats the schedule of the faults and what
the clients want, and the machine does the rest. What a run has found is in its history, which the checker judges.
"""
