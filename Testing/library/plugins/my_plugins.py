"""Registers both plug-ins when it is imported."""

from bias_field_task import TASK
from residual_encoder import FAMILY

from VFMTransferLib import encoders, tasks

tasks.register(TASK)
encoders.register(FAMILY)
