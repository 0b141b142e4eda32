"""Everything that passes between the control side and the programs on a host. Standard library only.

A request goes to a program's stdin as one JSON document, answers come back as JSON lines on its stdout; `wire` reads
and writes them. Times are Unix nanoseconds, 0 = never, where a name ends in `_ns`; seconds where it ends in `_s`.
"""
