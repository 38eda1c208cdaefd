"""Where the black box is called: anything with the `submit` of `concurrent.futures`.

`Workers` are local processes in which a fault costs nothing but the task that it hit.
"""

from suture.executors._workers import Workers as Workers

__all__ = ["Workers"]
