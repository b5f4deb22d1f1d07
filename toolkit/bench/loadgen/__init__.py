"""MLPerf-style scenarios, driven by MLCommons' load generator (package mlcommons-loadgen, extra [bench]).

The generator and the model run in a process of their own, because the generator cannot be interrupted from within, and a
crash of either must not take the report with it. `process` starts and calls that process, `sut` is the system under test in
it, `log` reads the generator's log, `search` finds the highest rate of the server scenario, `runs` runs one scenario.
"""
