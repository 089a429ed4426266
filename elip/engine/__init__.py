"""The training engine: one loop, one evaluation and one form of checkpoint for every task.

It knows the contract in `elip.task` and no concrete task or model.
"""
