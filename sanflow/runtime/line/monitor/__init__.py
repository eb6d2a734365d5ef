"""Looking at a station: metrics, health, drift, a summary per day and a page, on one HTTP port.

`options` is what a user may choose, `output` what is told of each result; it lives in the slow
process like any other output, so that nobody who looks makes a verdict late. `metrics`, `health`,
`drift`, `summary` and `page` are one view each, `server` hands them out.
"""
