"""The bridge to autograd: the only file that subclasses `torch.autograd.Function`.

    Call ──backward──► Pullback     Jᵀc ──► PullbackAlong      its derivative by x
      │                                └──► Transpose Ĵu       and by c
      └────jvp───────► Pushforward  Jv  ──► PushforwardAlong   its derivative by x

NOTE [one Function is not enough]: a backward that computes its derivative with NumPy is a
constant in the eyes of autograd, and a second derivative through it is silently zero. So the
backward of each Function applies other Functions, whose own backward is right or raises. What
would need third derivatives of f raises.

NOTE [vmap is a leading axis]: the `vmap` of every Function applies the same Function again, with
one more leading axis on its tensors. The tensors of a group (leaves, cotangents, tangents) have
it in full, or of size 1 where none of the group is mapped: nothing is evaluated twice.
"""

from __future__ import annotations

from suture._bridge._first import call

__all__ = ["call"]
