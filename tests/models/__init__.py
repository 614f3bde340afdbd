"""The protocols as models in plain Python, small enough to be run through in every order of steps there is.

One file per protocol, one explorer for all of them. `python -m tests.models` lists them, `python -m tests.models NAME`
runs one, and `--without STEP` leaves out a step and prints the shortest way in which that goes wrong.
"""
