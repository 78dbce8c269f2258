"""The steps of the night, one file per step: a pure transform plus a thin command line."""
