"""The greedy loops compiled for the CPU by numba (`pip install '.[fast]'`): the same picks, without dispatch.

Similarities come as int32 multiples of 2^-30, so that their sums in int64 are exact whatever the order.
"""
