"""The greedy loops as Triton kernels: one launch a selection, one program an image, the picks of the loops in torch.

A matrix of similarities is made by one product before. What changes from pick to pick stays in registers; a pick costs
a few reductions over the block, and rows of the matrix from the second-level cache. Similarities are int32 multiples of
2^-30 and their sums int64, so nothing that is compared was rounded on the way, and ties go to the lower index.
"""
