"""MLPerf-style scenarios, driven by MLCommons' load generator (package mlcommons-loadgen, extra [bench]).

The generator and the model run in a process of their own: it cannot be interrupted from within, and a crash of either
must not take the report with it. `process` is that process, `sut` what runs in it, `log` reads what the generator wrote,
`search` finds the highest rate of the server scenario, `runs` puts them together for one scenario.
"""
