"""What this machine can run, what it cannot, and what would change that. Never a traceback.

check      one thing that was looked at;  `report`: all of them, and the exit code
probe      packages are imported in child processes: one built for another processor ends its
           child with a signal, not the doctor
machine    processor and memory, the engines, PyTorch
gpu        driver, CUDA packages, TensorRT, plans;  `jetson`: release, power mode, clocks
bundle     every engine that reads a bundle loads it, replays its goldens and is timed, which
           is the whole truth about whether this machine can judge with it
"""

from .bundle import Asked
from .check import Check
from .report import DoctorReport, doctor

__all__ = ["Asked", "Check", "DoctorReport", "doctor"]
