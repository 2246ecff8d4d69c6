"""Plan, measure, judge and record cases: what pytest, command line and API share."""
