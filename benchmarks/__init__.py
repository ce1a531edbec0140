"""The benchmark: this cluster, etcd and PySyncObj under the same load, in turn: see docs/performance.md.

cli.py          the command: what is to be run, progress, the summary
plan.py         what is measured, of which systems, and in which order: A B B A
runner.py       one round: starts a load generator, watches the members' processes
clusters.py     starts and kills the clusters that are measured
ours.py         the one file that knows our client library's calls
etcd.py         etcd's members, and its key-value service as a Python program calls it
etcd_load.go    etcd's load generator in Go
pysyncobj_member.py, echo.py      members of the other two
work.py         the load itself: which keys are written and read, in what order
loops.py, load.py                 closed and open loops, and the process that runs them
singles.py      starting on a long log; memory; what is left after kill -9 of everything
rows.py, bars.py, report.py, plots.py     from records to figures, verdicts, tables and pictures
machine.py      what the kernel knows: CPU, memory, flushes of the disk
"""
